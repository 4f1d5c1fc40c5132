"""Knowing our own processes again, and free ports.

A pid alone proves nothing: it is reused, and a stopped server stays a zombie for seconds when nothing reaps it.
A process is therefore named by pid and start time, and counts as running only when its state says so.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
SERVERS = ("postgres", "secantusd", "mongod", "python")
FIRST_PORT, LAST_PORT = 15_000, 28_000  # below the range from which systems take ports of outgoing connections


@dataclass(frozen=True)
class Proc:
    """One process: its pid and a stamp of its start that no later process with the same pid shares."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Proc | None:
        """The process that has this pid now, unless it is gone or a zombie."""
        try:
            process = psutil.Process(pid)
            if process.status() in GONE:
                return None
            return cls(pid, _stamp(process))
        except psutil.NoSuchProcess:
            return None

    def running(self) -> bool:
        """True while this very process lives (its zombie does not count)."""
        return Proc.of(self.pid) == self

    def stop(self, seconds: float, signal_number: int = signal.SIGTERM) -> bool:
        """Signal, then wait; False when the process outlives `seconds`."""
        if self.running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal_number)
        return self.wait(seconds)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the process; False when it outlives `seconds`."""
        limit = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > limit:
                return False
            time.sleep(0.02)
        return True


def _stamp(process: psutil.Process) -> str:
    """Start of a process. Linux: boot and clock ticks since boot, which a corrected wall clock cannot shift."""
    stat = Path(f"/proc/{process.pid}/stat")
    if stat.exists():
        try:
            ticks = stat.read_text().rsplit(")", 1)[1].split()[19]
        except (OSError, IndexError):
            raise psutil.NoSuchProcess(process.pid) from None
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
    return f"{process.create_time():.2f}"


def working_in(folder: Path, program: str) -> list[Proc]:
    """Living processes named `program...` whose working directory is `folder`: a server and all its children.

    A server's folder belongs to it alone, so this finds it without any pid file; a shell in the folder is not meant.
    """
    found, real = [], str(folder.resolve())
    for process in psutil.process_iter():
        try:
            if process.name().startswith(program) and process.status() not in GONE and process.cwd() == real:
                found.append(Proc(process.pid, _stamp(process)))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_servers_below(folder: Path) -> None:
    """Kill the servers that work in `folder` or below, which is to be made anew, also where it was deleted meanwhile.

    A server outlives its deleted folder, and its last checkpoint then lands in the new one of the same name: the
    new database does not start ("could not locate a valid checkpoint record").
    """
    real = str(folder.resolve())
    for process in psutil.process_iter():
        try:
            named = process.name().startswith(SERVERS) and f"{process.cwd()}/".startswith(f"{real}/")
            found = Proc.of(process.pid) if named else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if found is not None:
            found.stop(5, signal.SIGKILL)


def works_in(pid: int, folder: Path, program: str) -> Proc | None:
    """The process with this pid when it is `program` and works in `folder`; else None (its pid file is stale)."""
    try:
        process = psutil.Process(pid)
        if process.name().startswith(program) and process.cwd() == str(folder.resolve()):
            return Proc.of(pid)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return None


def arguments(running: Proc) -> list[str]:
    """Command line of a process; empty when it has just ended."""
    try:
        return psutil.Process(running.pid).cmdline()
    except psutil.NoSuchProcess:
        return []


def free_port(taken: set[int]) -> int:
    """A port on the loopback interface that nobody listens on and that is not in `taken`."""
    while True:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        if port not in taken and port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    """True when a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def listener(port: int) -> str:
    """Who listens on a port, for an error message: `name (pid)`, or `another program` when not visible."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return "another program"
    return "another program"
