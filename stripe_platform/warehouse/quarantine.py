"""Keys that raw refuses: put aside with their place in the log and the rule, while what stands beside them is applied.

Entries are written in the data's own transaction. A later change that says all of a key heals it; one that leaves
values out is held, since what raw has of the key is older. Entries name no value: a key is its hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from stripe_platform.cdc import canonical, fold, quarantined
from stripe_platform.cdc.columns import BY_NAME, FENCE, is_own
from stripe_platform.cdc.columns import text as as_text
from stripe_platform.cdc.compact import sort_by_key
from stripe_platform.warehouse.raw_tables import Target

NUL = "\x00"
NO_TEXT = "22021"  # SQLSTATE of a NUL in a text; the client's own refusal of it has none
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded,
            psycopg.errors.RaiseException)
_TABLE = """
create table if not exists raw._quarantine (
    table_name text not null,
    key_hash text not null,
    id text,
    source text not null,
    epoch text collate "C" not null,
    commit_lsn bigint not null,
    ord bigint not null,
    ledger_day date not null,
    rule text not null,
    seen_at timestamptz not null default clock_timestamp(),
    primary key (table_name, key_hash)
)"""
_PUT = """
insert into raw._quarantine as q (table_name, key_hash, id, source, epoch, commit_lsn, ord, ledger_day, rule)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (table_name, key_hash) do update set epoch = excluded.epoch, commit_lsn = excluded.commit_lsn,
    ord = excluded.ord, ledger_day = excluded.ledger_day, rule = excluded.rule, seen_at = excluded.seen_at
where (excluded.epoch, excluded.commit_lsn, excluded.ord) > (q.epoch, q.commit_lsn, q.ord)
"""
# Merges newest states; the relation to look older values up in, where that is not the raw table itself.
Merge = Callable[[pa.Table, sql.Identifier | None], int]
Fence = tuple[str, int, int]


class RuleRefusesTooManyError(RuntimeError):
    """A rule of the warehouse refuses more keys than can be bad; the message names table, rule and remedy."""


@dataclass(frozen=True)
class Entry:
    """A key put aside. `fence`: epoch, commit LSN and ordinal of its newest change that does not stand in raw."""

    key_hash: str
    fence: Fence
    rule: str


def prepare(conn: psycopg.Connection) -> None:
    """The table of entries, where it does not stand; schema `raw` does."""
    if conn.execute("select to_regclass('raw._quarantine')").fetchone() == (None,):
        conn.execute("select pg_advisory_xact_lock(hashtext('raw'), 0)")
        conn.execute(_TABLE)


def entries(conn: psycopg.Connection, table: str) -> dict[str, Entry]:
    """A table's entries by the hash of their key."""
    return {row[0]: Entry(row[0], row[1:4], row[4]) for row in conn.execute(
        "select key_hash, epoch, commit_lsn, ord, rule from raw._quarantine where table_name = %s", [table])}


def close_before(conn: psycopg.Connection, table: str, cut: Fence) -> None:
    """A truncation took the rows that these entries would have changed."""
    conn.execute("delete from raw._quarantine where table_name = %s and (epoch, commit_lsn, ord) < (%s, %s, %s)",
                 [table, *cut])


def key_text(target: Target, *, duck: bool) -> str:
    """SQL of the text whose sha256 is a key's hash: the canonical one, alike in PostgreSQL and DuckDB."""
    of = canonical.in_duckdb if duck else canonical.in_postgres
    kinds = {"_epoch": "text", "_commit_lsn": "bigint", "_ord": "bigint"} | dict(target.columns)
    return canonical.row([of(sql.Identifier(name).as_string(), BY_NAME.get(kinds[name], pa.string()))
                          for name in target.key or FENCE])


def hashes(target: Target, rows: pa.Table, prefix: str = "") -> list[str]:
    """Hash of each row's key. `prefix`: of the columns that hold it."""
    import duckdb

    names = target.key or FENCE
    keys = rows.select([prefix + name for name in names]).rename_columns(list(names))
    with duckdb.connect() as duck:
        duck.execute("set timezone = 'UTC'")
        duck.register("keys", keys)
        return [row[0] for row in duck.execute(
            f"select sha256({key_text(target, duck=True)}) from keys").fetchall()]  # noqa: S608 (quoted names)


def said(error: psycopg.Error) -> str:
    """A refusal's SQLSTATE and constraint; its message may hold values."""
    rule = error.diag.constraint_name or error.diag.column_name
    return f"{error.sqlstate or NO_TEXT}{f' {rule}' if rule else ''}"


def merge(conn: psycopg.Connection, target: Target, changes: pa.Table, write: Merge, *, doomed: bool = False) -> int:
    """Bring changes in, in the caller's transaction; keys written. What is refused is put aside.

    `changes`: with their ledger day, no truncation among them. `doomed`: a truncation takes them at once.
    Raises `RuleRefusesTooManyError`, and what `write` raises beside refusals.
    """
    return _Part(conn, target, changes, write, doomed=doomed).bring()


class _Part:
    """Changes of one table on their way in."""

    def __init__(self, conn: psycopg.Connection, target: Target, changes: pa.Table, write: Merge, *,
                 doomed: bool) -> None:
        self.conn, self.target, self.write, self.doomed = conn, target, write, doomed
        self.changes = sort_by_key(changes, target.key) if target.key else changes
        self.known = entries(conn, target.name)
        self.refused: dict[str, str] = {}  # rule by key
        self.nameless: set[str] = set()  # keys that the table cannot hold at all

    def bring(self) -> int:
        newest = self._collapsed(self.changes)
        if self.known:
            newest = self._without_held(newest)
        try:
            with self.conn.transaction():
                applied = self.write(newest, None)
        except REFUSALS as error:
            applied = self._around(newest, said(error))
        if self.known:
            self._heal(newest)
        return applied

    def _collapsed(self, changes: pa.Table) -> pa.Table:
        return fold.collapse(changes, self.target.key) if self.target.key else changes

    def _without_held(self, newest: pa.Table) -> pa.Table:
        """States without those that need a value of a key put aside: the raw row they would take it from is older."""
        if not self.target.key or self.doomed or not _left_out(newest):
            return newest
        pending = pc.list_value_length(newest[fold.PENDING]).to_pylist()
        gone = pc.equal(newest["_op"], "d").to_pylist()
        own, origin = hashes(self.target, newest), hashes(self.target, newest, "_from_")
        because = [None if not left or deleted else self.known.get(mine, self.known.get(from_))
                   for left, deleted, mine, from_ in zip(pending, gone, own, origin, strict=True)]
        for n, entry in enumerate(because):
            if entry is not None:
                self._put(newest.slice(n, 1), own[n], entry.rule)
        return newest.filter(pa.array([entry is None for entry in because], pa.bool_()))

    def _around(self, newest: pa.Table, rule: str) -> int:
        """Everything but the refused keys, which are found by halving; of those, the newest state that is not refused.

        Older values are looked up in a copy made before anything of the part is written, as the whole part would.
        """
        left_out = pc.any(pc.greater(pc.list_value_length(self.changes["_unchanged"]), 0)).as_py()
        origins = self._pin(newest) if self.target.key and left_out else None
        applied = self._halve(newest, origins, rule)
        first, older = dict(self.refused), self.changes
        while self.target.key and (left := self.refused.keys() - self.nameless):
            older, self.refused = self._without_last(older, left), {}
            states = self._collapsed(older)
            # What an earlier entry holds back may lack values here too: raw keeps what it has of such keys.
            again = [name in left and not (name in self.known and length) for name, length in zip(
                hashes(self.target, states), pc.list_value_length(states[fold.PENDING]).to_pylist(), strict=True)]
            states = states.filter(pa.array(again, pa.bool_()))
            if states.num_rows:
                self._halve(states, origins, None)
        self.refused = first
        rows = dict(zip(hashes(self.target, newest), range(newest.num_rows), strict=True))
        for name, because in first.items():
            self._put(newest.slice(rows[name], 1), name, because)
        if origins is not None:
            self.conn.execute(sql.SQL("drop table {}").format(origins))
        return applied

    def _halve(self, rows: pa.Table, origins: sql.Identifier | None, rule: str | None) -> int:
        """Write rows; those that are refused alone go to `refused`. `rule`: they were refused together already."""
        if rule is None:
            try:
                with self.conn.transaction():
                    return self.write(rows, origins)
            except REFUSALS as error:
                rule = said(error)
        if rows.num_rows > 1:
            half = rows.num_rows // 2
            return self._halve(rows.slice(0, half), origins, None) + self._halve(rows.slice(half), origins, None)
        if self.target.key and rows["_op"][0].as_py() == "d":
            with suppress(*REFUSALS), self.conn.transaction():
                return self.write(_bare(rows, self.target.key), origins)
            self.nameless.update(hashes(self.target, rows))
        (name,) = hashes(self.target, rows)
        self.refused[name] = rule
        if len(self.refused) > quarantined.MOST:
            raise RuleRefusesTooManyError(
                f"raw/{self.target.name}: the warehouse refuses more than {quarantined.MOST:,} keys at once (last by"
                f" {rule}): that is a rule of the table, not of a row: mend it there, nothing of these changes was"
                " applied")
        return 0

    def _pin(self, newest: pa.Table) -> sql.Identifier:
        """A copy of the raw rows from which these states take what they left out."""
        origins, key = sql.Identifier("_origins"), self.target.key
        texts = {prefix + name: as_text(newest[prefix + name].combine_chunks()).to_pylist()
                 for prefix in ("", "_from_") for name in key}
        named = [zip(*(texts[prefix + name] for name in key), strict=True) for prefix in ("", "_from_")]
        wanted = {names for names in chain(*named) if not any(NUL in name for name in names)}
        given = sql.Literal(json.dumps([dict(zip(key, names, strict=True)) for names in wanted]))
        columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in key)
        same = sql.SQL(" and ").join(sql.SQL("t.{0}::text = w.{0}").format(sql.Identifier(name)) for name in key)
        self.conn.execute(sql.SQL(
            "create temp table {} on commit drop as select t.* from {} t where exists"
            " (select from json_to_recordset({}) as w ({}) where {})").format(
                origins, self.target.identifier, given, columns, same))
        return origins

    def _without_last(self, changes: pa.Table, names: Set[str]) -> pa.Table:
        """Changes, in the order of their keys, without the last one of each of these keys."""
        mine = hashes(self.target, changes)
        last = [n + 1 == len(mine) or mine[n + 1] != name for n, name in enumerate(mine)]
        return changes.filter(pa.array([not (last[n] and name in names) for n, name in enumerate(mine)], pa.bool_()))

    def _put(self, row: pa.Table, name: str, rule: str) -> None:
        """Put a state aside, unless raw holds its key as new already."""
        values = row.to_pylist()[0]
        fence = [values[column] for column in FENCE]
        if not self._stands(row, fence):
            key = self.target.key
            plain = as_text(row[key[0]].combine_chunks())[0].as_py() if len(key) == 1 else None
            self.conn.execute(_PUT, [
                self.target.name, name, quarantined.shown(plain), values["_source"],
                *fence, values["_ledger_day"], rule])

    def _stands(self, row: pa.Table, fence: list[object]) -> bool:
        key = self.target.key or FENCE
        # As literals: a name may hold a percent sign, which marks a parameter where there are any.
        same = sql.SQL(" and ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(
            as_text(row[name].combine_chunks())[0].as_py())) for name in key)
        with suppress(*REFUSALS), self.conn.transaction():  # a key that cannot be asked for does not stand
            return self.conn.execute(sql.SQL(
                "select 1 from {} where {} and (_epoch, _commit_lsn, _ord) >= ({}) limit 1").format(
                    self.target.identifier, same, sql.SQL(", ").join(map(sql.Literal, fence)))).fetchone() is not None
        return False

    def _heal(self, newest: pa.Table) -> None:
        """Close the entries of keys that came in now with a state at least as new."""
        for n, name in enumerate(hashes(self.target, newest)):
            if name in self.known and name not in self.refused:
                self.conn.execute(
                    "delete from raw._quarantine where table_name = %s and key_hash = %s"
                    " and (epoch, commit_lsn, ord) <= (%s, %s, %s)",
                    [self.target.name, name, *(newest[column][n].as_py() for column in FENCE)])


def _left_out(newest: pa.Table) -> bool:
    return bool(pc.any(pc.greater(pc.list_value_length(newest[fold.PENDING]), 0)).as_py())


def _bare(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Deleted states that know no more than their key."""
    names = [name for name in rows.column_names if is_own(name) and name not in key]
    rows = rows.set_column(rows.column_names.index(fold.PENDING), fold.PENDING,
                           pa.array([names] * rows.num_rows, pa.list_(pa.string())))
    for name in key:
        rows = rows.set_column(rows.column_names.index(f"_from_{name}"), f"_from_{name}", rows[name])
    return rows
