"""The Mongo-wire server: the user's own, a real mongod, or the embedded one; in this order."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from stripe_platform.embedded import processes, releases
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.places import Place
from stripe_platform.embedded.processes import Proc

START_SECONDS = 90.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """A server program with its arguments, and the connection URL under which clients find it."""

    kind: str  # mongod | embedded
    version: str
    command: tuple[str, ...]
    data: Path
    uri: str


def choose(place: Place, port: int) -> Program:
    """A real mongod (MONGOD_BIN or on PATH), else the embedded server of the lock file."""
    mongod = os.environ.get("MONGOD_BIN") or shutil.which("mongod")
    if mongod:
        if not Path(mongod).is_file():
            raise ServerError(f"MONGOD_BIN names {mongod}, which is not a program: correct it, or unset it")
        data = place.folder("mongod")
        command: tuple[str, ...] = (mongod, "--dbpath", str(data), "--port", str(port), "--bind_ip",
                                    "127.0.0.1", "--replSet", "rs0")
        return Program("mongod", _mongod_version(mongod), command, data, f"mongodb://127.0.0.1:{port}/?replicaSet=rs0")
    release, environment = releases.obtain()
    data = place.folder(f"documents-{release.data_format}")
    package = place.program([environment / "secantusdb.scripts", environment / "secantusdb.libs"])
    server = package / "secantusdb.scripts" / "secantusd-rs"
    command = (str(server), "--port", str(port), "--storage-path", str(data), *release.flags)
    return Program("embedded", release.version, command, data, f"mongodb://127.0.0.1:{port}/?directConnection=true")


def start(program: Program, place: Place, port: int, known: Proc | None) -> Proc:
    """Start and wait until it answers as a writable primary; the running one is left alone."""
    if known is not None and known.running():
        _wait_ready(program, known, place)
        return known
    if not processes.port_is_free(port):
        raise ServerError(
            f"Port {port} of the document server is taken by {processes.listener(port)}: stop that program, or delete "
            f"{place.home / 'ports.json'} to have new ports chosen"
        )
    log = log_file(place)
    log.touch(mode=0o600)
    place.own(log)
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal that ran `up` must not end the server.
        child = subprocess.Popen(program.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                 start_new_session=True, **place.identity())
    running = Proc.of(child.pid)
    if running is None:
        raise ServerError(f"The document server ended while starting: see the last lines of {log}")
    _wait_ready(program, running, place)
    return running


def stop(known: Proc | None) -> None:
    """SIGTERM to exactly the process that was started, and wait for its end."""
    if known is not None and not known.stop(STOP_SECONDS):
        raise ServerError(f"The document server (pid {known.pid}) did not stop within {STOP_SECONDS:.0f} s: kill it")


def log_file(place: Place) -> Path:
    return place.data / "documents.log"


def kind_of(client: pymongo.MongoClient[Any]) -> str:
    """embedded | sharded | replicaset | standalone, from what the server says (never from its version alone)."""
    if "secantusVersion" in client.server_info():
        return "embedded"
    hello = client.admin.command("hello")
    if hello.get("msg") == "isdbgrid":
        return "sharded"
    return "replicaset" if hello.get("setName") else "standalone"


def check_external(uri: str) -> str:
    """Version and kind of the user's own server; refuses one without transactions and change streams."""
    try:
        with pymongo.MongoClient[Any](uri, serverSelectionTimeoutMS=10_000) as client:
            version, kind = client.server_info()["version"], kind_of(client)
    except PyMongoError as error:
        raise ServerError(
            f"The MongoDB of MONGODB_URI does not answer ({type(error).__name__}): start it, correct the variable, or "
            "unset it to use the embedded server"
        ) from None
    if kind == "standalone":
        raise ServerError("The MongoDB of MONGODB_URI is a standalone server without transactions: use a replica set")
    return f"{version} ({kind})"


def _wait_ready(program: Program, running: Proc, place: Place) -> None:
    limit = time.monotonic() + START_SECONDS
    port_uri = program.uri.split("/?")[0] + "/?directConnection=true"
    with pymongo.MongoClient[Any](port_uri, serverSelectionTimeoutMS=200) as client:
        while not _primary(program, client):
            if not running.running():
                raise ServerError(f"The document server ended while starting: see the last lines of {log_file(place)}")
            if time.monotonic() > limit:
                raise ServerError(
                    f"The document server (pid {running.pid}) did not answer within {START_SECONDS:.0f} s: see "
                    f"{log_file(place)}"
                )
            time.sleep(0.02)


def _primary(program: Program, client: pymongo.MongoClient[Any]) -> bool:
    """True when the server takes writes; a fresh mongod is made a replica set of one."""
    try:
        hello = client.admin.command("hello")
        if program.kind == "mongod" and not hello.get("setName"):
            host = program.uri.removeprefix("mongodb://").split("/")[0]
            config = {"_id": "rs0", "members": [{"_id": 0, "host": host}]}
            try:
                client.admin.command("replSetInitiate", config)
            except OperationFailure as error:
                if error.code != 23:  # already initiated: it only has not become primary yet
                    raise
            return False
        return bool(hello.get("isWritablePrimary"))
    except PyMongoError:
        return False


def _mongod_version(mongod: str) -> str:
    done = subprocess.run([mongod, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n", 1)[0].removeprefix("db version v") or "unknown"
