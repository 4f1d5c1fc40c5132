"""Sends one dbt command to the warm server; runs dbt itself when there is none.

Imports nothing heavy on purpose, not even pathlib: it must start in milliseconds.
"""

import array
import json
import os
import socket
import sys
import time

WAIT_SECONDS = 60  # a starting server is ready sooner than a second start from nothing


def connect(path: str, server: int) -> socket.socket:
    """A connection to the server, waiting while it starts; `OSError` when there is none."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not os.path.exists(path) and time.monotonic() < deadline:  # noqa: PTH110
        os.kill(server, 0)
        time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def main() -> int:
    """Exit code of the dbt command; its output goes to this process's standard output as it comes."""
    path, _, server = os.environ.get("STRIPE_PLATFORM_DBT_SERVER", "").rpartition(":")
    try:
        connection = connect(path, int(server))
    except (OSError, ValueError):  # none was started, or it is gone: the same command, only slower
        os.execv(sys.executable, [sys.executable, "-m", "stripe_platform.warehouse.dbt_command", *sys.argv[1:]])  # noqa: S606
    request = json.dumps({"args": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}) + "\n"  # noqa: PTH109
    output = array.array("i", [sys.stdout.fileno()])
    sent = connection.sendmsg([request.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, output)])
    connection.sendall(request.encode()[sent:])
    code = connection.recv(1)
    return code[0] if code else 2


if __name__ == "__main__":
    sys.exit(main())
