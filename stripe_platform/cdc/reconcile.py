"""Level C of the proof: at one position of the log, every captured table equals what the log folds to, row by row.

A temporary slot exports a snapshot of the source together with its log position L. There each table is compared with
our fold of the commits before L (`compare`). The source is asked for hashes only, on a connection that cannot write.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from resources.lake import Lake
from stripe_platform import progress
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.capture import CaptureBusyError, CaptureError, capture, durable_position
from stripe_platform.cdc.compare import Comparison, Subject, in_memory
from stripe_platform.cdc.manifest import Chain, fed_by_a_stream
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text
from stripe_platform.cdc.proof import Proof, Verified, publish, standing
from stripe_platform.cdc.slot import OPTIONS, replication
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import Settings

PATIENCE = 60.0  # seconds for another capture to pass the position
WHOLE_EVERY = dt.timedelta(days=7)  # a proof of changes alone does not see what went around the log


def reconcile(settings: Settings, *, source: Source = OLTP, lake: Lake | None = None,
              tables: Sequence[str] | None = None, whole: bool = True) -> Proof:
    """Compare the captured tables of a source (or those named) with the log's fold, at one position of the log.

    `whole=False`: of tables whose last proof held, only what changed since, unless every row's turn has come again.
    Publishes in the lake how far each table is verified. Raises `CaptureError` when the log cannot be read up to the
    position, `ChainError` when it is broken.
    """
    lake, begun = lake or source.lake(settings), time.monotonic()
    if fed_by_a_stream(lake):
        raise CaptureError(f"the log of {source.name} is fed by a Debezium stream, which cannot be read up to one"
                           " position of the source: prove the log alone with --log-only")
    with _frozen(settings, source) as frozen:
        at = dt.datetime.now(dt.UTC)
        _bring(settings, source, lake, frozen.lsn)
        chain = Chain.load(lake)
        proven = {} if whole else _recent(lake, at)
        known = {*source.tables, *catalogue.tables(chain)}
        wanted = [each for each in _published(frozen.reader, source, settings)
                  if each.name in known and (tables is None or each.name in tables)]
        proof = Proof(source.name, lsn_text(frozen.lsn), at.isoformat(timespec="seconds"),
                      chain.manifests[-1].epoch if chain.manifests else "", frozen.xmin,
                      retakes=isinstance(source, ConfiguredSource))
        with progress.stage(f"compare {source.name} with its log", len(wanted)) as advance, \
                ThreadPoolExecutor(1) as pool, in_memory() as duck:
            waiting: Comparison | None = None
            for each in sorted(wanted, key=lambda each: each.name):
                comparison = Comparison(lake, chain, settings.first_day, each, frozen.lsn, proven.get(each.name))
                comparison.begin(frozen.reader, pool)  # the source never waits for the log's side
                if waiting is not None:
                    proof.tables.append(waiting.end(frozen.reader, duck))
                    advance(1)
                waiting = comparison
            if waiting is not None:
                proof.tables.append(waiting.end(frozen.reader, duck))
                advance(1)
    proof.seconds = time.monotonic() - begun
    publish(lake, proof)
    return proof


def _recent(lake: Lake, now: dt.datetime) -> dict[str, Verified]:
    return {table: proven for table, proven in standing(lake).items() if now - proven.whole_at < WHOLE_EVERY}


@dataclass(frozen=True)
class _Frozen:
    """The source as of one log position: a read-only connection, the position, the oldest transaction then open."""

    reader: psycopg.Connection
    lsn: int
    xmin: int


@contextmanager
def _frozen(settings: Settings, source: Source) -> Iterator[_Frozen]:
    name = f"verify_{int(time.time() * 1e6):x}"
    with replication(settings, source) as walsender:
        row = walsender.execute(sql.SQL(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')").format(
                sql.Identifier(name))).fetchone()
        assert row is not None  # noqa: S101 - the command always answers one row
        with psycopg.connect(source.reader_conninfo(settings), autocommit=True, client_encoding="UTF8",
                             options=f"{OPTIONS} -c default_transaction_read_only=on",
                             application_name="stripe_platform_verify") as reader:
            reader.execute("begin isolation level repeatable read read only")
            reader.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(row[2])))
            xmin = reader.execute("select pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
            assert xmin is not None  # noqa: S101 - the function always answers
            yield _Frozen(reader, lsn_int(str(row[1])), int(xmin[0]))


def _bring(settings: Settings, source: Source, lake: Lake, lsn: int) -> None:
    """Make the log durable up to the position; another capture may do it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            capture(settings, lake=lake, source=source, wait_seconds=0.5)
            return
        except CaptureBusyError:
            if durable_position(lake)[1] >= lsn:
                return
            if time.monotonic() > until:
                raise CaptureError(f"another capture of {source.name} did not reach {lsn_text(lsn)} in"
                                   f" {PATIENCE:.0f} s: look at its lag, then verify again") from None


_PUBLISHED = """
select p.schemaname, p.tablename, p.rowfilter,
    (select json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
     where a.attrelid = c.oid and a.attname = any(p.attnames) and not a.attisdropped)
from pg_publication_tables p join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
where p.pubname = %s
"""


def _published(reader: psycopg.Connection, source: Source, settings: Settings) -> list[Subject]:
    found = reader.execute(_PUBLISHED, [source.publication_name(settings)]).fetchall()
    return [Subject(table if schema == source.schema else f"{schema}.{table}", schema, table, types, condition)
            for schema, table, condition, types in found if f"{schema}.{table}" != source.calendar]
