"""The Mongo-wire server on this machine: a real mongod when there is one, else the embedded one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from stripe_platform.embedded import processes, releases
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.places import Place
from stripe_platform.embedded.processes import Proc

START_SECONDS = 900  # killed, it replays its whole log: 400 s behind 4.6 million documents
STOP_SECONDS = 300  # it writes out what its cache holds: 90 s behind a million documents
# A million charges want 1.9 GB: with 512 MB inserts fell from 12,000 a second to 4,000, with 4 GB to 7,300.
CACHE_MB, SHARE_OF_MEMORY = (512, 4096), 1 / 6
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """A server program with its arguments, its data folder, and the URL under which clients find it."""

    kind: str  # mongod | embedded
    version: str
    command: tuple[str, ...]
    data: Path
    uri: str


def choose(place: Place, port: int, variables: Mapping[str, str]) -> Program:
    """A real mongod (MONGOD_BIN or on PATH), else the embedded server of the lock file."""
    mongod = variables.get("MONGOD_BIN") or shutil.which("mongod")
    if mongod:
        if not Path(mongod).is_file():
            raise ServerError(f"MONGOD_BIN names {mongod}, which is not a program: correct it, or unset it")
        data = place.folder("mongod")
        command = [mongod, "--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--replSet", "rs0"]
        uri = f"mongodb://127.0.0.1:{port}/?replicaSet=rs0"
        return Program("mongod", _mongod_version(mongod), tuple(command), data, uri)
    release, environment = releases.obtain()
    name = f"documents-{release.version}"
    others = [p.name for p in place.data.glob("documents-*") if p.is_dir()]
    if others and name not in others:
        log.warning("Document server %s cannot read the data of %s: materialize the documents again",
                    release.version, others[0].removeprefix("documents-"))
    data = place.folder(name)
    if release.kind == "native":
        inside = releases.packages(environment)
        copied = place.program([inside / "secantusdb.scripts", inside / "secantusdb.libs"])
        command = [str(copied / "secantusdb.scripts" / "secantusd-rs")]
    else:
        command = list(releases.server_command(release, environment))
    command += ["--port", str(port), "--storage-path", str(data), "--cache-size", f"{_cache_mb()}M", *release.flags]
    return Program("embedded", release.version, tuple(command), data,
                   f"mongodb://127.0.0.1:{port}/?directConnection=true")


def find(data: Path, known: Proc | None) -> Proc | None:
    """The running server of a data folder: the remembered process, else (an `up` was killed) by its folder."""
    if known is not None and known.running():
        return known
    for program in ("secantusd", "mongod", "python"):
        if data.is_dir() and (found := processes.working_in(data, program)):
            return found[0]
    return None


def start(program: Program, place: Place, port: int, known: Proc | None) -> Proc:
    """Start and wait until it takes writes; the running one is left alone, unless it has another port."""
    running = find(program.data, known)
    if running is not None:
        if str(port) not in processes.arguments(running):
            stop(program.data, running)
        elif _answers(program, running, place):  # else it was just ending
            return running
    elif known is not None:
        log.warning("The document server had ended without `down` (it was pid %d): it recovers from its log", known.pid)
    if not processes.port_is_free(port):
        raise ServerError(
            f"Port {port} of the document server is taken by {processes.listener(port)}: stop that program, or delete "
            f"{place.home / 'ports.json'} to have new ports chosen"
        )
    running = _launch(program, place)
    if running is None or not _answers(program, running, place):
        raise ServerError(f"The document server ended while starting: see the end of {log_file(place)}")
    return running


def stop(data: Path, known: Proc | None, signal_number: int = signal.SIGTERM) -> None:
    """Ask the remembered server and any other of this data folder to end, and wait for it."""
    for running in (find(data, known), find(data, None)):
        if running is not None and not running.stop(STOP_SECONDS, signal_number):
            raise ServerError(f"The document server (pid {running.pid}) did not stop within {STOP_SECONDS} s: kill it")


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


def check_external(uri: str, seconds: float = 10) -> str:
    """Version and kind of the user's own server; refuses one without transactions and change streams."""
    try:
        with pymongo.MongoClient[Any](uri, serverSelectionTimeoutMS=round(seconds * 1000)) as client:
            version, kind = client.server_info()["version"], kind_of(client)
    except PyMongoError as error:
        raise ServerError(
            f"The MongoDB of MONGODB_URI does not answer ({type(error).__name__}): start it, correct the variable, or "
            "unset it to use the embedded server"
        ) from None
    if kind == "standalone":
        raise ServerError("The MongoDB of MONGODB_URI is a standalone server without transactions: use a replica set")
    return f"{version} ({kind})"


def _launch(program: Program, place: Place) -> Proc | None:
    """Start the program detached, so that neither Ctrl-C nor the end of `up` ends it and no zombie is left to us."""
    path = log_file(place)
    path.touch(mode=0o600)
    place.own(path)
    identity = place.identity()
    if not place.reachable(Path(program.command[0])):  # the Python server, when Python itself is in a private folder
        identity = {"env": identity["env"], "umask": 0o077}
    done = subprocess.run(["sh", "-c", '"$@" >>"$0" 2>&1 & echo $!', str(path), *program.command],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, check=True,
                          text=True, **{**identity, "cwd": program.data})
    return Proc.of(int(done.stdout))


def _answers(program: Program, running: Proc, place: Place) -> bool:
    """Wait until the server takes writes; False when it ends instead."""
    limit = time.monotonic() + START_SECONDS
    direct = program.uri.split("/?")[0] + "/?directConnection=true"
    with pymongo.MongoClient[Any](direct, serverSelectionTimeoutMS=200) as client:
        while not _primary(program, client):
            if not running.running():
                return False
            if time.monotonic() > limit:
                raise ServerError(
                    f"The document server (pid {running.pid}) did not answer within {START_SECONDS} s: see "
                    f"{log_file(place)}"
                )
            time.sleep(0.02)
    return True


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


def _cache_mb() -> int:
    """A sixth of the machine's memory, within bounds: three servers and a run share it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    least, most = CACHE_MB
    return min(max(int(memory * SHARE_OF_MEMORY) >> 20, least), most)


def _mongod_version(mongod: str) -> str:
    done = subprocess.run([mongod, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n", 1)[0].removeprefix("db version v") or "unknown"
