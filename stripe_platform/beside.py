"""A second process for runs that others need not wait for: two cores carry two branches of the graph.

Dagster's own way to more processes takes seconds of imports per step; here one process imports once.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

import dagster as dg

from stripe_platform import local, runs

Beside = Callable[..., "Future[runs.RunReport]"]


@contextmanager
def beside() -> Iterator[Beside]:
    """Yields `submit(job, first, last, select=...)` of `runs.run_job`, whose runs follow one another over there."""
    with other_process() as pool:
        pool.submit(_import)
        yield lambda *what, **how: pool.submit(_run, *what, **how)


@contextmanager
def other_process() -> Iterator[ProcessPoolExecutor]:
    """Ended at once with a parent that is told to end; one that fails lets the work over there come to its end."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            yield pool
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt, or Dagster's form of one
                for child in multiprocessing.active_children():
                    child.kill()
            raise


def end_with_parent() -> None:
    """A killed parent leaves nobody who writes: the next start takes its runs for dead."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in a child only

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _import() -> None:
    """What takes longest, while there is nothing to run yet."""
    import great_expectations  # noqa: F401

    import stripe_platform.definitions  # noqa: F401


def _run(job: str, first: dt.date | None, last: dt.date | None, select: list[dg.AssetKey] | None = None,
         ) -> runs.RunReport:
    from stripe_platform.definitions import defs

    with local.dagster_instance() as instance:
        return runs.run_job(defs, instance, job, first, last, select=select)
