"""Raw tables: what stands in the warehouse is what the change log says, value by value, for every ledger day.

Both stores hash each row's text and sum the hashes by day; the sums are compared, no row is fetched.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.pq import TransactionStatus

from asset_checks.judge import PARTITION, ROWS, WHOLE, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cdc import canonical
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.columns import BY_NAME
from stripe_platform.cdc.compact import files_through
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.quarantined import in_raw
from stripe_platform.cdc.source import OLTP
from stripe_platform.keys import OLTP_TABLES, UNDATED, key
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import quarantine
from stripe_platform.warehouse.raw import columns_of
from stripe_platform.warehouse.raw_tables import declared
from stripe_platform.warehouse.stream import streamed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_MONEY = {"negative_amounts": "amount < 0", "odd_currencies": "currency is null or currency !~ '^[a-z]{3}$'"}
_VALUES: dict[str, dict[str, str]] = {
    "payment_intents": _MONEY,
    "charges": _MONEY | {
        "refunded_beyond_capture": "amount_refunded > amount_captured",
        "captured_beyond_amount": "amount_captured > amount"},
    "refunds": _MONEY,
    "disputes": _MONEY,
    "exchange_rates": {"odd_rates": "not (rate > 0 and rate < 'Infinity')"},
    "customers": {"without_token": "token is null"},
    "accounts": {"without_token": "token is null"},
    "fraud_assessments": {"scores_outside": "not (score >= 0 and score <= 1)"},
}

# Of a tombstone only the key counts. A row's fence stands behind its text.
_FENCED = f"concat_ws({canonical.SEPARATOR}, {{}}, _epoch, _commit_lsn, _ord, _deleted::text)"

_PROFILE = """
with t as (
    select _ledger_day, count(*) as n,
        sum(('x' || substr(md5(case when _deleted then {tombstone} else {living} end), 1, 15))::bit(60)::bigint)
            as content,
        {counts}
    from {table} where _ledger_day = any(%(days)s::date[]) and {judged} group by 1
)
select d.day::text, coalesce(t.content, 0)::text, coalesce(t.n, 0),
    (select count(*) from unnest(%(apart_days)s::date[]) as a (day) where a.day = d.day),
    (select count(*) from raw._applied a where a.table_name = %(table)s and a.day = d.day), {filled}
from unnest(%(days)s::date[]) as d (day) left join t on t._ledger_day = d.day
"""

# Keys whose newest change is not simply their only one: few, and only they are worth sorting out. A truncation takes
# every key with it.
_ODD = """
create temp table odd as
select {keys} from changes where _op <> 't' group by {keys}
having count(*) > 1 or bool_or(_op = 'd' or len(_unchanged) > 0) or (select count(*) > 0 from changes where _op = 't')
"""

# Their newest change. `_partial`: it left values out.
_NEWEST = """
create temp table newest as
with newest as (
    select {keys}, max(_fence) as _fence, arg_max(_it, _fence) as _it
    from (
        select {keys}, {fence} as _fence, struct_pack(
            content := {content}, partial := len(_unchanged) > 0, gone := _op = 'd', day := {day}) as _it
        from changes semi join odd using ({keys})
    ) group by {keys}
),
cuts as (
    select list(struct_pack(fence := {fence}, day := {day}) order by {fence}) as cuts from changes where _op = 't'
),
cut as (
    select *, case when not _it.gone then list_filter(cuts, lambda c: c.fence > _fence)[1] end as _cut
    from newest, cuts
)
select {keys}, coalesce(_cut.fence, _fence) as _fence, coalesce(_cut.day, _it.day) as _day,
    _it.gone or _cut is not null as _gone, _it.partial as _partial, _it.content as _content
from cut
"""

_SUMS = """
select _day, count(*), sum(('0x' || md5(_row)[:15])::bigint)::varchar from (
    select {day} as _day, concat_ws({separator}, {content}, _epoch, _commit_lsn, _ord, false) as _row
    from changes anti join odd using ({keys}) where _op <> 't'
    union all
    select _day, concat_ws(
        {separator}, case when _gone then {key_text} else _content end, _fence.e, _fence.l, _fence.o, _gone)
    from newest
) group by _day
"""


def _violations(table: str) -> dict[str, str]:
    # A tombstone may know no more than its key: the rules are for living rows.
    living = {name: f"not _deleted and ({condition})" for name, condition in _VALUES.get(table, {}).items()}
    return {"null_keys": " or ".join(f"{column} is null" for column in dailies.key_of(table)), **living}


def _text(columns: Sequence[tuple[str, str]], *, duck: bool) -> str:
    """SQL that joins columns, given as (name, PostgreSQL type), to one text."""
    import pyarrow as pa

    of = canonical.in_duckdb if duck else canonical.in_postgres
    return canonical.row([of(sql.Identifier(name).as_string(), BY_NAME.get(kind, pa.string()))
                          for name, kind in columns])


def _keys(table: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in columns_of(table) if name in dailies.key_of(table)]


def _profile(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    rules = _violations(table)
    query = partial(
        sql.SQL(_PROFILE).format, table=sql.Identifier("raw", table),
        tombstone=sql.SQL(_FENCED.format(_text(_keys(table), duck=False))),
        living=sql.SQL(_FENCED.format(_text(columns_of(table), duck=False))),
        counts=sql.SQL(", ").join(
            sql.SQL("count(*) filter (where {}) as {}").format(sql.SQL(condition), sql.Identifier(name))
            for name, condition in rules.items()),
        filled=sql.SQL(", ").join(sql.SQL("coalesce(t.{}, 0)").format(sql.Identifier(name)) for name in rules))
    with stores.warehouse() as connection:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            # Rows and how far they came are of one moment.
            connection.execute("set transaction isolation level repeatable read")
        connection.execute("set local datestyle = 'ISO, YMD'")
        connection.execute("set local timezone = 'UTC'")
        apart = dict(connection.execute(
            "select key_hash, ledger_day from raw._quarantine where table_name = %s", [table]).fetchall())
        judged: sql.Composable = sql.SQL("true")
        if apart:  # what stands of such a key is older than the log: it is counted apart
            judged = sql.SQL("encode(sha256(convert_to({}, 'UTF8')), 'hex') <> all(%(apart)s)").format(
                sql.SQL(quarantine.key_text(declared(table), duck=False)))
        standing = connection.execute(query(judged=judged), {
            "days": list(days), "table": table, "apart": list(apart), "apart_days": list(apart.values())}).fetchall()
        applied = [row[0] for row in connection.execute(
            "select day from raw._applied where table_name = %s order by day", [table])]
        through = streamed(connection, OLTP.name).seq
    expected = _expected(stores, table, applied, min(days), through, list(apart))
    counts = {}
    for day, content, rows, keys_quarantined, days_applied, *broken in standing:
        keys, expected_content = expected.get(day, (0, "0"))
        counts[day] = {ROWS: rows, "days_applied": days_applied, "keys_in_the_log": keys,
                       "keys_quarantined": keys_quarantined,
                       "days_altered": int(content != expected_content), **dict(zip(rules, broken, strict=True))}
    return frame(counts)


def _expected(stores: Stores, table: str, applied: Sequence[dt.date], first: dt.date, through: int,
              apart: Sequence[str]) -> dict[str, tuple[int, str]]:
    """By ledger day: keys whose newest change is of that day, among the days applied so far and the batches streamed
    up to `through`, and their content; without the keys whose hashes are given in `apart`."""
    later = [day for day in applied if day >= first]
    lake, first_day = stores.lake(), load_settings().first_day
    files = files_through(lake, Chain.load(lake), table, later, through, first, first_day)
    if not files:
        return {}
    names = {
        "keys": ", ".join(sql.Identifier(column).as_string() for column in dailies.key_of(table)),
        "fence": "struct_pack(e := _epoch, l := _commit_lsn, o := _ord)",
        "content": _text(columns_of(table), duck=True), "key_text": _text(_keys(table), duck=True),
        "separator": canonical.SEPARATOR, "day": "_day"}
    import pyarrow as pa

    with stores.duck() as duck:
        duck.register("catalogue", dailies.schema_of(table).empty_table())  # columns younger than these files
        duck.register("file_days", pa.table({"filename": list(files), "_day": [str(day) for day in files.values()]}))
        read = ", ".join(map(sql.quote, files))
        judged = f"sha256({quarantine.key_text(declared(table), duck=True)})" if apart else "''"
        apart_too = ", ".join(map(sql.quote, apart or ["-"]))
        duck.execute(f"""create temp view changes as
            select * from read_parquet([{read}], filename = true, union_by_name = true) join file_days using (filename)
            where _op = 't' or {judged} not in ({apart_too})
            union all by name select * from catalogue""")  # noqa: S608 (quoted names of files)
        duck.execute(_ODD.format(**names))
        duck.execute(_NEWEST.format(**names))
        if duck.execute("select count(*) from newest where _partial and not _gone").fetchall() != [(0,)]:
            duck.register("folded", _folded(stores, table, applied, through))
            same = " and ".join(f"f.{column} = newest.{column}" for column in names["keys"].split(", "))
            duck.execute(f"update newest set _content = f.content from (select {names['keys']}, {names['content']} as"  # noqa: S608
                         f" content from folded) f where _partial and not _gone and {same}")
        return {day: (keys, content) for day, keys, content in duck.execute(_SUMS.format(**names)).fetchall()}


def _folded(stores: Stores, table: str, applied: Sequence[dt.date], through: int) -> pa.Table:
    """The newest change of each key with the values it left out, which may come from any earlier day."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stripe_platform.cdc import fold
    from stripe_platform.cdc.compact import sort_by_key

    lake, first_day = stores.lake(), load_settings().first_day
    files = files_through(lake, Chain.load(lake), table, applied, through, dt.date.min, first_day)
    parts = [pq.read_table(file) for file in files]
    *_, newest = fold.segments(pa.concat_tables(parts, promote_options="default"))
    key_columns = dailies.key_of(table)
    return fold.collapse(sort_by_key(newest, key_columns), key_columns)


def _undated(stores: Stores, tables: Sequence[str]) -> pd.DataFrame:
    """Tables without days of their own: all ledger days together. The witness is the raw table's columns."""
    counts = {}
    with stores.warehouse() as connection:
        columns = dict(connection.execute(
            "select table_name, count(*) from information_schema.columns where table_schema = 'raw' group by 1"))
        applied: dict[str, list[dt.date]] = {name: [] for name in tables}
        if columns:
            for name, day in connection.execute(
                    "select table_name, day from raw._applied where table_name = any(%s) order by 2", [list(tables)]):
                applied[name].append(day)
        for name in tables:
            if name in columns and not applied[name]:
                rows = connection.execute(
                    sql.SQL("select count(*) from {}").format(sql.Identifier("raw", name))).fetchone()
                counts[name] = {ROWS: rows[0] if rows else 0, "keys_in_the_log": 0, "days_altered": 0, "null_keys": 0}
    for name in tables:
        if applied[name]:
            found = _profile(name, stores, applied[name])
            counts[name] = {column: int(found[column].sum()) for column in found.columns if column != PARTITION}
        counts.setdefault(name, {ROWS: 0, "keys_in_the_log": 0, "days_altered": 0, "null_keys": 0})
        counts[name]["columns_read"] = int(columns.get(name, 0))
    return frame(counts)


def _quarantined(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    """All raw tables together; those of the deployment's own sources too."""
    with stores.warehouse() as connection:
        tables = connection.execute("select count(distinct table_name) from raw._applied").fetchone()
        keys = sum(in_raw(connection).values())
        return frame({WHOLE: {ROWS: tables[0] if tables else 0, "keys_quarantined": keys}})


def _alone(table: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    return _undated(stores, [table]).assign(**{PARTITION: WHOLE})


CHECKS = [
    Check(
        key("raw", "charges"), "nothing_is_quarantined",
        "No key of any raw table is put aside: `stripe-platform cdc quarantine` names them, their rules and remedies.",
        _quarantined, none_of("keys_quarantined"), blocking=False, partitioned=False),
    *(Check(
        key("raw", name), "rows_are_the_logs",
        "Each key of the change log stands once, with every value of its newest change.",
        partial(_alone, name), (equal(ROWS, "keys_in_the_log"), *none_of("days_altered", "null_keys")),
        {"columns_read": 1}, partitioned=False, together=_undated) for name in UNDATED),
    *(Check(
        key("raw", table.name), "rows_are_the_logs",
        "Each key of the change log stands once, with every value of its newest change; values are in their range.",
        partial(_profile, table.name),
        (equal(ROWS, "keys_in_the_log"), *none_of("days_altered", *_violations(table.name))),
        {"days_applied": 1})  # a day may change nothing in a table: the witness is the applied day
      for table in OLTP_TABLES if table.dated),
]
