"""The raw tables themselves: made with the source's columns, and brought along when the source changes them.

A table that this release declares has its declaration's columns. Any other follows its versions in the change log;
`raw._versions` says how far a table has come, in the transaction that brought it there, and no way leads back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc import catalogue, fold
from stripe_platform.cdc.catalogue import CIPHERTEXT, CatalogueError, ColumnVersion, Lineage, TableVersion
from stripe_platform.cdc.evolution import Path
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.pgtypes import BUILT_IN, FIRST_USER_OID

FILLFACTOR = 80  # a page has room for its rows' next state: no index entry per update, half the time, less bloat
LONGEST = 50  # bytes of a table's name; PostgreSQL cuts at 63, and stages and indexes add to it
# Types whose values mean the same on every server; names of a catalogue's objects, money and the like stay text.
_TYPED = frozenset(
    "boolean bytea smallint integer bigint real date uuid json jsonb inet cidr macaddr macaddr8 interval numeric text"
    " point lseg path box polygon line circle int4range int8range numrange tsrange tstzrange daterange".split()
) | {"bit", "bpchar", "character",
     "double precision", "bit varying", "character varying", "timestamp without time zone", "timestamp with time zone",
     "time without time zone", "time with time zone"}
_KEYS = frozenset({"smallint", "integer", "bigint"})  # equal exactly when their texts are; 1.0 = 1.00 is not
_VERSIONS = """
create table if not exists raw._versions (
    table_name text primary key,
    version integer not null,
    schema_id text not null
)"""
_LEDGER = sql.SQL(
    '_source text not null, _epoch text collate "C" not null, _commit_lsn bigint not null, _ord bigint not null,'
    " _deleted boolean not null, _ledger_day date not null")


@dataclass(frozen=True)
class Target:
    """A table of schema `raw`. `key`: empty where whole rows come and go, then the table is the log of them."""

    name: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]  # (name, PostgreSQL type)

    @property
    def names(self) -> list[str]:
        return [name for name, _kind in self.columns]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier("raw", self.name)

    def kind(self, column: str) -> str:
        return dict(self.columns)[column]


def declared(table: str) -> Target:
    """The raw table of one that this release declares: the OLTP's columns without its ciphertext."""
    shape = catalogue.declared(table)
    return Target(table, shape.key, tuple(shape.open_columns))


def name_of(chain: Chain, table: str) -> str:
    """Name in `raw`: the table's own where it is declared, else with its source before it."""
    if catalogue.is_declared(chain, table):
        return table
    name = f"{chain.manifests[-1].source}__{table}"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:LONGEST - 9].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def target_of(name: str, version: TableVersion) -> Target:
    """The raw table of a version: what no other server would read alike is text."""
    hidden = [k for k in version.key if k.endswith(CIPHERTEXT)]
    if hidden:
        raise CatalogueError(f"{version.qualified} names its rows by {hidden[0]}, and ciphertext stays in the change"
                             " log: give it another key, or leave it out of the warehouse")
    return Target(name, version.key, tuple((c.name, _kind(c)) for c in version.columns
                                           if not c.name.endswith(CIPHERTEXT)))


def _kind(column: ColumnVersion) -> str:
    plain = BUILT_IN.get(column.oid, "") if column.oid < FIRST_USER_OID else ""
    element = plain.removesuffix("[]")
    if column.in_key:
        return plain if plain in _KEYS else "text"
    return column.type if element in _TYPED else "text"


def prepare(conn: psycopg.Connection) -> None:
    """The schema and its own tables; only for who holds the lock over `raw`."""
    conn.execute("create schema if not exists raw")
    conn.execute(_VERSIONS)


def create(conn: psycopg.Connection, target: Target) -> None:
    """Make the table; nothing but the key is mandatory (a tombstone may know no more)."""
    defined = [_defined(target, name) for name in target.names]
    key = target.key or ("_epoch", "_commit_lsn", "_ord")
    conn.execute(sql.SQL("create table {} ({}, {}{}, primary key ({})) with (fillfactor = {})").format(
        target.identifier, sql.SQL(", ").join(defined), _LEDGER,
        sql.SQL("" if target.key else ", _op text not null"), _list(key),
        sql.Literal(FILLFACTOR if target.key else 100)))
    # BRIN: rows arrive in ledger order; unlike a btree it costs nothing per row and leaves updates on their page.
    conn.execute(sql.SQL("create index {} on {} using brin (_ledger_day) with (pages_per_range = 32)").format(
        sql.Identifier(f"{target.name}_ledger_day"), target.identifier))


def _defined(target: Target, name: str) -> sql.Composed:
    kind = target.kind(name)
    return sql.SQL("{} {}{}").format(sql.Identifier(name), sql.SQL(kind), sql.SQL(
        ' collate "C"' if kind == "text" and name in target.key else ""))


class Follower:
    """One undeclared table on its way through its versions."""

    def __init__(self, lake: Lake, chain: Chain, table: str) -> None:
        self.path, self.name = Path(Lineage.load(lake, chain, table)), name_of(chain, table)

    def standing(self, conn: psycopg.Connection) -> int:
        """Number of the version whose columns the raw table has, 0 where there is none."""
        row = conn.execute("select version from raw._versions where table_name = %s", [self.name]).fetchone()
        return int(row[0]) if row else 0

    def target(self, conn: psycopg.Connection) -> Target | None:
        version = self.standing(conn)
        return target_of(self.name, self.path.version(version)) if version else None

    def bring(self, conn: psycopg.Connection, version: int, rows: pa.Table) -> tuple[Target, pa.Table]:
        """The raw table, at least as far as `version`, and the rows in its columns.

        Rows of before another key named them, or before the table was taken anew, are none: what stands is newer.
        """
        standing = self.standing(conn)
        if standing >= version:
            target = target_of(self.name, self.path.version(standing))
            if not self.path.passable(version, standing) or self.path.rekeyed(version, standing):
                return target, rows.slice(0, 0)
            return target, self.path.carry(rows, version, standing)
        target = target_of(self.name, self.path.version(version))
        if standing and self._taken_anew(conn, standing, version, rows):
            conn.execute(sql.SQL("drop table {} cascade").format(target.identifier))
            create(conn, target)
        elif standing:
            for ordinal in range(standing + 1, version + 1):
                self._alter(conn, ordinal)
        else:
            create(conn, target)
        if not target.key:
            _view(conn, target)
        conn.execute("insert into raw._versions values (%s, %s, %s) on conflict (table_name) do update"
                     " set version = excluded.version, schema_id = excluded.schema_id",
                     [self.name, version, self.path.version(version).schema_id])
        return target, rows

    def _taken_anew(self, conn: psycopg.Connection, standing: int, version: int, rows: pa.Table) -> bool:
        """Whether the way to a version is blocked and no row has to go it: a truncation takes all that stand."""
        before, after = (target_of(self.name, self.path.version(n)) for n in (standing, version))
        blocked = not self.path.passable(standing, version) or bool(before.key) != bool(after.key)
        cut = fold.last_cut(rows) if blocked else None
        if cut is None:
            return False
        newer = conn.execute(sql.SQL(
            "select 1 from {} where not _deleted and (_epoch, _commit_lsn, _ord) >= (%s, %s, %s) limit 1").format(
                after.identifier), cut).fetchone()
        return newer is None

    def _alter(self, conn: psycopg.Connection, ordinal: int) -> None:
        change = self.path.step_to(ordinal)
        before = target_of(self.name, self.path.version(ordinal - 1))
        after = target_of(self.name, self.path.version(ordinal))
        if bool(before.key) != bool(after.key):
            raise CatalogueError(
                f"raw.{self.name}: its rows {'lost' if before.key else 'got'} a key, which makes it another kind of"
                f" table: take it anew with `stripe-platform cdc snapshot --table {self.path.version(ordinal).table}`")
        conn.execute(sql.SQL("drop view if exists {}").format(sql.Identifier("raw", f"{self.name}__rows")))
        table, own, column = after.identifier, set(before.names), sql.Identifier
        for name in change.dropped:
            if name in own:
                conn.execute(sql.SQL("alter table {} drop column {} cascade").format(table, column(name)))
        moved = {old: new for old, new in change.renamed.items() if old in own and new in after.names}
        for n, old in enumerate(moved):  # by names of neither version: two columns may have swapped theirs
            conn.execute(sql.SQL("alter table {} rename {} to {}").format(table, column(old), column(f"_renamed_{n}")))
        for n, new in enumerate(moved.values()):
            conn.execute(sql.SQL("alter table {} rename {} to {}").format(table, column(f"_renamed_{n}"), column(new)))
        for old, new in change.renamed.items():
            if old in own and new not in after.names:
                conn.execute(sql.SQL("alter table {} drop column {}").format(table, column(old)))
        known = ({*own, *moved.values()} - {*change.dropped, *change.renamed}) | {*moved.values()}
        for name in after.names:
            if name not in known:
                missing = change.added.get(name)
                conn.execute(sql.SQL("alter table {} add column {}{}").format(
                    table, _defined(after, name),
                    sql.SQL("") if missing is None else sql.SQL(" default {}").format(sql.Literal(missing))))
                conn.execute(sql.SQL("alter table {} alter column {} drop default").format(table, column(name)))
        was = {change.renamed.get(name, name): kind for name, kind in before.columns}
        for name, kind in after.columns:
            if name in known and was.get(name, kind) != kind:
                conn.execute(sql.SQL("alter table {} alter column {} type {} using {}::text::{}").format(
                    table, column(name), sql.SQL(kind), column(name), sql.SQL(kind)))
        if change.rekeyed:
            self._rekey(conn, before, after)

    def _rekey(self, conn: psycopg.Connection, before: Target, after: Target) -> None:
        """Let other columns name the rows; tombstones, which may not know them, go: nothing older comes back."""
        conn.execute(sql.SQL("delete from {} where _deleted").format(after.identifier))
        conn.execute(sql.SQL("alter table {} drop constraint {}").format(
            after.identifier, sql.Identifier(f"{self.name}_pkey")))
        for name in before.key:  # what no longer names rows is not known of a deleted one
            if name in after.names:
                conn.execute(sql.SQL("alter table {} alter column {} drop not null").format(
                    after.identifier, sql.Identifier(name)))
        for name in after.key:
            if after.kind(name) == "text":
                conn.execute(sql.SQL('alter table {} alter column {} type text collate "C" using {}::text').format(
                    after.identifier, sql.Identifier(name), sql.Identifier(name)))
        conn.execute(sql.SQL("alter table {} add primary key ({})").format(after.identifier, _list(after.key)))


def _view(conn: psycopg.Connection, target: Target) -> None:
    """`<name>__rows`: the rows of a keyless table as they stand, doubles included, summed up from their log."""
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in target.names)
    back = sql.SQL(", ").join(sql.SQL("({}::text)::{} as {}").format(
        sql.Identifier(name), sql.SQL(kind), sql.Identifier(name)) for name, kind in target.columns)
    view = sql.Identifier("raw", f"{target.name}__rows")
    conn.execute(sql.SQL("drop view if exists {}").format(view))
    conn.execute(sql.SQL(
        "create view {view} as select counted.* from (select {back}, sum(case when _deleted then -1 else 1 end) as _n"
        " from {table} l where _op <> 't' and (_epoch, _commit_lsn, _ord) > coalesce((select (_epoch, _commit_lsn,"
        " _ord) from {table} where _op = 't' order by _epoch desc, _commit_lsn desc, _ord desc limit 1),"
        " row(''::text collate \"C\", 0::bigint, 0::bigint)) group by {texts}) as counted"
        " cross join generate_series(1, counted._n)").format(view=view, back=back, table=target.identifier,
                                                              texts=texts))


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
