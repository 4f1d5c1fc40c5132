"""A process that has dbt imported and the manifest loaded, and forks once per dbt command.

A dbt command costs about 7 s of CPU before its first node: 5 s of imports, 2 s of parsing and templates. A fork of
this process starts in 0.2 s and shares nothing with other commands. It ends with the process that started it.
"""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

MAX_REQUEST = 1 << 20
SERVER = "STRIPE_PLATFORM_DBT_SERVER"  # `<socket>:<process id>` for dbt_client
CLIENT = Path(__file__).with_name("dbt_client.py")


class WarmDbt:
    """Starts the server in the background; until it is ready, and whenever it is gone, commands run without it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dbt-"))  # mode 0700: only this user may send commands
        self.socket = self._folder / "s"
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stripe_platform.warehouse.dbt_server", str(self.socket)],
                stdin=subprocess.PIPE, stdout=log, stderr=log,
            )

    @property
    def address(self) -> str:
        """Value of the variable `SERVER`."""
        return f"{self.socket}:{self._process.pid}"

    def words(self) -> str:
        """The last lines the server wrote: why it ended, when it did."""
        return (self._folder / "log").read_text(errors="replace")[-1000:].strip()

    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, seconds: float = 60) -> bool:
        """Whether the server answers within the time; for tests and for callers with time to spare."""
        waiter = threading.Event()
        for _ in range(int(seconds * 20)):
            if self.socket.exists() or self._process.poll() is not None:
                break
            waiter.wait(0.05)
        return self.socket.exists()

    def close(self) -> None:
        """End the server, which it also does on its own when this process dies. Commands under way go on."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()  # it holds nothing that needs an orderly end
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(path: str) -> None:
    """Warm up, then fork one child per connection until standard input closes."""
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()
    prepare()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path + ".new")
    server.listen(8)
    Path(path + ".new").rename(path)  # whoever sees the name can connect
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    while True:
        connection, _ = server.accept()
        with connection:
            if os.fork() == 0:
                server.close()
                _answer(connection)


def prepare() -> None:
    """Import dbt and its adapter, load the manifest, and render macros once: `list` needs no database."""
    import importlib

    from stripe_platform.settings import load_settings
    from stripe_platform.warehouse import dbt_command

    importlib.import_module(f"dbt.adapters.{load_settings().warehouse}")
    with tempfile.TemporaryDirectory() as logs:
        dbt_command.run(["list", "--quiet", "--select", "tag:facts", "--target-path", logs, "--log-path", logs])


def _end_with_parent(path: str) -> None:
    sys.stdin.buffer.read()
    Path(path).unlink(missing_ok=True)
    os._exit(0)


def _answer(connection: socket.socket) -> None:
    """In the child: take arguments, environment, folder and output of the client, run dbt, send the exit code."""
    code, done = 2, threading.Event()
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, output = _receive(connection)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        threading.Thread(target=_stop_when_client_dies, args=(connection, done), daemon=True).start()
        from stripe_platform.warehouse.dbt_command import main

        code = main(request["args"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        done.set()  # from here on the client may go
        connection.sendall(bytes([code]))
        os._exit(code)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], int]:
    descriptors = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(descriptors.itemsize))
    for _level, _type, raw in ancillary:
        descriptors.frombytes(raw[: descriptors.itemsize])
    while not data.endswith(b"\n"):
        more = connection.recv(MAX_REQUEST)
        if not more:
            raise ConnectionError("the client closed before its request was complete")
        data += more
    return json.loads(data), descriptors[0]


def _stop_when_client_dies(connection: socket.socket, done: threading.Event) -> None:
    connection.recv(1)
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    serve(sys.argv[1])
