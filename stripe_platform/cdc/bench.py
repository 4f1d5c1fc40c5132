"""`bench cdc`, landing and first copies: ours beside the Debezium engine and the raw drain of the slot, on one log.

Every round reads the same log: one slot is made before the backlog and copied for each reading. Changes are 60 %
updates, 30 % inserts, 10 % deletes of rows of about 200 bytes, half of them alone in their commit, half by thousands.
"""

from __future__ import annotations

import json
import multiprocessing
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg import sql
from pydantic import SecretStr

from resources.lake import LocalLake
from stripe_platform import progress
from stripe_platform.bench import Report, peak_mb
from stripe_platform.cdc.backfill import backfill
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.slot import DATA, Stream, inspect, read_keepalive, replication
from stripe_platform.cdc.source import Source
from stripe_platform.cdc.sources import ConfiguredSource, Published
from stripe_platform.embedded import debezium_engine
from stripe_platform.settings import PROJECT_ROOT, Settings

ROUNDS = 3
STORED = 100_000  # rows that stand before the first change
BULK = 1_000  # changes of a large commit
SNAPSHOT_ROWS = 1_000_000
DEBEZIUM_GOAL, DRAIN_GOAL, SNAPSHOT_GOAL, MEMORY_GOAL = 5.0, 0.4, 10.0, 1.2
DEEP = (100_000, 1_000_000, 5_000_000)
PUBLICATION, TABLE = "bench", "movements"
SOURCE = Source("bench", "public", "cdc_dsn", "cdc_slot", "cdc_publication", {TABLE: ("id",)})
PEERS = PROJECT_ROOT / ".platform" / "peers" / "bin" / "python"

_SCHEMA = """
create table movements (
    id bigint primary key, account_id text not null, type text not null, amount bigint not null, fee integer not null,
    currency text not null, status text not null, description text not null, livemode boolean not null,
    created timestamptz not null, updated timestamptz not null
);
create function fresh(first bigint, last bigint) returns void language sql as $$
    insert into movements
    select n, 'acct_' || md5((n % 1000)::text), 'charge', n * 37 % 100000, n % 500, 'eur', 'pending',
        'order ' || md5(n::text) || ' of shop ' || n % 1000, true,
        timestamptz '2026-06-01' + n * interval '1 ms', timestamptz '2026-06-01' + n * interval '1 ms'
    from generate_series(first, last) n
$$;
create function touch(first bigint, last bigint) returns void language sql as $$
    update movements set status = 'available', fee = fee + 1, updated = updated + interval '1 s'
    where id between first and last
$$;
create procedure churn(changes bigint, size bigint, alone boolean) language plpgsql as $$
declare
    top bigint; low bigint; place bigint; done bigint := 0;
begin
    select max(id), min(id) into top, low from movements;
    while done < changes loop
        if size = 1 then
            if done % 10 < 6 then
                place := low + (random() * (top - low))::bigint;
                perform touch(place, place);
            elsif done % 10 < 9 then
                top := top + 1;
                perform fresh(top, top);
            else
                delete from movements where id = low;
                low := low + 1;
            end if;
        else
            place := low + (random() * (top - low - size))::bigint;
            perform touch(place, place + size * 6 / 10 - 1);
            perform fresh(top + 1, top + size * 3 / 10);
            top := top + size * 3 / 10;
            delete from movements where id < low + size / 10;
            low := low + size / 10;
        end if;
        done := done + size;
        if alone then commit; end if;
    end loop;
end $$;
"""


class PeerMissingError(RuntimeError):
    """A peer is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Scratch(ConfiguredSource):
    """The scratch database as a source of its own, by its URL."""

    url: str = ""

    def conninfo(self, settings: Settings) -> str:  # noqa: ARG002 - no variable holds it
        return self.url

    def owner_conninfo(self, settings: Settings) -> str:  # noqa: ARG002
        return self.url


@dataclass(frozen=True)
class Place:
    """A scratch database with the bench's table, and settings that read from it."""

    superuser: str
    settings: Settings
    slots: list[str]

    def copy_slot(self, base: str) -> Settings:
        """A slot of its own at the place of `base`, and the settings that read it."""
        name = f"{base}_{len(self.slots)}"
        with psycopg.connect(self.superuser, autocommit=True) as conn:
            conn.execute("select pg_copy_logical_replication_slot(%s, %s)", [base, name])
        self.slots.append(name)
        return self.settings.model_copy(update={"cdc_slot": name})

    def drop_slot(self, name: str) -> None:
        with psycopg.connect(self.superuser, autocommit=True) as conn:
            conn.execute("select pg_drop_replication_slot(%s)", [name])
        self.slots.remove(name)


def land(report: Report, settings: Settings, superuser: str, *, changes: int, rounds: int = ROUNDS,
         peers: bool = True) -> None:
    """`land/debezium`, `land/raw drain`: changes a second of a backlog; adds figures, ratios and bars to the report."""
    sides: dict[str, Callable[[Place, Settings, int], float]] = {"ours": _ours, "raw drain": _raw}
    if peers:
        sides["debezium"] = _debezium
    with _place(settings, superuser) as place:
        base, count = backlog(place, changes)
        with progress.stage("land", rounds * len(sides)) as advance:
            for _ in range(rounds):
                for side, read in sides.items():
                    own = place.copy_slot(base)
                    report.add(f"land {side}", count / read(place, own, count), "changes a second")
                    place.drop_slot(own.cdc_slot)
                    advance(1)
    ours = report.median("land ours")
    for peer, goal in (("raw drain", DRAIN_GOAL), ("debezium", DEBEZIUM_GOAL)):
        if peer in sides:
            name = f"land/{peer}"
            report.bar(name, report.ratio(name, ours / report.median(f"land {peer}")), goal)


def snapshot(report: Report, settings: Settings, superuser: str, *, rows: int = SNAPSHOT_ROWS,
             rounds: int = ROUNDS) -> None:
    """`snapshot/debezium`: rows a second of a table's first copy; adds figures, ratio and bar to the report."""
    with _place(settings, superuser, rows) as place, progress.stage("snapshot", rounds * 2) as advance:
        for _ in range(rounds):
            report.add("snapshot ours", rows / _our_snapshot(place, rows), "rows a second")
            advance(1)
            report.add("snapshot debezium", rows / _debezium_snapshot(place, rows), "rows a second")
            advance(1)
    ratio = report.median("snapshot ours") / report.median("snapshot debezium")
    report.bar("snapshot/debezium", report.ratio("snapshot/debezium", ratio), SNAPSHOT_GOAL)


def memory(report: Report, settings: Settings, superuser: str, sizes: tuple[int, ...] = DEEP) -> None:
    """Peak memory of our capture over backlogs of these sizes, and of the largest in one transaction."""
    with _place(settings, superuser) as place, progress.stage("memory", len(sizes) + 1) as advance:
        for count, single in [*((n, False) for n in sizes), (sizes[-1], True)]:
            base, _changes = backlog(place, count, single=single)
            own = place.copy_slot(base)
            place.drop_slot(base)
            peak = _ours(place, own, count, measure_memory=True)
            place.drop_slot(own.cdc_slot)
            report.add(f"peak memory of {count} changes{' in one transaction' if single else ''}", peak, "MB")
            advance(1)
    peaks = [report.median(name) for name in report.values if name.startswith("peak memory")]
    report.bar("peak memory, most to least", max(peaks) / min(peaks), MEMORY_GOAL, at_most=True)


def backlog(place: Place, changes: int, *, single: bool = False) -> tuple[str, int]:
    """Make a slot, then that many changes; the slot's name and the exact number of changes behind it."""
    base = f"bench_{secrets.token_hex(3)}"
    with psycopg.connect(place.superuser, autocommit=True) as conn, progress.stage(f"backlog of {changes:,}"):
        conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [base])
        place.slots.append(base)
        conn.execute("set synchronous_commit = off")
        before = _counted(conn)
        if single:
            with conn.transaction():
                conn.execute("call churn(%s, %s, false)", [changes, BULK])
        else:
            conn.execute("call churn(%s, 1, true)", [changes // 2])
            conn.execute("call churn(%s, %s, true)", [changes - changes // 2, BULK])
        conn.execute("checkpoint")
        return base, _counted(conn) - before


def _counted(conn: psycopg.Connection) -> int:
    conn.execute("select pg_stat_force_next_flush()")
    row = conn.execute("select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables where relname = %s",
                       [TABLE]).fetchone()
    assert row is not None  # noqa: S101 - the table is there
    return int(row[0])


def _ours(_place: Place, settings: Settings, count: int, *, measure_memory: bool = False) -> float:
    """Seconds of a whole capture into durable batches, or the peak MB of a process that does nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="land-", dir=settings.home))
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            landed, seconds, peak = pool.submit(_capture, settings, folder).result()
    finally:
        shutil.rmtree(folder)
    if landed != count:
        raise RuntimeError(f"the capture landed {landed} of {count} changes: its figure means nothing")
    return peak if measure_memory else seconds


def _capture(settings: Settings, folder: Path) -> tuple[int, float, float]:
    pa.array([0])  # imports pandas, a second or two: neither side's start counts
    begun = time.monotonic()
    report = capture(settings, lake=LocalLake(folder), source=SOURCE)
    seconds = time.monotonic() - begun
    return report.total, seconds, peak_mb()


def _our_snapshot(place: Place, rows: int) -> float:
    """Seconds of a whole backfill into durable batches, slot and all."""
    source = Scratch("bench", "public", "", f"bench_{secrets.token_hex(3)}", PUBLICATION, {TABLE: ("id",)},
                     published=(Published(TABLE),), url=place.superuser)
    folder = Path(tempfile.mkdtemp(prefix="snapshot-", dir=place.settings.home))
    place.slots.append(source.slot)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken, seconds = pool.submit(_backfill, place.settings, source, folder).result()
    shutil.rmtree(folder)
    place.drop_slot(source.slot)
    if taken != rows:
        raise RuntimeError(f"the snapshot took {taken} of {rows} rows: its figure means nothing")
    return seconds


def _backfill(settings: Settings, source: ConfiguredSource, folder: Path) -> tuple[int, float]:
    from adbc_driver_postgresql import dbapi  # noqa: F401 - neither side's start counts

    pa.array([0])
    report = backfill(settings, source, lake=LocalLake(folder))
    return sum(report.rows.values()), report.seconds


def _debezium_snapshot(place: Place, rows: int) -> float:
    """Seconds between the engine's first and last batch of its snapshot."""
    slot = f"bench_{secrets.token_hex(3)}"
    own = {"snapshot.mode": "initial", "snapshot.fetch.size": "10240", "slot.drop.on.stop": "true"}
    told = run_engine(connector(place.superuser, slot, PUBLICATION) | own, {"kind": "count"}, until=rows)
    with psycopg.connect(place.superuser, autocommit=True) as conn:
        conn.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s"
                     " and not active", [slot])
    if told["events"] != rows:
        raise RuntimeError(f"Debezium delivered {told['events']} of {rows} rows: its figure means nothing")
    return float(told["seconds"])


def _raw(_place: Place, settings: Settings, count: int) -> float:
    """Seconds to read the slot's messages and throw them away."""
    begun = asked = time.monotonic()
    seen = 0
    with replication(settings, SOURCE) as connection:
        state = inspect(connection, settings.cdc_slot)
        stream = Stream(connection, settings.cdc_slot, PUBLICATION, state.confirmed_lsn, 10.0)
        stream.status(state.confirmed_lsn, ask=True)
        get = stream.get
        while True:
            size, data = get(1)
            if size > 0 and data[0] == DATA:
                seen += 1
            elif size > 0:
                end, wants_reply = read_keepalive(data)
                if wants_reply:
                    stream.status(state.confirmed_lsn)
                if end >= state.wal_end:
                    break
            elif size == 0:
                stream.wait(0.25)
                if time.monotonic() - asked > 0.25:
                    stream.status(state.confirmed_lsn, ask=True)
                    asked = time.monotonic()
    if seen < count:
        raise RuntimeError(f"the raw drain saw {seen} messages of {count} changes: its figure means nothing")
    return time.monotonic() - begun


def _debezium(place: Place, settings: Settings, count: int) -> float:
    """Seconds between the engine's first and last batch; its start costs it nothing."""
    told = run_engine(connector(place.superuser, settings.cdc_slot, PUBLICATION), {"kind": "count"}, until=count)
    if told["events"] != count:
        raise RuntimeError(f"Debezium delivered {told['events']} of {count} changes: its figure means nothing")
    return float(told["seconds"])


def connector(url: str, slot: str, publication: str) -> dict[str, str]:
    """The engine's fastest settings: short polls, large batches, plain JSON, no transaction topic."""
    to = psycopg.conninfo.conninfo_to_dict(url)
    return {
        "name": "bench", "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "topic.prefix": "bench", "plugin.name": "pgoutput", "slot.name": slot, "publication.name": publication,
        "publication.autocreate.mode": "disabled", "snapshot.mode": "no_data",
        "database.hostname": str(to["host"]), "database.port": str(to["port"]), "database.user": str(to["user"]),
        "database.password": str(to["password"]), "database.dbname": str(to["dbname"]),
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "offset.flush.interval.ms": "60000", "poll.interval.ms": "20", "max.batch.size": "8192",
        "max.queue.size": "32768", "tombstones.on.delete": "false", "slot.drop.on.stop": "false",
        "key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
    }  # fmt: skip


def run_engine(properties: dict[str, str], sink: dict[str, str], *, until: int,
               timeout: float = 1800) -> dict[str, float]:
    """Run the Debezium engine in the peers' environment until it delivered so many events; what it counted."""
    if not PEERS.exists():
        raise PeerMissingError(f"{PEERS} is not there: run `make peers` first")
    done = subprocess.run(
        [PEERS, Path(debezium_engine.__file__)], timeout=timeout, check=False, capture_output=True, text=True,
        input=json.dumps({"properties": properties, "sink": sink, "until": until}))
    if done.returncode or not done.stdout.strip():
        raise RuntimeError(f"the Debezium engine ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def _place(settings: Settings, superuser: str, stored: int = STORED) -> Iterator[Place]:
    """A scratch database on the oltp server, dropped with its slots afterwards, and a scratch home."""
    name = f"bench_{secrets.token_hex(4)}"
    url = f"{superuser.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(superuser, autocommit=True) as conn, tempfile.TemporaryDirectory(dir=settings.home) as home:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        own = settings.model_copy(update={
            "home": Path(home), "cdc_dsn": SecretStr(url), "cdc_publication": PUBLICATION})
        place = Place(url, own, [])
        try:
            with psycopg.connect(url, autocommit=True) as inside:
                inside.execute(_SCHEMA)
                inside.execute("select fresh(1, %s)", [stored])
                inside.execute("vacuum analyze movements")
                inside.execute(sql.SQL("create publication {} for table {}").format(
                    sql.Identifier(PUBLICATION), sql.Identifier(TABLE)))
            yield place
        finally:
            for slot in list(place.slots):
                place.drop_slot(slot)
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
