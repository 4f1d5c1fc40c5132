"""The Dagster webserver and daemon on this machine: two children that end with us, and all they started too."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stripe_platform.settings import PROJECT_ROOT

START_SECONDS = 120
STOP_SECONDS = 8


class UiError(RuntimeError):
    """The UI cannot be opened; the message says why and what to do."""


@contextmanager
def opened(home: Path, port: int) -> Iterator[IO[str]]:
    """Be the only UI of this data folder, with `port` free; what a killed one left behind is ended first.

    Yields the file whose lock the children inherit, in which their process groups are written down.
    """
    with (home / "ui.lock").open("a") as ours, (home / "ui.children").open("a+") as theirs:
        if not _lock(ours):
            raise UiError(f"the UI of {home} is open already: use it, or stop it first")
        if not _lock(theirs):
            theirs.seek(0)
            _end([int(group) for group in theirs.read().split()])
            if not _lock(theirs):
                raise UiError(f"processes of an earlier UI do not end: stop those named in {theirs.name}")
        theirs.truncate(0)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise UiError(f"port {port} is taken: choose another with --port") from None
        yield theirs


def serve(port: int, record: IO[str]) -> None:
    """Run `dagster-webserver` and `dagster-daemon` until interrupted; nothing they started outlives them.

    A run in progress is cut off; the next `ui` marks it as failed and the next run does its days again.
    """
    tools, workspace = Path(sys.executable).parent, str(PROJECT_ROOT / "workspace.yaml")
    # A clean stop for a supervisor and a closed terminal too: otherwise the children stay behind.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(0))
    children: list[subprocess.Popen] = []
    try:
        # A process group for each: code servers and runs are their children, and a code server waits for its runs.
        for name, options in (("dagster-webserver", ["-h", "127.0.0.1", "-p", str(port)]), ("dagster-daemon", ["run"])):
            children.append(subprocess.Popen(
                [tools / name, *options, "-w", workspace], start_new_session=True, pass_fds=[record.fileno()]))
            print(children[-1].pid, file=record, flush=True)
        _wait(f"http://127.0.0.1:{port}/server_info", children)
        print(f"\nDagster is open at http://127.0.0.1:{port}/asset-groups — stop with Ctrl-C\n", flush=True)
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        raise UiError("the webserver or the daemon ended by itself; its last lines above say why")
    except KeyboardInterrupt:
        pass
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(0.0, deadline - time.monotonic()))
        _end([child.pid for child in children])
        for child in children:
            child.wait()


def _wait(url: str, children: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            raise UiError("the webserver or the daemon did not start; its last lines above say why")
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 loopback
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise UiError(f"the webserver did not answer within {START_SECONDS} s")


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(groups: list[int]) -> None:
    """End every process of these groups: asked first, then killed."""
    for strength in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS / 4
        while groups := [group for group in groups if _signal(group, strength)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)


def _signal(group: int, strength: signal.Signals) -> bool:
    try:
        os.killpg(group, strength)
    except ProcessLookupError:
        return False
    return True
