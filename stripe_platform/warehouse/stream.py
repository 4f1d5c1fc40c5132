"""Batches into raw as they land: each run of batches is one transaction, with the position it brought raw to.

The same fence decides as in the apply by days, so whichever of the two comes first the rows are the same; the days'
apply finds them standing later. `raw._streamed` says up to which batch the open day's rows are there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import gather
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.cdc.quarantined import in_raw
from stripe_platform.warehouse import quarantine, raw

_STREAMED = """
create table if not exists raw._streamed (
    source text primary key,
    seq bigint not null,
    commit_ts timestamptz,
    applied_at timestamptz not null default clock_timestamp()
)"""


@dataclass(frozen=True)
class Streamed:
    """How far a source's batches are in raw. `commit_ts`: time of the newest commit among them."""

    seq: int
    commit_ts: dt.datetime | None = None


def streamed(conn: psycopg.Connection, source: str) -> Streamed:
    """The position of a source; batch 0 where nothing was streamed."""
    if conn.execute("select to_regclass('raw._streamed')").fetchone() == (None,):
        return Streamed(0)
    row = conn.execute("select seq, commit_ts from raw._streamed where source = %s", [source]).fetchone()
    return Streamed(*row) if row else Streamed(0)


def position(conn: psycopg.Connection, chain: Chain, source: str, first_day: dt.date) -> int:
    """The last batch that raw holds whole: streamed, or applied by days without a gap."""
    with conn.transaction():
        done = streamed(conn, source).seq
        standing: set[tuple[str, dt.date, str]] = set()
        if conn.execute("select to_regclass('raw._applied')").fetchone() != (None,):
            standing = set(conn.execute("select table_name, day, digest from raw._applied").fetchall())
    return whole_through(chain, done, standing, first_day)


def whole_through(chain: Chain, done: int, standing: set[tuple[str, dt.date, str]], first_day: dt.date) -> int:
    """The last batch held whole where batches up to `done` were streamed and these days of tables stand."""
    whole: dict[tuple[str, dt.date], bool] = {}
    for manifest, day in zip(chain.manifests, chain.days, strict=True):
        if manifest.seq <= done:
            continue
        if day is None:
            break
        for name in {f.table for f in manifest.files} - {name for name, of in whole if of == day}:
            digest = dailies.digest_of(name, day, dailies.sources_of(chain, name, day, first_day))
            whole[name, day] = (name, day, digest) in standing
        if not all(whole[f.table, day] for f in manifest.files):
            break
        done = manifest.seq
    return done


class RawStream:
    """Brings a source's batches into raw, in order, each once; begins where days or an earlier stream ended."""

    def __init__(self, conn: psycopg.Connection, lake: Lake, source: str, first_day: dt.date) -> None:
        self._conn, self._lake, self._source, self._first_day = conn, lake, source, first_day
        self._made: set[str] = set()
        with conn.transaction():
            conn.execute("select pg_advisory_xact_lock(hashtext('raw'), 0)")
            conn.execute("create schema if not exists raw")
            conn.execute(_STREAMED)

    def take(self, chain: Chain, batches: Sequence[Manifest]) -> int:
        """Apply batches that follow the position, in one transaction; keys written.

        Raises what `raw.take` raises.
        """
        try:
            return self._take(chain, batches, trusting=True)
        except quarantine.REFUSALS:
            self._made.clear()  # what was made went back with the transaction
            return self._take(chain, batches, trusting=False)

    def _take(self, chain: Chain, batches: Sequence[Manifest], *, trusting: bool) -> int:
        written = 0
        with self._conn.transaction():
            self._conn.execute("select pg_advisory_xact_lock(hashtext('raw'), hashtext(%s))", [f"of:{self._source}"])
            done = streamed(self._conn, self._source).seq
            batches = [m for m in batches if m.seq > done]
            if not batches:
                return 0
            for table in sorted({f.table for m in batches for f in m.files}):
                written += self._take_table(chain, table, batches, trusting=trusting)
            last = batches[-1]
            for manifest in batches:
                if manifest.closes is not None:
                    self._rename_day(chain, manifest)
            self._conn.execute(
                "insert into raw._streamed (source, seq, commit_ts) values (%s, %s, %s) on conflict (source) do update"
                " set seq = excluded.seq, commit_ts = excluded.commit_ts, applied_at = clock_timestamp()",
                [self._source, last.seq, last.last_commit])
        return written

    def put_aside(self) -> int:
        """Keys of any table that raw has put aside."""
        return sum(in_raw(self._conn).values())

    def _take_table(self, chain: Chain, table: str, batches: Sequence[Manifest], *, trusting: bool) -> int:
        run = raw.run_of(self._lake, chain, table)
        if table not in self._made:
            raw.create(self._conn, run)
            self._made.add(table)
        written = 0
        for changes in changes_of(self._lake, chain, table, batches, self._first_day):
            written += raw.take(self._conn, run, changes, trusting=trusting)
        return written

    def _rename_day(self, chain: Chain, manifest: Manifest) -> None:
        expected, tables = expected_day(chain, manifest, self._first_day)
        if manifest.closes == expected:
            return
        for table in tables:
            name = raw.run_of(self._lake, chain, table).name
            self._conn.execute(sql.SQL("update {} set _ledger_day = %s where _ledger_day = %s").format(
                sql.Identifier("raw", name)), [manifest.closes, expected])


def expected_day(chain: Chain, manifest: Manifest, first_day: dt.date) -> tuple[dt.date, list[str]]:
    """The day that rows bear which came while the day that a batch closes was open, and the tables that have some.

    The boundary says which day it was, and it may be another one.
    """
    before = [m for m in chain.manifests if m.closes and m.seq < manifest.seq]
    since = before[-1].seq if before else 0
    tables = sorted({f.table for m in chain.manifests if since < m.seq <= manifest.seq for f in m.files})
    closed = before[-1].closes if before else None
    return (first_day if closed is None else closed + dt.timedelta(days=1)), tables


def changes_of(lake: Lake, chain: Chain, table: str, batches: Sequence[Manifest],
               first_day: dt.date) -> Iterator[pa.Table]:
    """The table's changes of these batches with their ledger day, a day at a time."""
    for day, files in by_day(chain, table, batches, first_day):
        changes = gather(lake, table, files, chain)
        yield changes.append_column("_ledger_day", pa.repeat(pa.scalar(day), changes.num_rows))


def by_day(chain: Chain, table: str, batches: Sequence[Manifest],
           first_day: dt.date) -> list[tuple[dt.date, tuple[dailies.Source, ...]]]:
    """The table's files by ledger day, in order. A day that is open as yet is the one after the last closed."""
    found: dict[dt.date, list[dailies.Source]] = {}
    for manifest in batches:
        day = chain.day_of(manifest.seq) or chain.open_day(first_day)
        found.setdefault(day, []).extend(
            dailies.Source(manifest.seq, f.path, f.sha256) for f in manifest.files_of(table))
    return [(day, tuple(files)) for day, files in found.items() if files]
