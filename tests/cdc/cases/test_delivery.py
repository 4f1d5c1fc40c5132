"""Cases 31 to 44 and 49: days, batches that are missing or come again, kills at each durable step, odd bytes."""

from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace

import psycopg
import pytest
from any_source import DAY

from stripe_platform.cdc import capture as capturing
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact
from stripe_platform.cdc.manifest import Chain, ChainError, Position, last, load_epochs
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.pgoutput import lsn_int
from stripe_platform.cdc.slot import CaptureError, Stream, ensure_slot
from stripe_platform.cdc.snapshots import state_at
from stripe_platform.cdc.verify import verify
from stripe_platform.warehouse import raw


@pytest.mark.parametrize("point", ["34 before the files", "34 before the manifest", "35 before the acknowledgement"])
def test_case_34_and_35_a_capture_killed_at_a_durable_step_loses_and_doubles_nothing(shop, monkeypatch, point):
    table = f"c{point[:2]}_{point.rpartition(' ')[2]}"
    shop.table(table, "id integer primary key, v text")
    shop.db.execute(f"insert into {table} select n, 'v' from generate_series(1, 50) n")
    child = os.fork()
    if not child:
        try:
            die = lambda *_args, **_more: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            if "files" in point:
                monkeypatch.setattr(BatchWriter, "finish", die)
            elif "manifest" in point:
                monkeypatch.setattr(type(shop.lake), "put_if_absent", die)
            else:
                status = Stream.status
                monkeypatch.setattr(Stream, "status", lambda self, lsn, ask=False: status(self, lsn, ask=True)
                                    if ask else die())
            shop.capture()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    shop.db.execute(f"update {table} set v = 'w' where id <= 10")
    shop.agree(table)
    assert shop.operations(table) == "c" * 50 + "u" * 10
    assert verify(shop.settings, lake=shop.lake, source=shop.source).problems == []


def test_case_37_an_apply_killed_inside_its_merge_converges(shop, monkeypatch):
    shop.table("c37", "id integer primary key, v text")
    shop.db.execute("insert into c37 select n, 'v' from generate_series(1, 30) n")
    shop.agree("c37")
    shop.db.execute("update c37 set v = 'w' where id % 2 = 0")
    shop.db.execute("delete from c37 where id % 3 = 0")
    shop.capture()
    dsn = shop.settings.need("warehouse_dsn")
    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(raw, "_record", lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
            compact(shop.lake, "c37", DAY, first_day=DAY)
            with psycopg.connect(dsn) as connection:
                raw.apply(connection, shop.lake, "c37", [DAY], first_day=DAY)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(shop.raw_rows("c37", ["id", "v"])) == 30  # the half that was merged is not there
    shop.agree("c37")


def test_case_40_a_full_disk_stops_the_capture_and_loses_nothing(shop, monkeypatch):
    shop.table("c40", "id integer primary key")
    shop.capture()
    shop.db.execute("insert into c40 select generate_series(1, 20)")
    before = slot_metrics(shop.settings, shop.source, shop.lake)

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(shop.lake), "put_files", full)
        for _attempt in range(2):
            with pytest.raises(OSError, match="No space left"):
                shop.capture()
    after = slot_metrics(shop.settings, shop.source, shop.lake)
    assert after.unacknowledged_bytes >= before.unacknowledged_bytes > 0
    shop.agree("c40")
    assert shop.operations("c40") == "c" * 20


def test_case_41_a_capture_that_is_told_to_end_leaves_whole_batches(shop, monkeypatch):
    shop.table("c41", "id integer primary key, v text")
    monkeypatch.setattr(capturing, "BATCH_ROWS", 100)
    for start in range(0, 3000, 50):
        shop.db.execute(f"insert into c41 select n, repeat('v', 100) from generate_series({start}, {start + 49}) n")
    child = os.fork()
    if not child:
        try:
            shop.capture()
        finally:
            os._exit(0)
    begun = len(Chain.load(shop.lake).manifests)
    while len(Chain.load(shop.lake).manifests) < begun + 2 and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.005)
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    shop.agree("c41")
    assert shop.operations("c41") == "c" * 3000


def test_case_36_the_slot_is_never_ahead_of_what_is_durable(shop):
    shop.table("c36", "id integer primary key")
    for n in range(3):
        shop.db.execute("insert into c36 values (%s)", [n])
        shop.capture()
        newest = last(shop.lake)
        (confirmed,) = shop.db.execute("select confirmed_flush_lsn::text from pg_replication_slots"
                                       " where slot_name = %s", [shop.source.slot]).fetchone()
        assert newest is not None
        assert lsn_int(confirmed) <= newest.to_lsn
    assert slot_metrics(shop.settings, shop.source, shop.lake).wal_status == "reserved"


@pytest.mark.parametrize(("change", "sentence"), [
    ("another server", "is on another server or timeline"), ("an earlier state", "was restored to an earlier state")])
def test_case_44_a_source_that_was_replaced_or_restored_is_refused(shop, tmp_path, change, sentence):
    shop.capture()
    shutil.copytree(shop.lake.root, tmp_path / "lake")
    lake = type(shop.lake)(tmp_path / "lake")
    epoch = load_epochs(lake)[-1]
    if change == "another server":
        path = f"cdc/epochs/{epoch.ordinal:06d}.json"
        lake.put(path, lake.read(path).replace(epoch.system_identifier.encode(), b"77"))
    else:
        Position(epoch.name, 1 << 45).save(lake)  # as if the lake had read on, and the server had gone back
    before = lake.list("cdc/manifests")
    shop.db.execute("select pg_logical_emit_message(true, 'theirs', 'x')")
    with pytest.raises(CaptureError, match=sentence):
        capture(shop.settings, lake=lake, source=shop.source)
    assert lake.list("cdc/manifests") == before


def test_case_49_bytes_that_are_no_text_are_kept_as_bytes_and_others_flow(servers, shop):
    """A database without an encoding takes whatever bytes a client sends as text."""
    name = f"bytes_{os.getpid()}"
    shop.db.execute(f"create database {name} template template0 encoding 'SQL_ASCII' locale 'C'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYTES_DSN", servers.superuser("oltp", name))
        source = replace(shop.source, name="bytes", dsn="BYTES_DSN", owner_dsn="BYTES_DSN", slot=name,
                         publication="bytes")
        with psycopg.connect(servers.superuser("oltp", name), autocommit=True) as db:
            other = replace(shop, source=source, db=db, lake=type(shop.lake)(shop.lake.root / "bytes"), published={},
                            told=False)
            db.execute("create table c49 (id integer primary key, v text)")
            db.execute("create publication bytes for table c49")
            ensure_slot(other.settings, other.lake, source)
            db.execute(rb"insert into c49 values (1, E'good'), (2, E'\xff\xfe bad'), (3, E'na\xc3\xafve')")
            capture(other.settings, lake=other.lake, source=source)
            assert [row["v"] for row in other.log("c49")] == ["good", "\\xfffe20626164", "naïve"]
        shop.db.execute("select pg_drop_replication_slot(%s)", [name])
    shop.db.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def dated(shop):
    """The source with a calendar that cuts its log into days; three of them are closed. The last cases of the file."""
    shop.db.execute("create schema ops; create table ops.day_ledger (source text, day date, primary key (source, day))")
    shop.db.execute("create table dated (id integer primary key, v text)")
    shop.publish("dated", "ops.day_ledger")
    dated = replace(shop, source=replace(shop.source, calendar="ops.day_ledger"))
    for n in range(3):
        with shop.db.transaction():
            shop.db.execute(f"insert into dated values ({n}, 'made on day {n}')")
            shop.db.execute(f"update dated set v = v || ', day {n}'")
            shop.db.execute("insert into ops.day_ledger values ('shop', %s)", [DAY + dt.timedelta(days=n)])
    dated.capture()
    return dated


def days(count: int) -> list[dt.date]:
    return [DAY + dt.timedelta(days=n) for n in range(count)]


def test_case_31_a_change_belongs_to_the_day_that_was_open_and_a_late_one_touches_only_its_own(dated):
    shop, files = dated, {}
    for day in days(3):
        compact(shop.lake, "dated", day, first_day=DAY)
        files[day] = shop.lake.read(f"cdc/daily/dated/{day}.parquet")
        assert state_at(shop.lake, "dated", day, first_day=DAY).num_rows == (day - DAY).days + 1
    shop.db.execute("insert into dated values (77, 'three days late')")
    shop.capture()
    for day in days(4):
        compact(shop.lake, "dated", day, first_day=DAY)
    assert {day: shop.lake.read(f"cdc/daily/dated/{day}.parquet") for day in files} == files
    raw.apply(shop.warehouse, shop.lake, "dated", days(4), first_day=DAY)
    assert shop.raw_rows("dated", ["id", "v"]) == shop.source_rows("dated")
    late = shop.warehouse.execute("select _ledger_day from raw.shop__dated where id = 77").fetchone()
    assert late == (days(4)[3],)


def test_case_32_nothing_is_applied_past_a_batch_that_is_missing(dated):
    path = f"cdc/manifests/{2:012d}.json"
    kept = dated.lake.read(path)
    dated.lake.delete(path)
    try:
        with pytest.raises(ChainError, match="is missing: nothing after it may be applied"):
            raw.apply(dated.warehouse, dated.lake, "dated", days(3), first_day=DAY)
    finally:
        dated.lake.put(path, kept)
    assert Chain.load(dated.lake)


def test_case_33_days_that_come_twice_change_nothing(dated):
    for day in days(3):
        compact(dated.lake, "dated", day, first_day=DAY)
    raw.apply(dated.warehouse, dated.lake, "dated", days(3), first_day=DAY)
    before = dated.warehouse.execute("select * from raw.shop__dated order by id").fetchall()
    assert raw.apply(dated.warehouse, dated.lake, "dated", days(3), first_day=DAY).days == []
    dated.warehouse.execute("delete from raw._applied where table_name = 'shop__dated'")
    assert raw.apply(dated.warehouse, dated.lake, "dated", days(3), first_day=DAY).days == days(3)
    assert dated.warehouse.execute("select * from raw.shop__dated order by id").fetchall() == before
