"""Reading a table as of one log position: a temporary slot exports the snapshot, ADBC reads it by binary COPY.

A slot's snapshot holds exactly the commits before its consistent point, so that rows read in it join the stream
without a gap or an overlap. `L - 1` is their position: records begin at multiples of eight, no commit can be there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import make_conninfo

from stripe_platform.cdc import columns as values
from stripe_platform.cdc.pgoutput import Column, Relation, lsn_int
from stripe_platform.cdc.pgtypes import FIRST_USER_OID, type_name
from stripe_platform.cdc.slot import OPTIONS, replication
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import Settings

PIECE_BYTES = 8 << 20  # read at once; a row is never cut
LOCK_TIMEOUT = "30s"  # with transactions that are open when the snapshot is taken, and with locks on the tables


class CopyError(RuntimeError):
    """A table cannot be read; the message names it and the remedy. What was read stays; the next call goes on."""


class RewrittenError(CopyError):
    """The table was rewritten or truncated after the snapshot was taken, which its rows do not show: take another."""


@dataclass(frozen=True)
class Session:
    """One snapshot: `lsn` the position it was taken at, valid while the context lives. `encoding`: of what is read."""

    settings: Settings
    source: ConfiguredSource
    lsn: int
    name: str
    encoding: str

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """The owner's connection inside the snapshot, read only."""
        with closing(psycopg.connect(
                self.source.owner_conninfo(self.settings), autocommit=True, client_encoding="UTF8",
                options=f"{OPTIONS} -c lock_timeout={LOCK_TIMEOUT}",
                application_name="stripe_platform_snapshot")) as connection:
            connection.execute("begin isolation level repeatable read read only")
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(self.name)))
            yield connection

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """A connection of ADBC inside the snapshot, whose cursors give Arrow batches without a Python object a row."""
        from adbc_driver_postgresql import dbapi

        own = make_conninfo(self.source.owner_conninfo(self.settings), client_encoding=self.encoding,
                            options=f"{OPTIONS} -c lock_timeout={LOCK_TIMEOUT}",
                            application_name="stripe_platform_snapshot")
        with ExitStack() as opened:
            with _answering():
                connection = opened.enter_context(dbapi.connect(own))  # begins a transaction
                with connection.cursor() as cursor:
                    cursor.execute("set transaction isolation level repeatable read read only")
                    cursor.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(self.name)).as_string())
            yield connection


@contextmanager
def _answering() -> Iterator[None]:
    """What goes wrong while the source is asked, without the server's words, which may quote a row."""
    from adbc_driver_postgresql import dbapi

    try:
        yield
    except (dbapi.Error, OSError) as error:  # Arrow's streams end in the latter
        state = getattr(error, "sqlstate", None) or "unknown"
        raise CopyError(f"the source stopped answering (SQLSTATE {state}): call again, what was read stays") from None


@contextmanager
def session(settings: Settings, source: ConfiguredSource) -> Iterator[Session]:
    """Take a snapshot at a log position; raises `CopyError` while a long transaction keeps it from being taken."""
    with replication(settings, source) as walsender:
        walsender.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
        try:
            row = walsender.execute(sql.SQL(
                "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')").format(
                    sql.Identifier(f"snapshot_{secrets.token_hex(8)}"))).fetchone()
        except psycopg.errors.LockNotAvailable:
            raise CopyError(f"a transaction at source {source.name} is open for more than {LOCK_TIMEOUT}, no snapshot"
                            " can be taken meanwhile: let it end, then call again") from None
        assert row is not None  # noqa: S101 - the command always answers one row
        # A database without an encoding refuses to send as UTF-8 what is none: it sends its bytes as they are.
        without = walsender.info.parameter_status("server_encoding") == "SQL_ASCII"
        yield Session(settings, source, lsn_int(str(row[1])), str(row[2]), "SQL_ASCII" if without else "UTF8")


@dataclass(frozen=True)
class Leaf:
    """A table or partition that holds rows. `filenode`: its file, another one after a rewrite; `blocks` of 8 kB."""

    schema: str
    name: str
    filenode: int
    blocks: int

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Subject:
    """A published table inside a snapshot: what the log would call it, the published rows, where they lie."""

    relation: Relation
    names: tuple[str, ...]  # of the columns at the source
    where: str | None
    leaves: tuple[Leaf, ...]


_PUBLISHED = """
select c.oid, p.attnames::text[], p.rowfilter, c.relreplident
from pg_publication_tables p join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
where p.pubname = %s and p.schemaname = %s and p.tablename = %s
"""
_COLUMNS = """
with recursive base as (
    select t.oid as origin, t.* from pg_type t
    union all
    select b.origin, t.* from base b join pg_type t on t.oid = b.typbasetype where b.typtype = 'd'
)
select a.attname, a.atttypid, a.atttypmod, n.nspname, b.typname, c.relreplident = 'f' or exists (
    select from pg_index i where i.indrelid = c.oid and a.attnum = any(i.indkey)
        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end)
from pg_attribute a join pg_class c on c.oid = a.attrelid
join base b on b.origin = a.atttypid and b.typtype <> 'd' join pg_namespace n on n.oid = b.typnamespace
where a.attrelid = %s and a.attname = any(%s::text[]) and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_LEAVES = """
select n.nspname, c.relname, c.relfilenode, pg_relation_size(c.oid) / current_setting('block_size')::integer
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and (c.oid = %(oid)s or c.oid in (select relid from pg_partition_tree(%(oid)s) where isleaf))
order by 1, 2
"""


def subject(connection: psycopg.Connection, source: ConfiguredSource, publication: str, name: str) -> Subject:
    """The published table as the snapshot has it, locked against rewrites; `CopyError` where it is not published."""
    schema, table = source.place_of(name)
    row = connection.execute(_PUBLISHED, [publication, schema, table]).fetchone()
    if row is None:
        raise CopyError(f"{schema}.{table} is not published by source {source.name}: name it in the file of sources and"
                        " run `stripe-platform cdc publish`")
    oid, attnames, where, identity = row
    found = connection.execute(_COLUMNS, [oid, attnames]).fetchall()
    columns = []
    for column, kind, typmod, namespace, base, in_key in found:
        named = None if kind < FIRST_USER_OID else base if namespace == "pg_catalog" else f"{namespace}.{base}"
        columns.append(Column(values.landed(column), kind, typmod, in_key, type_name(kind, typmod, named)))
    leaves = tuple(Leaf(*leaf) for leaf in connection.execute(_LEAVES, {"oid": oid}))
    for leaf in leaves:
        connection.execute(sql.SQL("lock table only {} in access share mode").format(leaf.identifier))
        now = connection.execute("select pg_relation_filenode(%s::text::regclass)",
                                 [leaf.identifier.as_string(connection)]).fetchone()
        if now is None or now[0] != leaf.filenode:
            raise RewrittenError(f"{leaf.schema}.{leaf.name} was rewritten while its snapshot was taken: call again")
    return Subject(Relation(oid, schema, table, _char(identity), tuple(columns)), tuple(row[0] for row in found),
                   where, leaves)


def _char(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def blocks(start: int, end: int | None) -> sql.Composed:
    """Rows in the blocks [start, end) of a leaf; the last range has no end: the table may have grown."""
    condition = sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({start},0)"))
    if end is not None:
        condition += sql.SQL(" and ctid < {}::tid").format(sql.Literal(f"({end},0)"))
    return condition


# Types whose binary form is the value itself; all others are asked for in the text that the log carries too.
_AS_THEY_ARE = frozenset({16, 17, 20, 21, 23, 25, 700, 701, 1042, 1043})
_OID = 26
# Dates and times within Arrow's; the others (infinity, BC, year 294276) come as text in a column of their own.
_BOUNDS = {1082: ("date", "9999-12-31"), 1114: ("timestamp", "9999-12-31 23:59:59.999999"),
           1184: ("timestamptz", "9999-12-31 23:59:59.999999+00")}
_EARLIEST = "0001-01-01"

Piece = list[tuple[pa.Array, pa.StringArray | None]]  # by column its values, and the text of those beyond their type


def _asked(column: Column, origin: str, *, in_key: bool) -> tuple[sql.Composable, sql.Composable | None]:
    """What is selected of a column: its value, and where that may lie beyond the Arrow type, the text of such."""
    name = sql.Identifier(origin)
    if in_key and column.oid in values.UNTYPED_KEYS:
        return _printed(name), None
    if column.oid in _AS_THEY_ARE:
        return name, None
    if column.oid == _OID:
        return sql.SQL("{}::bigint").format(name), None
    if column.oid in _BOUNDS:
        kind, latest = _BOUNDS[column.oid]
        within = sql.SQL("{} between {}::{kind} and {}::{kind}").format(name, _EARLIEST, latest, kind=sql.SQL(kind))
        return (sql.SQL("case when {} then {} end").format(within, name),
                sql.SQL("case when not ({}) then {}::text end").format(within, name))
    return _printed(name), None


def _printed(name: sql.Identifier) -> sql.Composed:
    """A value as its type prints it, which a cast may not do: of inet it adds the mask."""
    return sql.SQL("case when {} is not null then concat({}) end").format(name, name)


def rows(reader: Any, table: Subject, key: tuple[str, ...], origin: sql.Identifier,
         condition: sql.Composable) -> Iterator[Piece]:
    """Published rows of `origin` under a condition, piece by piece. `reader`: of `Session.reader`."""
    asked = [_asked(column, name, in_key=column.name in key)
             for column, name in zip(table.relation.columns, table.names, strict=True)]
    where = sql.SQL(" and ({})").format(sql.SQL(table.where)) if table.where else sql.SQL("")
    beyond = [n for n, (_value, text) in enumerate(asked) if text is not None]
    listed = sql.SQL(", ").join([
        *(sql.SQL("{} as {}").format(value, sql.Identifier(f"v{n}")) for n, (value, _text) in enumerate(asked)),
        *(sql.SQL("{} as {}").format(text, sql.Identifier(f"x{n}")) for n, (_v, text) in enumerate(asked) if text)])
    statement = sql.SQL("select {} from {} where {}{}").format(listed, origin, condition, where)
    with reader.cursor() as cursor:
        with _answering():
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(PIECE_BYTES)})
            cursor.execute(statement.as_string())
            batches = cursor.fetch_record_batch()
        while batch := _next(batches):
            texts = {n: text for n, text in zip(beyond, batch.columns[len(asked):], strict=True)
                     if text.null_count < len(text)}
            yield [(_checked(batch.column(n)), texts.get(n)) for n in range(len(asked))]


def _next(batches: pa.RecordBatchReader) -> pa.RecordBatch | None:
    """The next batch that holds rows."""
    with _answering():
        return next((batch for batch in batches if batch.num_rows), None)


def _checked(value: pa.Array) -> pa.Array:
    """A database without an encoding may hold what is no UTF-8."""
    return values.as_text(value.cast(pa.binary())) if pa.types.is_string(value.type) else value


def filenode(reader: Any, leaf: Leaf) -> int | None:
    """The file in which the leaf lies now, which the snapshot does not show."""
    with _answering(), reader.cursor() as cursor:
        name = sql.Literal(leaf.identifier.as_string())
        cursor.execute(sql.SQL("select pg_relation_filenode({}::text::regclass)::bigint").format(name).as_string())
        row = cursor.fetchone()
    return None if row is None else row[0]


def nothing(table: Subject, key: tuple[str, ...]) -> Piece:
    """One row of nulls, for a truncation."""
    return [(pa.nulls(1, values.arrow_type_of(column.oid, in_key=column.name in key)), None)
            for column in table.relation.columns]


def landed(table: Subject, piece: Piece, envelope: dict[str, pa.Scalar], first: int) -> pa.Table:
    """A piece as the change log keeps it; `first`: ordinal of its first row."""
    arrays: dict[str, pa.Array] = {}
    beyond: dict[str, pa.Array] = {}
    for column, (value, exact) in zip(table.relation.columns, piece, strict=True):
        arrays[column.name] = value
        if exact is not None:
            beyond[values.exact(column.name)] = exact
    count = len(piece[0][0])
    own = {name: pa.repeat(scalar, count) for name, scalar in envelope.items()}
    own["_ord"] = pa.array(np.arange(first, first + count))
    own["_unchanged"] = values.name_lists([], np.zeros((0, count), bool))
    return pa.table({**arrays, **beyond, **{name: own[name] for name in values.ENVELOPE.names}})
