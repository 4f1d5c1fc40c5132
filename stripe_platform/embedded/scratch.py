"""A folder for one drill: its servers and files are gone afterwards, also when the drill is killed with kill -9.

The drill holds a lock on the folder. A warden in a session of its own waits for that lock: it gets it when the drill
ends, however it ends, and then clears what is left. A drill that starts clears what a killed warden left.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stripe_platform.embedded import places
from stripe_platform.embedded.errors import ServerError

LOCK = "owner.lock"
PROGRAMS = ("postgres", "pg_", "initdb")


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A new folder below `parent`; homes of servers made directly inside it are cleared with it."""
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{name}-*"):
        _clear_if_left(old)
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    home.chmod(0o711)  # the servers' user passes through; what is inside has its own modes
    with (home / LOCK).open("a") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        warden = subprocess.Popen([sys.executable, "-m", __name__, str(home)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            yield home
        finally:
            clear(home)
    warden.wait(30)


def clear(home: Path) -> None:
    """End every server below a scratch folder, then delete their data and the folder."""
    limit = time.monotonic() + 30
    while True:  # a program of a killed drill may still be starting a server or writing a file
        folders = [home, *(place.data for child in home.glob("*") if (place := places.find(child)))]
        for folder in folders:
            _end_programs(folder)
        for folder in reversed(folders):
            shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.exists() for folder in folders):
            return
        if time.monotonic() > limit:
            raise ServerError(f"{home} could not be cleared: end the processes that work in it, then delete it")
        time.sleep(0.2)


def _clear_if_left(home: Path) -> None:
    """Clear the folder of a drill that is gone; that of one that runs is left alone."""
    try:
        with (home / LOCK).open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            clear(home)
    except (BlockingIOError, FileNotFoundError):
        return


def _end_programs(folder: Path) -> None:
    real = f"{folder.resolve()}/"
    for process in psutil.process_iter():
        try:
            if process.name().startswith(PROGRAMS) and f"{process.cwd()}/".startswith(real):
                process.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _watch(home: Path) -> None:
    try:
        with (home / LOCK).open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # until the drill ends
            if home.exists():
                clear(home)
    except FileNotFoundError:
        return


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
