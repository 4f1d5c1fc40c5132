"""`bench cdc`, applying: the fenced apply of a day's changes beside COPY of as many rows into a twin of the table.

Both tables are logged, have the same primary key and indexes and hold the same rows when a round begins. A day is 60 %
updates and 10 % deletes of keys that stand, 30 % new keys; every key changes once, so that nothing collapses away.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import Lake, LocalLake
from stripe_platform import keys, progress
from stripe_platform.bench import Report
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.catalogue import Details, Registrar
from stripe_platform.cdc.columns import TIMESTAMPTZ, name_lists
from stripe_platform.cdc.compact import compact
from stripe_platform.cdc.manifest import Epoch, Manifest
from stripe_platform.cdc.pgoutput import Column, Relation
from stripe_platform.cdc.pgtypes import BUILT_IN
from stripe_platform.oltp.schema import load_schema
from stripe_platform.settings import Settings
from stripe_platform.warehouse import raw, raw_copy, raw_tables

TABLE, FIRST = "payment_intents", dt.date(2026, 6, 1)
STORED, CHANGED, ROUNDS = 300_000, 200_000, 3
KEYS_GOAL, COPY_GOAL = 40_000, 0.25
OIDS = {name: oid for oid, name in BUILT_IN.items()}
RELATION = Relation(1, "oltp", TABLE, "d", tuple(
    Column(c.name, OIDS[c.type], -1, c.name in keys.TABLES[TABLE].key, c.type) for c in load_schema()[TABLE].columns))
EPOCH = Epoch(1, "bench", "1", 1, 0)
CREATED_US = 1_780_000_000_000_000


def apply(report: Report, settings: Settings, superuser: str, *, stored: int = STORED, changed: int = CHANGED,
          rounds: int = ROUNDS) -> None:
    """`apply/copy`: distinct keys a second into `raw`, and rows a second of COPY; adds figures, ratio and bars."""
    with _warehouse(superuser) as url, tempfile.TemporaryDirectory(dir=settings.home) as folder, \
            psycopg.connect(url, autocommit=True) as conn, progress.stage("apply", rounds * 2 + 1) as advance:
        log = _Log(LocalLake(Path(folder)), np.random.default_rng(0))
        log.day(new=stored, updates=0, deletes=0)
        raw.apply(conn, log.lake, TABLE, [log.last], first_day=FIRST)
        target, twin = sql.Identifier("raw", TABLE), sql.Identifier("raw", f"{TABLE}_twin")
        conn.execute(sql.SQL("create table {} (like {} including all) with (fillfactor = {})").format(
            twin, target, sql.Literal(raw_tables.FILLFACTOR)))
        advance(1)
        for _ in range(rounds):
            log.day(new=changed * 3 // 10, updates=changed * 6 // 10, deletes=changed // 10)
            conn.execute(sql.SQL("truncate {}").format(twin))
            conn.execute(sql.SQL("insert into {} select * from {}").format(twin, target))
            blocks = _copied(conn, target, changed)
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")
            report.add("copy", changed / _copy(conn, twin, blocks), "rows a second")
            advance(1)
            conn.execute("checkpoint")
            begun = time.monotonic()
            applied = raw.apply(conn, log.lake, TABLE, [log.last], first_day=FIRST)
            seconds = time.monotonic() - begun
            report.add("apply", applied.keys / seconds, "keys a second")
            _prove(conn, log, applied.keys, changed)
            advance(1)
    report.bar("apply, distinct keys a second", report.median("apply"), KEYS_GOAL)
    ratio = report.ratio("apply/copy", report.median("apply") / report.median("copy"))
    report.bar("apply/copy", ratio, COPY_GOAL)


class _Log:
    """A change log written day by day, each day one batch that closes it."""

    def __init__(self, lake: Lake, dice: np.random.Generator) -> None:
        self.lake, self.dice, self.last, self.lsn, self.top = lake, dice, FIRST - dt.timedelta(days=1), 0, 0
        self.alive = np.zeros(0, np.int64)
        self.before: Manifest | None = None
        self.registrar = Registrar(lake, lambda _relation: Details(keys.TABLES[TABLE].key))
        manifests.save_epoch(lake, EPOCH)

    def day(self, *, new: int, updates: int, deletes: int) -> None:
        """Close one more ledger day and compact it."""
        picked = self.dice.permutation(self.alive)[:updates + deletes]
        fresh = np.arange(self.top, self.top + new)
        numbers = np.concatenate([picked[:updates], fresh, picked[updates:]])
        ops = np.repeat(np.array(["u", "c", "d"]), [updates, new, deletes])
        order = self.dice.permutation(len(numbers))
        table = _changes(numbers[order], ops[order], self.lsn)
        self.alive = np.append(np.setdiff1d(self.alive, picked[updates:]), fresh)
        self.top, self.last = self.top + new, self.last + dt.timedelta(days=1)
        begun, self.lsn = self.lsn, self.lsn + len(numbers) * 8
        seq = self.before.seq + 1 if self.before else 1
        writer = BatchWriter(self.lake, seq, "oltp", self.registrar)
        writer.add([(RELATION, table)])
        made = Manifest(seq, self.before.digest if self.before else None, "oltp", EPOCH.slot, EPOCH.system_identifier,
                        EPOCH.timeline, EPOCH.ordinal, EPOCH.name, begun, self.lsn, table.num_rows, table.num_rows, 0,
                        None, None, self.last, writer.finish())
        self.lake.put_if_absent(made.path, made.encode())
        self.before = made
        compact(self.lake, TABLE, self.last, first_day=FIRST)


def _changes(numbers: np.ndarray, ops: np.ndarray, lsn: int) -> pa.Table:
    """Changes of payment intents in commit order, one commit each; a delete has its key alone."""
    rows, gone = len(numbers), ops == "d"
    known = {
        "id": (pa.array([f"pi_{n:032x}" for n in numbers]), False),
        "account_id": (pa.array([f"acct_{n % 1000:032x}" for n in numbers]), True),
        "customer_id": (pa.array([f"cus_{n % 50_000:032x}" for n in numbers]), True),
        "payment_method_id": (pa.array([f"pm_{n % 50_000:032x}" for n in numbers]), True),
        "amount": (pa.array(numbers * 37 % 100_000), True), "amount_received": (pa.array(np.full(rows, lsn)), True),
        "currency": (pa.array(["eur"] * rows), True), "status": (pa.array(["succeeded"] * rows), True),
        "capture_method": (pa.array(["automatic"] * rows), True),
        "created": (pa.array(CREATED_US + numbers).cast(TIMESTAMPTZ), True),
    }
    missing = pa.array(gone)
    arrays = {name: pa.compute.if_else(missing, None, values) if blank else values
              for name, (values, blank) in known.items()}
    arrays |= {
        "_op": pa.array(ops), "_commit_lsn": pa.array(lsn + 8 * np.arange(rows)),
        "_ord": pa.array(np.ones(rows, np.int64)), "_commit_ts": pa.array(CREATED_US + numbers).cast(TIMESTAMPTZ),
        "_epoch": pa.repeat(EPOCH.name, rows), "_source": pa.repeat("oltp", rows),
        "_unchanged": name_lists(["id"], np.zeros((1, rows), bool)),
    }
    return pa.table(arrays).select(dailies.schema_of(TABLE).names)


def _copied(conn: psycopg.Connection, target: sql.Identifier, rows: int) -> list[bytes]:
    """Rows of the table under new keys, as CSV blocks: what COPY costs when nothing has to be decided."""
    with conn.cursor() as cursor, cursor.copy(sql.SQL(
            "copy (select 'pj' || substr(id, 3), {} from {} limit {}) to stdout (format csv)").format(
                sql.SQL("account_id, customer_id, payment_method_id, amount, amount_received, currency, status,"
                        " capture_method, created, _source, _epoch, _commit_lsn, _ord, _deleted, _ledger_day"),
                target, sql.Literal(rows))) as copy:
        return [bytes(block) for block in copy]


def _copy(conn: psycopg.Connection, twin: sql.Identifier, lines: list[bytes]) -> float:
    blocks = [b"".join(lines[n:n + raw_copy.COPY_BATCH]) for n in range(0, len(lines), raw_copy.COPY_BATCH)]
    begun = time.monotonic()
    with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin (format csv)").format(twin)) as copy:
        for block in blocks:
            copy.write(block)
    return time.monotonic() - begun


def _prove(conn: psycopg.Connection, log: _Log, keys: int, changed: int) -> None:
    """A figure counts only when the table holds what the log says."""
    found = raw.count(conn, TABLE)
    if keys != changed or found != len(log.alive):
        raise RuntimeError(f"the apply left {found} rows where {len(log.alive)} are alive: its figure means nothing")


@contextmanager
def _warehouse(url: str) -> Iterator[str]:
    """A scratch database on the warehouse's server, dropped afterwards."""
    name = f"bench_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        try:
            yield f"{url.rsplit('/', 1)[0]}/{name}"
        finally:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


