"""Level C of the proof: at one position of the log, every captured table equals what the log folds to, row by row.

A temporary slot exports a snapshot of the source together with its log position L. There each table is hashed into
1024 buckets by key; the same is done with our fold of the commits before L. Buckets that differ are looked at key by
key. The source is asked for sums only, on a connection that cannot write.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import Lake
from stripe_platform import progress
from stripe_platform.cdc import canonical, catalogue, columns
from stripe_platform.cdc.capture import CaptureBusyError, CaptureError, capture, durable_position
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.manifest import canonical as canonical_json
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text
from stripe_platform.cdc.slot import OPTIONS, replication
from stripe_platform.cdc.snapshots import state_before
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.settings import Settings

if TYPE_CHECKING:
    import duckdb

VERIFIED = "cdc/verified.json"
NAMED = 20  # differing keys that are named by table; all are counted
PATIENCE = 60.0  # seconds for another capture to pass the position
Kind = Literal["lost", "extra", "altered", "doubled"]
Bucket = tuple[int, int, int]  # rows, sums of two halves of their hashes


@dataclass(frozen=True)
class Difference:
    """A key whose rows differ. `lost`: the log's fold lacks it, `extra`: the source does, `doubled`: too often here."""

    kind: Kind
    key: str


@dataclass
class TableProof:
    """What was compared of one table; equal when nothing differs. `unseen`: columns that no change brought yet."""

    table: str
    rows: int = 0
    rows_of_log: int = 0
    buckets_differing: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def equal(self) -> bool:
        return not self.buckets_differing and self.problem is None


@dataclass
class Proof:
    """Level C of one source at one position."""

    source: str
    lsn: str
    at: str
    epoch: str = ""
    tables: list[TableProof] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return all(table.equal for table in self.tables)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def problems(self) -> list[str]:
        """One sentence for each table that differs."""
        return [_sentence(table, self.lsn) for table in self.tables if not table.equal]


def _sentence(proof: TableProof, lsn: str) -> str:
    if proof.problem:
        return f"{proof.table}: {proof.problem}"
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(proof.counts.items()))
    named = ", ".join(f"{d.key} ({d.kind})" for d in proof.differences[:3])
    return (f"{proof.table}: the log's fold differs from the source at {lsn} in {counts}; first {named}: take the table"
            f" anew with `stripe-platform cdc snapshot --table {proof.table}`")


def reconcile(settings: Settings, *, source: Source = OLTP, lake: Lake | None = None,
              tables: Sequence[str] | None = None) -> Proof:
    """Compare the captured tables of a source (or those named) with the log's fold, at one position of the log.

    Publishes in the lake how far each table is verified. Raises `CaptureError` when the log cannot be read up to the
    position, `ChainError` when it is broken.
    """
    lake, begun = lake or source.lake(settings), time.monotonic()
    with _frozen(settings, source) as (reader, lsn):
        at = dt.datetime.now(dt.UTC)
        _bring(settings, source, lake, lsn)
        chain = Chain.load(lake)
        known = catalogue_tables(chain, source)
        wanted = [each for each in _published(reader, source, settings)
                  if each.name in known and (tables is None or each.name in tables)]
        proof = Proof(source.name, lsn_text(lsn), at.isoformat(timespec="seconds"),
                      chain.manifests[-1].epoch if chain.manifests else "")
        with progress.stage(f"compare {source.name} with its log", len(wanted)) as advance:
            for each in sorted(wanted, key=lambda each: each.name):
                proof.tables.append(_compare(reader, lake, chain, settings, each, lsn))
                advance(1)
    proof.seconds = time.monotonic() - begun
    _publish(lake, proof)
    return proof


def catalogue_tables(chain: Chain, source: Source) -> set[str]:
    """Tables the log knows: declared ones, and those that a change brought."""
    return {*source.tables, *catalogue.tables(chain)}


@contextmanager
def _frozen(settings: Settings, source: Source) -> Iterator[tuple[psycopg.Connection, int]]:
    """A read-only connection that sees the source as of one log position, and that position."""
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
            yield reader, lsn_int(str(row[1]))


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


@dataclass(frozen=True)
class _Subject:
    """A published table: its name in the lake, where it is, its published columns and row filter."""

    name: str
    qualified: sql.Identifier
    columns: list[str]
    condition: str | None


def _published(reader: psycopg.Connection, source: Source, settings: Settings) -> list[_Subject]:
    found = reader.execute(
        "select schemaname, tablename, attnames, rowfilter from pg_publication_tables where pubname = %s",
        [source.publication_name(settings)]).fetchall()
    return [_Subject(table if schema == source.schema else f"{schema}.{table}", sql.Identifier(schema, table),
                     list(names), condition)
            for schema, table, names, condition in found if f"{schema}.{table}" != source.calendar]


def _compare(reader: psycopg.Connection, lake: Lake, chain: Chain, settings: Settings, subject: _Subject,
             lsn: int) -> TableProof:
    name, names = subject.name, subject.columns
    proof = TableProof(name)
    try:
        state = state_before(lake, name, lsn, chain=chain, first_day=settings.first_day)
        shape = catalogue.shape_of(lake, chain, name)
    except ChainError as error:
        proof.problem = str(error)
        return proof
    compared = {c: (shape.schema.field(c).type if c in shape.schema.names else state.schema.field(c).type)
                for c in state.column_names if columns.is_own(c) and not c.endswith(columns.EXACT) and c in names}
    proof.unseen = sorted(set(names) - set(compared))
    here = {c: canonical.in_postgres(sql.Identifier(c).as_string(), kind) for c, kind in compared.items()}
    there = {c: canonical.in_duckdb(_quoted(c), state.schema.field(c).type, _exact(state, c)) for c in compared}
    where = f" where {subject.condition}" if subject.condition else ""
    table = subject.qualified.as_string()
    question = _key_and_content(shape.key, here)
    answer = _key_and_content(shape.key, there)
    with _in_memory(state) as duck:
        source_side = _buckets(reader.execute(
            canonical.digests(table, *question, duck=False, where=where)).fetchall())
        log_side = _buckets(duck.execute(canonical.digests("state", *answer, duck=True)).fetchall())
        proof.rows = sum(rows for rows, *_ in source_side.values())
        proof.rows_of_log = sum(rows for rows, *_ in log_side.values())
        differing = sorted(b for b in source_side.keys() | log_side.keys() if source_side.get(b) != log_side.get(b))
        proof.buckets_differing = len(differing)
        if differing:
            _name(proof,
                  reader.execute(canonical.rows_of(
                      table, *question, differing, duck=False, where=where)).fetchall(),
                  duck.execute(canonical.rows_of("state", *answer, differing, duck=True)).fetchall())
    return proof


def _key_and_content(key: Sequence[str], texts: Mapping[str, str]) -> tuple[str, str]:
    """SQL of a row's key and of its content; a row without a key is named by its hash, not by its values."""
    content = canonical.row(list(texts.values()))
    return canonical.row([texts[c] for c in key]) if key else f"md5({content})", content


def _name(proof: TableProof, source: list[tuple[str, str]], log: list[tuple[str, str]]) -> None:
    """Which keys of the differing buckets differ, and how."""
    ours, theirs = _by_key(log), _by_key(source)
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key, []), theirs.get(key, [])
        if mine == other:
            continue
        kind: Kind = ("lost" if not mine else "extra" if not other else
                      "doubled" if len(mine) > len(other) and set(mine) >= set(other) else "altered")
        proof.counts[kind] = proof.counts.get(kind, 0) + 1
        if len(proof.differences) < NAMED:
            proof.differences.append(Difference(kind, _readable(key)))


def _by_key(rows: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, digest in rows:
        found.setdefault(key, []).append(digest)
    return {key: sorted(digests) for key, digests in found.items()}


def _readable(key: str) -> str:
    """A key's text without the lengths of its parts."""
    return ", ".join(part.partition(":")[2] if part.partition(":")[0].isdigit() and ":" in part else part
                     for part in key.split("\x1f"))


def _buckets(rows: list[tuple[Any, ...]]) -> dict[int, Bucket]:
    return {int(bucket): (int(count), int(high), int(low)) for bucket, count, high, low in rows}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _exact(state: pa.Table, name: str) -> str | None:
    return _quoted(columns.exact(name)) if columns.exact(name) in state.column_names else None


@contextmanager
def _in_memory(state: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("state", state)
        yield connection


def _publish(lake: Lake, proof: Proof) -> None:
    """Keep how far each table is verified; a table that differed keeps what was proven before."""
    known = verified(lake)
    for table in proof.tables:
        if table.equal:
            known[table.table] = {"verified_through": proof.lsn, "epoch": proof.epoch, "at": proof.at,
                                  "rows": table.rows}
        else:
            known[table.table] = known.get(table.table, {}) | {"differs_at": proof.lsn}
    lake.put(VERIFIED, canonical_json(known))


def verified(lake: Lake) -> dict[str, dict[str, Any]]:
    """By table: `verified_through` (position), `epoch`, `at`, `rows`, and `differs_at` where a later proof failed."""
    return json.loads(lake.read(VERIFIED)) if lake.size(VERIFIED) is not None else {}


def as_json(proof: Proof) -> Mapping[str, Any]:
    """The proof as one object; tables that are equal only by name and rows."""
    return {"source": proof.source, "lsn": proof.lsn, "at": proof.at, "equal": proof.equal, "rows": proof.rows,
            "seconds": round(proof.seconds, 3), "problems": proof.problems(),
            "tables": {t.table: {"rows": t.rows} if t.equal else asdict(t) for t in proof.tables}}
