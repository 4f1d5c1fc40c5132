"""Raw tables in Snowflake: the same changes, collapsed by the same code, merged behind the same fence.

A chunk of days is collapsed per key, put as Parquet of texts and copied into a transient table of its own (DDL ends a
Snowflake transaction, so it comes before); then one transaction merges, and records the days. What a killed load staged
is dropped by the table's next one, which begins the chunk anew. Tables of this release only.
"""

from __future__ import annotations

import datetime as dt
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import fold
from stripe_platform.cdc.columns import EXACT, FENCE, text
from stripe_platform.cdc.daily import Daily
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import raw, raw_tables
from stripe_platform.warehouse.raw import ApplyReport, Run, UnknownStateError
from stripe_platform.warehouse.raw_copy import with_fence
from stripe_platform.warehouse.raw_tables import Target

STAGE = '"RAW"."_LOAD"'
# Types whose values both servers hold alike; numerics without a scale have none in Snowflake and stay their text.
_KINDS = {
    "bigint": "number(38,0)", "integer": "number(38,0)", "smallint": "number(38,0)", "boolean": "boolean",
    "date": "date", "timestamp with time zone": "timestamp_tz", "double precision": "double", "bytea": "binary",
}
_FENCE_KINDS = {"_source": "varchar", "_epoch": "varchar", "_commit_lsn": "number(38,0)", "_ord": "number(38,0)",
                "_deleted": "boolean", "_ledger_day": "date"}
_APPLIED = """
create table if not exists "RAW"."_APPLIED" (
    "TABLE_NAME" varchar not null, "DAY" date not null, "DIGEST" varchar not null, "ROWS" number(38,0) not null,
    "THROUGH_SEQ" number(38,0) not null, "APPLIED_AT" timestamp_tz default current_timestamp(),
    primary key ("TABLE_NAME", "DAY"))"""


def kind_of(postgres: str) -> str:
    """Snowflake's type of a PostgreSQL one."""
    return postgres.replace("numeric", "number") if postgres.startswith("numeric(") else _KINDS.get(postgres, "varchar")


def apply(conn: Any, lake: Lake, table: str, days: Sequence[dt.date], *, chain: Chain | None = None,
          first_day: dt.date | None = None) -> ApplyReport:
    """Bring ledger days of a declared table into `RAW`, as `raw.apply` does in PostgreSQL.

    `conn`: the connector's connection, without an open transaction; each chunk of days is one, with its rows of
    `_APPLIED`. Raises `NotContiguousError` and `UnknownStateError` as there.
    """
    begun = time.monotonic()
    chain, first_day = chain or Chain.load(lake), first_day or load_settings().first_day
    run, target = raw.run_of(lake, chain, table), raw_tables.declared(table)
    wanted = [dailies.current(lake, chain, table, day, first_day) for day in sorted(days)]
    report = ApplyReport(table, rows={d.day: d.rows for d in wanted},
                         through_seq={d.day: d.through_seq for d in wanted})
    with conn.cursor() as cursor:
        create(cursor, target)
        standing = dict(cursor.execute(
            'select "DAY", "DIGEST" from "RAW"."_APPLIED" where "TABLE_NAME" = %s', (table,)).fetchall())
        if wanted:
            raw.refuse_gaps(standing, chain, table, wanted[0].day, first_day)
        for chunk in raw.chunks([d for d in wanted if standing.get(d.day) != d.digest]):
            report.keys += _apply_chunk(cursor, run, target, chunk, report)
            report.days += [d.day for d in chunk]
        (report.total,) = cursor.execute(f"select count(*) from {_name(target)} where not _deleted").fetchone()
    report.seconds = time.monotonic() - begun
    return report


def create(cursor: Any, target: Target) -> None:
    """What `RAW` needs before a table's first rows; one that stands gets the columns of later migrations."""
    cursor.execute("create schema if not exists RAW")
    cursor.execute(_APPLIED)
    cursor.execute(f"create stage if not exists {STAGE}")
    cursor.execute(f"create table if not exists {_name(target)} ({_defined(_kinds(target))},"
                   f" primary key ({_list(target.key)}))")
    known = {name for (name,) in cursor.execute(
        "select column_name from information_schema.columns where table_schema = 'RAW' and table_name = %s",
        (target.name.upper(),)).fetchall()}
    for name, kind in _kinds(target).items():
        if name.upper() not in known:
            cursor.execute(f"alter table {_name(target)} add column {quoted(name)} {kind}")


def _kinds(target: Target) -> dict[str, str]:
    return {name: kind_of(kind) for name, kind in target.columns} | _FENCE_KINDS


def _apply_chunk(cursor: Any, run: Run, target: Target, chunk: Sequence[Daily], report: ApplyReport) -> int:
    """Stage the parts of a chunk, then merge them in one transaction; keys written."""
    found = staged(cursor, target, raw.changes_of(run, chunk), f"_STAGE_{target.name}_".upper())
    with transaction(cursor):
        found.run(cursor)
        _record(cursor, target, chunk)
    _drop_stages(cursor, target)
    report.unheld += found.unheld
    return found.keys


@dataclass
class Staged:
    """Changes of a table that wait to be merged. `unheld`: values that Snowflake's types cannot hold."""

    steps: list[_Merge | _Truncate] = field(default_factory=list)
    keys: int = 0
    unheld: int = 0

    def run(self, cursor: Any) -> None:
        """Merge them, in the caller's transaction."""
        for step in self.steps:
            step.run(cursor)

    def drop(self, cursor: Any) -> None:
        """Take the stage tables away."""
        for step in self.steps:
            if isinstance(step, _Merge):
                cursor.execute(f'drop table if exists "RAW"."{step.stage}"')


def staged(cursor: Any, target: Target, changes: pa.Table | None, prefix: str) -> Staged:
    """Collapse changes, which carry their ledger day and no ciphertext, into stage tables of their own.

    `prefix`: of the stages' names, behind which 32 hexadecimal digits make them unlike any other load's.
    """
    found = Staged()
    for part, doomed in fold.doomed(fold.segments(changes)) if changes is not None else ():
        if isinstance(part, fold.Truncation):
            found.steps.append(_Truncate(target, part))
        elif part.num_rows:
            newest, stage = raw.collapsed(target, part), f"{prefix}{uuid.uuid4().hex}".upper()
            wanted = sorted(set(pc.list_flatten(newest[fold.PENDING]).to_pylist()))
            load(cursor, stage, _texts(target, newest, wanted))
            found.unheld += _unheld(cursor, target, stage)
            found.steps.append(_Merge(target, stage, wanted, doomed=doomed))
            found.keys += newest.num_rows
    return found


@contextmanager
def transaction(cursor: Any) -> Iterator[None]:
    """Committed at the end of the block, rolled back when it raises."""
    cursor.execute("begin")
    try:
        yield
        cursor.execute("commit")
    except BaseException:
        cursor.execute("rollback")
        raise


def _drop_stages(cursor: Any, target: Target) -> None:
    """Stage tables of this table; a second writer, against the rule, loses its own, fails and comes again."""
    own = re.compile(rf"_STAGE_{re.escape(target.name.upper())}_[0-9A-F]{{32}}")
    for name in tables_of_raw(cursor):
        if own.fullmatch(name):
            cursor.execute(f'drop table if exists "RAW"."{name}"')


def tables_of_raw(cursor: Any) -> list[str]:
    """Names of all tables in `RAW`."""
    return [name for (name,) in cursor.execute(
        "select table_name from information_schema.tables where table_schema = 'RAW'").fetchall()]


def load(cursor: Any, stage: str, rows: pa.Table) -> None:
    """Rows of texts into a new transient table."""
    place = uuid.uuid4().hex  # Snowflake loads no file of a name twice
    columns = _defined(dict.fromkeys(rows.column_names, "varchar"))
    cursor.execute(f'create transient table "RAW"."{stage}" ({columns})')
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        pq.write_table(rows.rename_columns([name.upper() for name in rows.column_names]), file, compression="snappy")
        cursor.execute(f"put 'file://{file}' @{STAGE}/{place} auto_compress = false")
    cursor.execute(f'copy into "RAW"."{stage}" from @{STAGE}/{place}/rows.parquet file_format = (type = parquet)'
                   " match_by_column_name = case_insensitive purge = true")


def _texts(target: Target, newest: pa.Table, wanted: Sequence[str]) -> pa.Table:
    """Collapsed rows as texts: the target's columns and fence, marks of what was left out, and whose row has it."""
    rows = with_fence(newest, target.names)
    arrays = {name: _text(rows[name], newest[name + EXACT] if name + EXACT in newest.column_names else None)
              for name in rows.column_names}
    lists = newest[fold.PENDING].to_pylist()
    arrays |= {f"_left_{n}": pa.array([str(name in left).lower() for left in lists], pa.string())
               for n, name in enumerate(wanted)}
    return pa.table(arrays | {f"_from_{name}": _text(newest[f"_from_{name}"]) for name in target.key})


def _text(values: pa.ChunkedArray, exact: pa.ChunkedArray | None = None) -> pa.Array:
    """Values as Snowflake reads them; `exact`: the texts of those that their Arrow type cannot hold."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_timestamp(array.type):
        return pc.binary_join_element_wise(pc.strftime(array, "%Y-%m-%dT%H:%M:%S"), "+00:00", "")
    if exact is not None:
        return pc.coalesce(exact.combine_chunks(), array)
    return text(array)


class _Merge:
    """One staged part behind the fence. `wanted`: columns that some row left out, in the order of their marks.

    A left-out value comes from the row as it stands, under the key it had then: a deleted row keeps its values so too.
    """

    def __init__(self, target: Target, stage: str, wanted: Sequence[str], *, doomed: bool) -> None:
        self.target, self.stage, self.wanted, self.doomed = target, stage, wanted, doomed

    def run(self, cursor: Any) -> None:
        if self.wanted and not self.doomed:
            self._refuse_orphans(cursor)
        kinds, key = _kinds(self.target), self.target.key
        picks = ", ".join(f"{self._pick(name, kind)} as {quoted(name)}" for name, kind in kinds.items())
        same = " and ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in key)
        assign = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in kinds if name not in key)
        cursor.execute(
            f"merge into {_name(self.target)} t using (select {picks} from {self._origins()}) s on {same}"
            f" when matched and {_newer('s', 't')} then update set {assign}"
            f" when not matched then insert ({_list(kinds)})"
            f" values ({', '.join(f's.{quoted(name)}' for name in kinds)})")

    def _pick(self, name: str, kind: str) -> str:
        value = _typed(f"s.{quoted(name)}", kind)
        if name not in self.wanted:
            return value
        return f'case when s."_LEFT_{self.wanted.index(name)}" = \'true\' then o.{quoted(name)} else {value} end'

    def _origins(self) -> str:
        kinds = _kinds(self.target)
        origin = " and ".join(f"o.{quoted(name)} = {_typed('s.' + quoted('_from_' + name), kinds[name])}"
                              for name in self.target.key)
        return f'"RAW"."{self.stage}" s left join {_name(self.target)} o on {origin}'

    def _refuse_orphans(self, cursor: Any) -> None:
        left = " or ".join(f"s.\"_LEFT_{n}\" = 'true'" for n in range(len(self.wanted)))
        orphan = cursor.execute(
            f'select s."_COMMIT_LSN", s."_ORD" from {self._origins()} where ({left}) and not s."_DELETED"::boolean'
            ' and o."_EPOCH" is null limit 1').fetchone()
        if orphan is not None:
            raise UnknownStateError(
                f"raw/{self.target.name}: the change at LSN {lsn_text(int(orphan[0]))}, ordinal {orphan[1]}, leaves"
                " values out and no earlier state of its row is known: load the table's state from before the slot was"
                " made")


class _Truncate:
    def __init__(self, target: Target, cut: fold.Truncation) -> None:
        self.target, self.values = target, (*cut.fence, cut.row["_ledger_day"])

    def run(self, cursor: Any) -> None:
        new = "select %s as _epoch, %s::number(38,0) as _commit_lsn, %s::number(38,0) as _ord, %s::date as _ledger_day"
        cursor.execute(
            f"update {_name(self.target)} t set _deleted = true, _epoch = s._epoch, _commit_lsn = s._commit_lsn,"
            f" _ord = s._ord, _ledger_day = s._ledger_day from ({new}) s"
            f" where not t._deleted and {_newer('s', 't')}", self.values)


def _unheld(cursor: Any, target: Target, stage: str) -> int:
    """Values that Snowflake's type cannot hold (infinity, year 294276): null in the table, exact in the lake."""
    lost = [f"count_if(s.{quoted(name)} is not null and {_typed('s.' + quoted(name), kind)} is null)"
            for name, kind in _kinds(target).items() if _tried(kind) and name not in _FENCE_KINDS]
    if not lost:
        return 0
    (count,) = cursor.execute(f'select {" + ".join(lost)} from "RAW"."{stage}" s').fetchone()
    return int(count)


def _tried(kind: str) -> bool:
    return kind in ("date", "timestamp_tz", "double") or kind.startswith("number(")


def _typed(value: str, kind: str) -> str:
    if kind == "varchar":
        return value
    if kind == "binary":
        return f"to_binary(substr({value}, 3), 'HEX')"
    return f"try_cast({value} as {kind})" if _tried(kind) else f"{value}::{kind}"


def _newer(one: str, other: str) -> str:
    """Whether a row's fence lies behind another's, spelled out: Snowflake compares no rows."""
    epoch, lsn, ordinal = (f"{one}.{name} > {other}.{name}" for name in FENCE)
    same = [f"{one}.{name} = {other}.{name}" for name in FENCE]
    return f"({epoch} or ({same[0]} and ({lsn} or ({same[1]} and {ordinal}))))"


def _record(cursor: Any, target: Target, chunk: Sequence[Daily]) -> None:
    for day in chunk:
        cursor.execute(
            'merge into "RAW"."_APPLIED" t using (select %s as table_name, %s::date as day, %s as digest,'
            ' %s::number(38,0) as n, %s::number(38,0) as through_seq) s'
            ' on t."TABLE_NAME" = s.table_name and t."DAY" = s.day when matched then update set "DIGEST" = s.digest,'
            ' "ROWS" = s.n, "THROUGH_SEQ" = s.through_seq, "APPLIED_AT" = current_timestamp()'
            ' when not matched then insert ("TABLE_NAME", "DAY", "DIGEST", "ROWS", "THROUGH_SEQ", "APPLIED_AT")'
            " values (s.table_name, s.day, s.digest, s.n, s.through_seq, current_timestamp())",
            (target.name, day.day.isoformat(), day.digest, day.rows, day.through_seq))


def _name(target: Target) -> str:
    return f'"RAW".{quoted(target.name)}'


def quoted(name: str) -> str:
    """A name as Snowflake writes those that nobody quoted: in capitals."""
    return '"' + name.upper().replace('"', '""') + '"'


def _list(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(map(quoted, names))


def _defined(kinds: dict[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in kinds.items())
