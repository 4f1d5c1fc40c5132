"""kill -9 of capture, compaction and raw apply: nothing lost, nothing doubled."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal

import pyarrow as pa
import pytest
from cdc_source import FIRST, account_id, accounts, close, owner, raw_state, reference, source_state
from killing import die, in_child

from resources.warehouse import connect_postgres
from stripe_platform.cdc import capture as capturing
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range, read_batch_file
from stripe_platform.cdc.daily import Source, data_path, manifest_path
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.slot import Stream
from stripe_platform.cdc.verify import verify
from stripe_platform.warehouse import raw

SEED = 20260601


def captured_accounts(store) -> list[str]:
    parts = [read_batch_file(store, Source(m.seq, f.path, f.sha256))
             for m in Chain.load(store).manifests for f in m.files_of("accounts")]
    return pa.concat_tables(parts)["id"].to_pylist() if parts else []


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

        assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
        accounts(connection, 50, 50)
    report = capture(source)
    assert report.rows == {"accounts": 50 if point == "before the acknowledgement" else 100}
    assert captured_accounts(store) == [account_id(n) for n in range(100)]
    assert verify(source, lake=store).problems == []


DAYS = [FIRST + dt.timedelta(days=n) for n in range(4)]


@pytest.fixture
def four_days(source, store):
    """Four captured days of accounts: each makes 200, changes 50 of the day before and deletes one."""
    with owner(source) as connection:
        reference(connection)
        for n, day in enumerate(DAYS):
            accounts(connection, n * 200, 200)
            if n:
                changed = [account_id(i) for i in range((n - 1) * 200, (n - 1) * 200 + 50)]
                connection.execute("update oltp.accounts set mcc = '0002' where id = any(%s)", [changed[1:]])
                connection.execute("delete from oltp.accounts where id = %s", [changed[0]])
            close(connection, day)
        capture(source)
        yield source_state(connection, "accounts")


@pytest.mark.parametrize("torn", [data_path, manifest_path], ids=["before the file", "before its manifest"])
def test_a_compaction_killed_within_a_day_ends_in_the_same_bytes(four_days, store, monkeypatch, torn):
    def work() -> None:
        put = type(store).put
        monkeypatch.setattr(type(store), "put", lambda self, path, data, **more: die()
                            if path == torn("accounts", DAYS[2]) else put(self, path, data, **more))
        compact_range(store, ["accounts"], DAYS)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    made = compact_range(store, ["accounts"], DAYS)["accounts"]
    for path in store.list("cdc/daily"):
        store.delete(path)
    assert compact_range(store, ["accounts"], DAYS)["accounts"] == made
    assert [d.rows for d in made] == [200, 250, 250, 250]


@pytest.mark.parametrize("point", ["inside a chunk", "before its commit", "between chunks"])
def test_a_raw_apply_killed_midway_ends_in_the_source_state(four_days, store, warehouse, monkeypatch, point):
    compact_range(store, ["accounts"], DAYS)
    url = warehouse.need("warehouse_dsn")

    def work() -> None:
        monkeypatch.setattr(raw, "CHUNK_ROWS", 250)  # a chunk a day
        real = raw._apply_chunk

        def chunk(connection, run, days):
            late = days[0].day >= DAYS[2]
            if late and point == "between chunks":
                die()
            if late and point == "inside a chunk":
                monkeypatch.setattr(raw, "_upsert", die)
            applied = real(connection, run, days)
            if late:
                die()
            return applied

        monkeypatch.setattr(raw, "_apply_chunk", chunk)
        with connect_postgres(url) as connection:
            raw.apply(connection, store, "accounts", DAYS)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    with connect_postgres(url) as connection:
        report = raw.apply(connection, store, "accounts", DAYS)
        assert report.days == DAYS[2:]
        assert raw_state(connection, "accounts") == four_days
