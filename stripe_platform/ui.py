"""The Dagster webserver and daemon on this machine, as two children that end with us."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from stripe_platform.settings import PROJECT_ROOT

START_SECONDS = 120


class PortTakenError(RuntimeError):
    """Another program listens on the port asked for."""


def serve(port: int) -> None:
    """Run `dagster-webserver` and `dagster-daemon` until interrupted; both are stopped by id, then verified gone."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortTakenError(f"port {port} is taken: choose another with --port") from None
    tools, workspace = Path(sys.executable).parent, str(PROJECT_ROOT / "workspace.yaml")
    # A clean stop on SIGTERM too: otherwise a supervisor leaves the children behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    children = [
        subprocess.Popen([tools / "dagster-webserver", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]),
        subprocess.Popen([tools / "dagster-daemon", "run", "-w", workspace]),
    ]
    try:
        _wait(f"http://127.0.0.1:{port}/server_info", children)
        print(f"\nDagster is open at http://127.0.0.1:{port}/asset-groups — stop with Ctrl-C\n", flush=True)
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        raise RuntimeError("the webserver or the daemon ended by itself; its last lines above say why")
    except KeyboardInterrupt:
        pass
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)
        for child in children:
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(url: str, children: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            raise RuntimeError("the webserver or the daemon did not start; its last lines above say why")
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 loopback
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"the webserver did not answer within {START_SECONDS} s")
