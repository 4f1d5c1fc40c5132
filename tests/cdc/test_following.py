"""A capture that follows the log: batches while commits come, nothing lost when it is killed, others need not wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from beside import beside
from cdc_source import FIRST, accounts, close, owner, reference
from killing import die, in_child

from stripe_platform.cdc.capture import Following, capture
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers
PATIENCE = 30.0


@contextmanager
def followed(source: Settings, every: float = 0.05) -> Iterator[list[Manifest]]:
    """The batches that a capture in another thread lands while the block runs."""
    landed: list[Manifest] = []
    following = Following(threading.Event(), landed.append, every)
    with beside(lambda: capture(source, following=following), following.stop):
        yield landed


def until(landed: list[Manifest], rows: int) -> None:
    end = time.monotonic() + PATIENCE
    while sum(m.rows for m in landed) < rows:
        assert time.monotonic() < end, "the commits were not landed"
        time.sleep(0.01)


def test_commits_are_landed_while_they_come_and_the_rest_when_it_is_stopped(source, store):
    with owner(source) as connection, followed(source) as landed:
        reference(connection)
        until(landed, 3)
        accounts(connection, 0, 20)
        until(landed, 23)
        close(connection, FIRST)
        accounts(connection, 20, 5)
        until(landed, 28)
    chain = Chain.load(store)
    assert len(chain.manifests) == len(landed) >= 3
    assert chain.closed == [FIRST]
    assert reconcile(source, tables=["accounts"]).equal


def test_who_asks_meanwhile_is_answered_when_the_follower_has_reached_as_far(source, store):
    with owner(source) as connection, followed(source):
        reference(connection)
        accounts(connection, 0, 10)
        report = capture(source, wait_seconds=PATIENCE)
        assert (report.total, report.reached_end) == (0, True)
        assert sum(m.rows for m in Chain.load(store).manifests) == 13
        close(connection, FIRST)
        capture(source, FIRST, wait_seconds=PATIENCE)
        assert Chain.load(store).closed == [FIRST]
        assert reconcile(source).equal


def test_a_follower_killed_again_and_again_loses_and_doubles_nothing(source, store):
    over = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with owner(source) as connection:
            reference(connection)
            while not over.is_set():
                accounts(connection, written * 7, 7)
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for batches in (1, 3, 2):
            landed = iter([None] * (batches - 1))
            status = in_child(lambda landed=landed: capture(source, following=Following(
                threading.Event(), lambda _batch: next(landed, 0) is None or die(), 0.02)))
            assert os.WTERMSIG(status) == signal.SIGKILL
        for seconds in (0.6, 0.9):  # wherever it is then
            in_child(lambda: capture(source, following=Following(threading.Event(), lambda _: None, 0.02)), seconds)
    finally:
        over.set()
        writer.join()
    proof = reconcile(source, tables=["accounts"])
    assert (proof.problems(), proof.rows) == ([], written * 7)
    assert len(Chain.load(store).manifests) > 6
