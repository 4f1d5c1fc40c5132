"""One table at one log position: the source's rows and the log's fold, hashed alike, named by key where they differ.

Whole: sums of hashes by 1024 buckets, then the keys of those that differ. Since the last proof: the keys that the log
or the source's own row versions show as changed, and the number of all rows, which a lost deletion changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc import canonical, catalogue, columns
from stripe_platform.cdc.compact import read_rows
from stripe_platform.cdc.daily import Source
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.proof import Difference, Kind, TableProof, Verified
from stripe_platform.cdc.snapshots import state_before

if TYPE_CHECKING:
    import datetime as dt

    import duckdb

NAMED = 20  # differing keys that are named by table; all are counted
MOST_KEYS = 200_000  # changed since the last proof; beyond, sums by bucket are cheaper
Bucket = tuple[int, int, int]  # rows, sums of two halves of their hashes


@dataclass(frozen=True)
class Subject:
    """A published table: its name in the lake, where it is, its published columns with their types, its row filter."""

    name: str
    schema: str
    table: str
    columns: Mapping[str, str]
    condition: str | None

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)


@dataclass(frozen=True)
class Asked:
    """What both sides are asked of a table: texts of key and content, and the log's rows to ask them of."""

    subject: Subject
    state: pa.Table
    key: tuple[str, ...]
    source: tuple[str, str]
    log: tuple[str, str]
    changed: pa.Table | None  # keys that the log changed since the last proof; None: every row is compared
    since: Verified | None


class Comparison:
    """A table's comparison: the source is asked in a thread of its own, so that the log is folded meanwhile."""

    def __init__(self, lake: Lake, chain: Chain, first_day: dt.date, subject: Subject, lsn: int,
                 since: Verified | None) -> None:
        self.proof = TableProof(subject.name)
        self._asked: Asked | None = None
        self._source: Future[Any] | None = None
        undescribed = not catalogue.is_declared(chain, subject.name) and subject.name not in catalogue.tables(chain)
        self._undescribed = subject if undescribed else None  # no change of it was ever captured
        try:
            self._asked = self._ask(lake, chain, first_day, subject, lsn, since)
        except ChainError as error:
            self.proof.problem = str(error)

    def _ask(self, lake: Lake, chain: Chain, first_day: dt.date, subject: Subject, lsn: int,
             since: Verified | None) -> Asked:
        state = state_before(lake, subject.name, lsn, chain=chain, first_day=first_day)
        shape = catalogue.shape_of(lake, chain, subject.name)
        kinds = {c: (shape.schema.field(c).type if c in shape.schema.names else state.schema.field(c).type)
                 for c in state.column_names
                 if columns.is_own(c) and not c.endswith(columns.EXACT) and c in subject.columns}
        self.proof.unseen = sorted(set(subject.columns) - set(kinds))
        here = {c: canonical.in_postgres(sql.Identifier(c).as_string(), kind) for c, kind in kinds.items()}
        there = {c: canonical.in_duckdb(_quoted(c), state.schema.field(c).type, _exact(state, c)) for c in kinds}
        changed = changed_keys(lake, chain, subject.name, since, lsn) if since else None
        return Asked(subject, state, tuple(shape.key), _texts(shape.key, here), _texts(shape.key, there), changed,
                     since)

    def begin(self, reader: psycopg.Connection, pool: Executor) -> None:
        """Ask the source, behind what the pool is asking it already."""
        if self._asked is not None:
            ask = _changed_rows if self._asked.changed is not None else _source_buckets
            self._source = pool.submit(ask, reader, self._asked)

    def end(self, reader: psycopg.Connection, duck: duckdb.DuckDBPyConnection) -> TableProof:
        """The log's side, then what differs. `duck`: of `in_memory`, for all tables: to open one takes 30 ms."""
        if self._undescribed is not None:
            self.proof.rows = _rows_of(reader, self._undescribed)
            self.proof.problem = self.proof.problem if self.proof.rows else None
        if self._asked is None or self._source is None:
            return self.proof
        asked, self._asked = self._asked, None
        self.proof.total = asked.state.num_rows
        duck.register("state", asked.state)
        try:
            if asked.changed is None:
                log = _log_buckets(duck, asked)  # while the source counts
                return self._by_buckets(asked, reader, duck, self._source.result(), log)
            found = self._source.result()
            if found is None or not self._by_keys(asked, asked.changed, duck, *found):
                self._by_buckets(asked, reader, duck, _source_buckets(reader, asked), _log_buckets(duck, asked))
            return self.proof
        finally:
            duck.unregister("state")

    def _by_keys(self, asked: Asked, changed: pa.Table, duck: duckdb.DuckDBPyConnection,
                 rows: list[tuple[str, str]], total: int) -> bool:
        """Compare the keys changed; False when the tables' sizes differ, so that every row must be looked at."""
        if total != asked.state.num_rows:
            return False
        duck.register("changed", changed)
        duck.register("seen", pa.table({"key": pa.array([key for key, _ in rows], pa.string())}))
        key, content = asked.log
        mine = duck.execute(
            f"select {key}, md5({content}) from state where {key} in"  # noqa: S608 (catalogue's names)
            f" (select key from seen union select {_key_of(asked.changed, asked.key)} from changed)").fetchall()
        self.proof.keys, self.proof.rows, self.proof.rows_of_log = changed.num_rows, len(rows), len(mine)
        _name(self.proof, rows, mine)
        self.proof.buckets_differing = len(self.proof.counts)
        return True

    def _by_buckets(self, asked: Asked, reader: psycopg.Connection, duck: duckdb.DuckDBPyConnection,
                    source: dict[int, Bucket], log: dict[int, Bucket]) -> TableProof:
        self.proof.keys = None
        self.proof.rows = sum(rows for rows, *_ in source.values())
        self.proof.rows_of_log = sum(rows for rows, *_ in log.values())
        differing = sorted(b for b in source.keys() | log.keys() if source.get(b) != log.get(b))
        self.proof.buckets_differing = len(differing)
        if differing:
            _name(self.proof,
                  reader.execute(canonical.rows_of(
                      _table(asked), *asked.source, differing, duck=False, where=_where(asked))).fetchall(),
                  duck.execute(canonical.rows_of("state", *asked.log, differing, duck=True)).fetchall())
        return self.proof


def changed_keys(lake: Lake, chain: Chain, table: str, since: Verified, lsn: int) -> pa.Table | None:
    """Keys that the log changed in [since, lsn); None where that does not say which rows may differ."""
    key = catalogue.declared(table).key if catalogue.is_declared(chain, table) else ()
    manifests = [m for m in chain.manifests if m.to_lsn > since.lsn and m.from_lsn < lsn and m.epoch == since.epoch]
    if not key or not chain.manifests or chain.manifests[-1].epoch != since.epoch:
        return None
    files = [(m.seq, f) for m in manifests for f in m.files_of(table)]
    if any("t" in f.ops for _seq, f in files) or sum(f.rows for _seq, f in files) > MOST_KEYS:
        return None
    schema = pa.schema([catalogue.declared(table).schema.field(name) for name in key])
    parts = [schema.empty_table()]
    for seq, file in files:
        rows = read_rows(lake, chain, table, Source(seq, file.path, file.sha256), [*key, "_commit_lsn"])
        inside = pc.and_(pc.greater_equal(rows["_commit_lsn"], since.lsn), pc.less(rows["_commit_lsn"], lsn))
        parts.append(rows.filter(inside).select(list(key)).cast(schema))
    return pa.concat_tables(parts).group_by(list(key)).aggregate([])


def _changed_rows(reader: psycopg.Connection, asked: Asked) -> tuple[list[tuple[str, str]], int] | None:
    """Key and hash of the source's rows that the log or their own versions show as changed, and how many rows there
    are; None where too many changed. A row's `xmin` stays readable when it is frozen."""
    assert asked.changed is not None  # noqa: S101 - asked for keys only then
    assert asked.since is not None  # noqa: S101
    key, content = asked.source
    types = asked.subject.columns
    names = ", ".join(sql.Identifier(name).as_string() for name in asked.key)
    listed = ", ".join(f"unnest(%s::text[])::{types[name]}" for name in asked.key)
    keys = [columns.text(asked.changed[name].combine_chunks()).to_pylist() for name in asked.key]
    where = _where(asked).replace("%", "%%")
    both = "and" if where else " where"
    statement = (f"select {key}, md5({content}) from {_table(asked)}".replace("%", "%%") + where  # noqa: S608
                 + f" {both} (({names}) in (select {listed}) or age(xmin) <= age(%s::xid)) limit {2 * MOST_KEYS}")
    rows = reader.execute(statement.encode(), [*keys, str(asked.since.xmin % 2**32)]).fetchall()
    if len(rows) == 2 * MOST_KEYS:
        return None
    return rows, _rows_of(reader, asked.subject)


def _source_buckets(reader: psycopg.Connection, asked: Asked) -> dict[int, Bucket]:
    return _buckets(reader.execute(canonical.digests(
        _table(asked), *asked.source, duck=False, where=_where(asked)).encode()).fetchall())


def _log_buckets(duck: duckdb.DuckDBPyConnection, asked: Asked) -> dict[int, Bucket]:
    return _buckets(duck.execute(canonical.digests("state", *asked.log, duck=True)).fetchall())


def _buckets(rows: list[tuple[Any, ...]]) -> dict[int, Bucket]:
    return {int(bucket): (int(count), int(high), int(low)) for bucket, count, high, low in rows}


def _table(asked: Asked) -> str:
    return asked.subject.identifier.as_string()


def _where(asked: Asked) -> str:
    return _filter(asked.subject)


def _filter(subject: Subject) -> str:
    return f" where ({subject.condition})" if subject.condition else ""


def _rows_of(reader: psycopg.Connection, subject: Subject) -> int:
    query = f"select count(*) from {subject.identifier.as_string()}{_filter(subject)}"  # noqa: S608
    row = reader.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def _texts(key: Sequence[str], texts: Mapping[str, str]) -> tuple[str, str]:
    """SQL of a row's key and of its content; a row without a key is named by its hash, not by its values."""
    content = canonical.row(list(texts.values()))
    return canonical.row([texts[c] for c in key]) if key else f"md5({content})", content


def _key_of(rows: pa.Table | None, key: Sequence[str]) -> str:
    assert rows is not None  # noqa: S101
    return canonical.row([canonical.in_duckdb(_quoted(name), rows.schema.field(name).type) for name in key])


def _name(proof: TableProof, source: list[tuple[str, str]], log: list[tuple[str, str]]) -> None:
    """Which of these keys differ, and how."""
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


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _exact(state: pa.Table, name: str) -> str | None:
    return _quoted(columns.exact(name)) if columns.exact(name) in state.column_names else None


@contextmanager
def in_memory() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database for the log's side."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        yield connection
