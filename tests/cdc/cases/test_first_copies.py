"""Cases 39, 42 and 50: tables taken from a source that changes: killed at any instant, again, after a loss."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import threading
import time

import psycopg
import pytest
from any_source import Shop

from stripe_platform.cdc import backfill as backfills
from stripe_platform.cdc.backfill import backfill, unfinished
from stripe_platform.cdc.capture import CaptureError
from stripe_platform.cdc.catalogue import CatalogueError
from stripe_platform.cdc.copying import CopyError
from stripe_platform.cdc.manifest import Chain, load_epochs
from stripe_platform.cdc.verify import verify

SEED = 20261122


def long_text(seed: object) -> str:
    """Text that PostgreSQL must store out of line."""
    return "".join(hashlib.sha256(f"{seed}{n}".encode()).hexdigest() for n in range(60))


def take(shop: Shop, *tables: str, **options) -> backfills.BackfillReport:
    return backfill(shop.settings, shop.source, tables or None, lake=shop.lake, **options)


def whole(shop: Shop, *tables: str) -> None:
    """Nothing is left to take, and all agree with the source."""
    assert unfinished(shop.lake) == []
    shop.agree(*tables)


def filled(shop: Shop, table: str, rows: int, *, more: str = "") -> None:
    """A table with rows from before its slot, each with a text out of line."""
    shop.db.execute(f"create table {table} (id integer primary key, n integer, v text){more}")
    shop.db.execute(f"alter table {table} alter v set storage external")
    shop.db.execute(f"insert into {table} select n, 0, repeat(md5(n::text), 80) from generate_series(1, {rows}) n")
    shop.publish(table)


class Writer(threading.Thread):
    """Changes rows of a table at random until told to stop: texts left out, keys changed, rows gone and come back."""

    def __init__(self, dsn: str, table: str, seed: int) -> None:
        super().__init__()
        self.dsn, self.table, self.dice, self.stopped = dsn, table, random.Random(seed), threading.Event()  # noqa: S311

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_error):
        self.stopped.set()
        self.join()

    def run(self) -> None:
        table = self.table
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.stopped.is_set():
                one, new = self.dice.randrange(1, 400), self.dice.randrange(1, 800)
                connection.execute(self.dice.choice([
                    f"update {table} set n = n + 1 where id = {one}",
                    f"update {table} set n = n + 1 where id % 50 = {one % 50}",
                    f"update {table} set id = {new} where id = {one} and {new} not in (select id from {table})",
                    f"delete from {table} where id = {one}",
                    f"insert into {table} values ({new}, 0, '{long_text(new)}') on conflict do nothing",
                ]))
                self.stopped.wait(0.002)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of two blocks: a few hundred rows are many of them."""
    monkeypatch.setattr(backfills, "CHUNK_BLOCKS", 2)


def test_case_39_rows_from_before_the_slot_join_the_stream_while_it_goes_on(shop):
    filled(shop, "c39", 1500)
    with Writer(shop.settings.variable("SHOP_OWNER_DSN"), "c39", SEED):
        report = take(shop, "c39", round_seconds=0.0)
    assert report.rounds > 1
    whole(shop, "c39")
    assert shop.operations("c39").count("r") >= 1000  # the writer's four hundred keys aside, every row was read


def test_case_39_killed_at_random_instants_it_goes_on_at_its_chunk(shop):
    filled(shop, "c39_killed", 1500)
    dice, kills = random.Random(SEED), 0  # noqa: S311 - a replayable fault run
    with Writer(shop.settings.variable("SHOP_OWNER_DSN"), "c39_killed", SEED + 1):
        for _attempt in range(6):
            child = os.fork()
            if not child:
                try:
                    take(shop, "c39_killed", round_seconds=0.05)
                finally:
                    os._exit(0)
            time.sleep(dice.uniform(0.02, 0.5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += bool(unfinished(shop.lake))
            Chain.load(shop.lake)
            shop.capture()
            if kills and not unfinished(shop.lake):
                break
    take(shop)
    assert kills, f"seed {SEED} killed nothing midway"
    whole(shop, "c39_killed")


@pytest.mark.parametrize("point", ["before the manifest", "before the ledger"])
def test_case_39_killed_at_each_durable_step_it_loses_and_doubles_nothing(shop, monkeypatch, point):
    table = f"c39_{point.rpartition(' ')[2]}"
    filled(shop, table, 60)
    shop.capture()

    def die(*_args, **_more):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            if point == "before the manifest":
                monkeypatch.setattr(type(shop.lake), "put_if_absent", die)
            else:
                save = backfills.Ledger.save
                monkeypatch.setattr(backfills.Ledger, "save",
                                    lambda self, lake: die() if self.done else save(self, lake))
            take(shop, table)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (ledger,) = unfinished(shop.lake)
    assert (ledger.table, ledger.done) == (table, 0)
    assert any(table in problem for problem in verify(shop.settings, lake=shop.lake, source=shop.source).problems)
    shop.db.execute(f"delete from {table} where id % 3 = 0")
    shop.db.execute(f"update {table} set n = 1 where id % 3 = 1")
    take(shop)
    whole(shop, table)


def test_case_50_a_table_taken_again_while_streaming_loses_to_the_stream_and_brings_no_deleted_row_back(shop):
    filled(shop, "c50", 1500)
    take(shop, "c50")
    whole(shop, "c50")
    shop.warehouse.execute("update raw.shop__c50 set v = 'spoilt' where id % 7 = 0")
    with Writer(shop.settings.variable("SHOP_OWNER_DSN"), "c50", SEED + 2):
        take(shop, "c50", round_seconds=0.0)
        shop.capture()
    whole(shop, "c50")
    assert shop.operations("c50").count("t") == 2


def test_case_42_a_lost_slot_is_seen_and_named_and_a_new_snapshot_closes_the_gap(shop):
    filled(shop, "c42", 50)
    shop.table("c42_beside", "id integer primary key")
    take(shop)
    whole(shop, "c42", "c42_beside")
    shop.db.execute("select pg_drop_replication_slot(%s)", [shop.source.slot])
    shop.db.execute("delete from c42 where id <= 10")  # nobody will ever read this
    shop.db.execute("update c42 set id = id + 1000 where id <= 20")
    shop.db.execute("insert into c42_beside values (1)")
    with pytest.raises(CaptureError, match=r"is gone from the source.*cdc snapshot --new-slot"):
        shop.capture()
    with pytest.raises(CopyError, match="take all of them, without --table"):
        take(shop, "c42", new_slot=True)
    take(shop, new_slot=True)
    shop.db.execute("update c42 set n = n + 1")
    whole(shop, "c42", "c42_beside")
    first, second = load_epochs(shop.lake)[-2:]
    assert second.name > first.name
    assert second.consistent_lsn > Chain.load(shop.lake).manifests[0].to_lsn  # the gap is between them, on record


def test_case_18_a_table_without_a_key_is_taken_in_one_round_and_again(shop):
    shop.db.execute("create table bag (n integer, v text)")
    shop.db.execute("alter table bag replica identity full")
    shop.db.execute("insert into bag select n % 7, repeat(md5((n % 3)::text), 70) from generate_series(1, 200) n")
    shop.publish("bag")
    take(shop, "bag", round_seconds=0.0)
    shop.db.execute("update bag set n = 100 where n = 1")
    shop.db.execute("delete from bag where n = 2")
    whole(shop, "bag")
    shop.db.execute("insert into bag values (5, null)")
    take(shop, "bag")
    whole(shop, "bag")


def test_case_47_a_table_that_stopped_goes_on_when_it_is_taken_anew(shop):
    filled(shop, "stopped", 30)
    take(shop, "stopped")
    whole(shop, "stopped")
    shop.db.execute("alter table stopped alter n type numeric(5,1) using n / 2.0")
    shop.db.execute("insert into stopped values (99, 1.5, 'x')")
    shop.capture()
    with pytest.raises(CatalogueError, match=r"cdc snapshot --table stopped"):
        shop.apply("stopped")
    take(shop, "stopped")
    shop.db.execute("update stopped set n = n + 1 where id < 10")
    whole(shop, "stopped")
    shop.warehouse.execute("delete from raw._applied where table_name = 'shop__stopped'")
    whole(shop, "stopped")


def test_case_25_a_filtered_table_with_chosen_columns_is_taken_as_it_is_published(shop):
    shop.db.execute("create table chosen (id integer primary key, region text, secret text, v text)")
    shop.db.execute("insert into chosen select n, case when n % 2 = 0 then 'eu' else 'us' end, 's', null"
                    " from generate_series(1, 20) n")
    shop.publish("chosen", columns=("id", "v"), where="id % 2 = 0")
    take(shop, "chosen")
    shop.agree("chosen", where="id % 2 = 0", names=["id", "v"])
    assert "secret" not in shop.log("chosen")[0]


def test_partitions_are_taken_leaf_by_leaf_as_their_root(shop):
    shop.db.execute("create table leaves (id integer, region text, v text, primary key (id, region))"
                    " partition by list (region)")
    shop.db.execute("create table leaves_eu (v text, region text not null, id integer not null)")
    shop.db.execute("alter table leaves attach partition leaves_eu for values in ('eu')")
    shop.db.execute("create table leaves_other partition of leaves default")
    shop.db.execute("insert into leaves select n, (array['eu', 'us'])[1 + n % 2], 'v' from generate_series(1, 50) n")
    shop.publish("leaves")
    take(shop, "leaves", round_seconds=0.0)
    shop.db.execute("update leaves set region = 'jp' where id = 3")
    whole(shop, "leaves")


@pytest.fixture
def between_rounds(monkeypatch):
    """Runs SQL after the first round of a table that takes several."""
    def arrange(shop: Shop, statement: str) -> list[int]:
        real, calls = backfills._Round.run, []

        def run(self, *args):
            real(self, *args)
            calls.append(len(calls))
            if len(calls) == 1:
                shop.db.execute(statement)

        monkeypatch.setattr(backfills._Round, "run", run)
        return calls

    return arrange


def test_case_39_a_row_that_moved_into_blocks_already_read_keeps_the_text_its_update_left_out(shop, between_rounds):
    filled(shop, "moved", 1500)
    shop.db.execute("delete from moved where id <= 150")
    shop.db.execute("vacuum moved")  # its first blocks take new rows
    rounds = between_rounds(shop, "update moved set n = 1 where id > 1400")
    take(shop, "moved", round_seconds=0.0, workers=1)
    there = shop.db.execute("select count(*) from moved where id > 1400 and ctid < '(2,0)'::tid").fetchone()
    assert there > (0,)
    assert len(rounds) > 2
    whole(shop, "moved")


def test_case_39_a_table_rewritten_between_two_rounds_is_read_from_its_beginning(shop, between_rounds):
    """VACUUM FULL moves rows into blocks that were read already, and the log says nothing of it."""
    filled(shop, "rewritten", 1500)
    shop.db.execute("delete from rewritten where id <= 500")
    rounds = between_rounds(shop, "vacuum full rewritten")
    take(shop, "rewritten", round_seconds=0.0, workers=1)
    assert len(rounds) > 3
    whole(shop, "rewritten")


def test_every_type_is_taken_as_the_stream_brings_it(shop):
    from test_types import KINDS

    for extension in ("hstore", "citext"):
        shop.db.execute(f"create extension if not exists {extension}")
    shop.db.execute("create type mood as enum ('sad', 'ok')")
    shop.db.execute("create type pair as (n integer, t text)")
    shop.db.execute("create domain positive as numeric(10,2) check (value > 0)")
    names = [f"v{n}" for n in range(len(KINDS))]
    listed = ", ".join(f"{name} {kind}" for name, (kind, _values) in zip(names, KINDS.values(), strict=True))
    shop.db.execute(f"create table every_type (id integer primary key, {listed})")
    for n in range(max(len(values) for _kind, values in KINDS.values())):
        cells = ", ".join(values[n] if n < len(values) else "null" for _kind, values in KINDS.values())
        shop.db.execute(f"insert into every_type values ({n}, {cells})")
    shop.publish("every_type")
    shop.db.execute("create table one_column (v text)")
    shop.db.execute("alter table one_column replica identity full")
    shop.db.execute("insert into one_column values (''), (null), ('\\.'), (E'a\\r\\nb'), ('\"'), (null)")
    shop.publish("one_column")
    take(shop, "every_type", "one_column")
    whole(shop, "every_type", "one_column")
    before = [f.schema_id for m in Chain.load(shop.lake).manifests for f in m.files_of("every_type")]
    shop.db.execute("insert into every_type (id) values (-1)")
    shop.capture()
    assert before[-1:] == [f.schema_id for f in Chain.load(shop.lake).manifests[-1].files_of("every_type")]


def test_the_log_of_all_these_is_whole(shop):
    report = verify(shop.settings, lake=shop.lake, source=shop.source)
    assert report.problems == []
    assert report.changes > 5_000


def test_case_40_a_source_that_goes_away_while_it_is_read_is_told_without_its_words(shop, monkeypatch):
    """The reader's server process ends in the middle of a table; the next call takes it whole."""
    filled(shop, "cut", 4000)
    read = backfills.copying._next
    seen: list[int] = []

    def cut(batches):
        if not seen:
            seen.append(1)
            shop.db.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                            " where application_name = 'stripe_platform_snapshot' and query like '%cut%'")
        return read(batches)

    monkeypatch.setattr(backfills.copying, "_next", cut)
    monkeypatch.setattr(backfills.copying, "PIECE_BYTES", 100_000)
    with pytest.raises(CopyError, match=r"stopped answering \(SQLSTATE") as told:
        take(shop, "cut")
    assert "terminat" not in str(told.value)
    take(shop, "cut")
    whole(shop, "cut")


def test_case_40_a_full_disk_is_not_taken_for_the_source(shop, monkeypatch):
    filled(shop, "crowded", 500)

    def refuse(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stripe_platform.cdc.batches.BatchWriter.add", refuse)
        with pytest.raises(OSError, match="No space left"):
            take(shop, "crowded")
    take(shop, "crowded")
    whole(shop, "crowded")
