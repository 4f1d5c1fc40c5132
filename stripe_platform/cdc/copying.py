"""Reading a table as of one log position: a temporary slot exports the snapshot, COPY gives every value as text.

A slot's snapshot holds exactly the commits before its consistent point, so that rows read in it join the stream
without a gap or an overlap. `L - 1` is their position: records begin at multiples of eight, no commit can be there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import sql

from stripe_platform.cdc import columns as values
from stripe_platform.cdc.pgoutput import Column, Relation, lsn_int
from stripe_platform.cdc.pgtypes import FIRST_USER_OID, type_name
from stripe_platform.cdc.slot import OPTIONS, replication
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import Settings

PIECE_BYTES = 8 << 20  # parsed at once; a row is never cut
LOCK_TIMEOUT = "30s"  # with transactions that are open when the snapshot is taken, and with locks on the tables


class CopyError(RuntimeError):
    """A table cannot be read; the message names it and the remedy. What was read stays; the next call goes on."""


class RewrittenError(CopyError):
    """The table was rewritten or truncated after the snapshot was taken, which its rows do not show: take another."""


@dataclass(frozen=True)
class Session:
    """One snapshot: `lsn` the position it was taken at, valid while the context lives."""

    settings: Settings
    source: ConfiguredSource
    lsn: int
    name: str

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
        yield Session(settings, source, lsn_int(str(row[1])), str(row[2]))


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
    schema, _, table = name.rpartition(".")
    schema = schema or source.schema
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


def rows(connection: psycopg.Connection, table: Subject, origin: sql.Identifier,
         condition: sql.Composable) -> Iterator[list[pa.StringArray]]:
    """Published rows of `origin` under a condition, piece by piece: per column the text of its values."""
    listed = sql.SQL(", ").join(map(sql.Identifier, table.names))
    where = sql.SQL(" and ({})").format(sql.SQL(table.where)) if table.where else sql.SQL("")
    statement = sql.SQL("copy (select {} from {} where {}{}) to stdout (format csv)").format(
        listed, origin, condition, where)
    parts: list[bytes | memoryview] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for data in copy:
            parts.append(bytes(data))
            size += len(data)
            if size >= PIECE_BYTES:
                yield _parsed(b"".join(parts), len(table.names))
                parts, size = [], 0
    if parts:
        yield _parsed(b"".join(parts), len(table.names))


def _parsed(data: bytes, width: int) -> list[pa.StringArray]:
    """CSV as PostgreSQL writes it: NULL is empty and bare, an empty text is quoted."""
    names = [str(n) for n in range(width)]
    parsed = pa_csv.read_csv(
        pa.BufferReader(data),
        pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[""],
                              strings_can_be_null=True, quoted_strings_can_be_null=False))
    return [column.combine_chunks() for column in parsed.columns]


def landed(table: Subject, texts: list[pa.StringArray], key: tuple[str, ...],
           envelope: dict[str, pa.Scalar], first: int) -> pa.Table:
    """A piece as the change log keeps it; `first`: ordinal of its first row."""
    arrays: dict[str, pa.Array] = {}
    beyond: dict[str, pa.Array] = {}
    for column, text in zip(table.relation.columns, texts, strict=True):
        arrays[column.name], exact = values.typed(text, column.oid, in_key=column.name in key)
        if exact is not None:
            beyond[values.exact(column.name)] = exact
    count = len(texts[0])
    own = {name: pa.repeat(scalar, count) for name, scalar in envelope.items()}
    own["_ord"] = pa.array(np.arange(first, first + count))
    own["_unchanged"] = values.name_lists([], np.zeros((0, count), bool))
    return pa.table({**arrays, **beyond, **{name: own[name] for name in values.ENVELOPE.names}})
