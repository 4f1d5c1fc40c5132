"""kill -9 of the capture at random instants: nothing lost, nothing doubled."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import time

import pyarrow as pa
import pytest
from cdc_source import FIRST, account_id, accounts, close, owner, reference

from stripe_platform.cdc import capture as capturing
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import read_batch_file
from stripe_platform.cdc.daily import Source
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.slot import Stream
from stripe_platform.cdc.verify import verify

SEED = 20260601


def captured_accounts(store) -> list[str]:
    parts = [read_batch_file(store, Source(m.seq, f.path, f.sha256))
             for m in Chain.load(store).manifests for f in m.files_of("accounts")]
    return pa.concat_tables(parts)["id"].to_pylist() if parts else []


def in_child(work, kill_after: float | None) -> int:
    """Run `work` in a forked process, kill -9 it after some seconds; its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + (3600 if kill_after is None else kill_after)
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_a_capture_killed_at_random_instants_loses_and_doubles_nothing(source, store, monkeypatch):
    monkeypatch.setattr(capturing, "BATCH_ROWS", 300)
    dice, count = random.Random(SEED), 0  # noqa: S311 - a replayable fault run
    with owner(source) as connection:
        reference(connection)
        for round_ in range(6):
            for _commit in range(10):
                accounts(connection, count, 100)
                count += 100
            close(connection, FIRST + dt.timedelta(days=round_))
            in_child(lambda: capture(source), dice.uniform(0, 0.6))
            Chain.load(store)
    capture(source)
    assert captured_accounts(store) == [account_id(n) for n in range(count)], f"seed {SEED}"
    assert verify(source, lake=store).problems == []
    assert len(Chain.load(store).closed) == 6


@pytest.mark.parametrize("point", ["before the files", "before the manifest", "before the acknowledgement"])
def test_a_capture_killed_at_each_durable_step_goes_on_where_it_stood(source, store, monkeypatch, point):
    """The three places where a batch is half made: a failpoint kills the process exactly there."""
    def die(*_args, **_more):
        os.kill(os.getpid(), signal.SIGKILL)

    with owner(source) as connection:
        reference(connection)
        capture(source)
        accounts(connection, 0, 50)

        def work() -> None:
            if point == "before the files":
                monkeypatch.setattr(BatchWriter, "finish", die)
            elif point == "before the manifest":
                monkeypatch.setattr(type(store), "put_if_absent", die)
            else:
                real = Stream.status
                monkeypatch.setattr(Stream, "status", lambda self, lsn, ask=False: real(self, lsn, ask=ask)
                                    if ask else die())
            capture(source)

        assert os.WTERMSIG(in_child(work, None)) == signal.SIGKILL
        accounts(connection, 50, 50)
    report = capture(source)
    assert report.rows == {"accounts": 50 if point == "before the acknowledgement" else 100}
    assert captured_accounts(store) == [account_id(n) for n in range(100)]
    assert verify(source, lake=store).problems == []
