"""Processes to be killed: work in a forked child, ended by kill -9 from inside or outside."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable


def start(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its pid."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    return child


def in_child(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Run `work` in a forked process, kill -9 it after some seconds if it still runs; its wait status."""
    child = start(work)
    if kill_after is not None:
        until = time.monotonic() + kill_after
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def die(*_args: object, **_more: object) -> None:
    """kill -9 of oneself, in the place of a function that a test replaces."""
    os.kill(os.getpid(), signal.SIGKILL)
