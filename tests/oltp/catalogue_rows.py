"""Rows made from the live catalogue: a full and a bare good row for every table, a bad row for every rule."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from oltp_rows import AT, GOOD
from psycopg import sql

SCHEMAS = ("oltp", "ops", "ingest", "vault")
Row = dict[str, Any]

ENTRY = f"le_{round(dt.datetime.fromisoformat(AT).timestamp() * 1000):012x}"
# What no rule of a single column tells; all else follows from the catalogue.
FIXED: dict[str, Row] = {
    **{f"oltp.{table}": row for table, row in GOOD.items()},
    "oltp.charges": {**GOOD["charges"], "failure_code": None},
    "oltp.balance_transactions": {"amount": 100, "fee": 3, "net": 97},
    # The journal checks whole statements: an entry's id carries its instant, its postings come together and balance.
    "oltp.ledger_reversals": {"reversal_id": f"{ENTRY}b"},
    "oltp.ledger_accounts": {"id": "cash:eur", "account_id": None, "other_currency": None},
    "oltp.ledger_account_kinds": {"owner": "platform"},
    "oltp.posting_rules": dict.fromkeys(("net", "stripe_fee", "application_fee", "tax", "passthrough_fee"), 0),
    "oltp.ledger_postings": {"entry_id": ENTRY, "ledger_account_id": "cash:eur", "currency": "eur"},
}  # fmt: skip
PARENTS = {"oltp.ledger_postings": {"oltp.ledger_entries", "oltp.ledger_accounts"}}  # held by a trigger, not by keys
TOGETHER: dict[str, tuple[Row, ...]] = {
    "oltp.ledger_account_kinds": ({"kind": "cash"}, {"kind": "fees"}),
    "oltp.ledger_entries": ({"id": ENTRY}, {"id": f"{ENTRY}b"}),
    "oltp.ledger_postings": ({"position": 1, "amount": 100}, {"position": 2, "amount": -100}),
}
# Values that break a rule of several columns, where changing one or two of them is not enough.
SPOILT: dict[str, Row] = {
    "failed_has_failure_code": {"status": "failed", "failure_code": None, "amount_captured": 0},
    "api_keys_prefix_check": {"prefix": "zz_test_", "livemode": False},
    "payout_schedules_recurrence_check": {"recurrence": "yearly", "weekly_anchor": None, "monthly_anchor": None},
    "payout_schedules_weekly_anchor_check": {"recurrence": "weekly", "weekly_anchor": 8, "monthly_anchor": None},
    "payout_schedules_monthly_anchor_check": {"recurrence": "monthly", "weekly_anchor": None, "monthly_anchor": 32},
    "reversal_is_another_entry": {"reversal_id": ENTRY},
    "ledger_accounts_account_id_fkey": {"id": "cash:eur:acct_9", "account_id": "acct_9"},
    "ledger_accounts_other_currency_fkey": {"id": "cash:eur:zzz", "other_currency": "zzz"},
    "ledger_accounts_currency_fkey": {"id": "cash:zzz", "currency": "zzz"},
    "ledger_accounts_kind_fkey": {"id": "zzz:eur", "kind": "zzz"},
}

_GOOD: dict[str, tuple[Any, ...]] = {
    "text": ("{table}_{column}", "xxx", "XX", "4242", "424242", "0" * 64),
    "text[]": (["x"],),
    "bytea": (b"\1" * 32, b"\1" * 16),
    "boolean": (True, False),
    "smallint": (1, 0, 2, 2000), "integer": (1, 0, 2, 2000), "bigint": (1, 0, 2),
    "numeric": ("1", "0"), "double precision": (0.5,),
    "date": ("2026-06-01",), "timestamp with time zone": (AT, "2026-06-02T10:00:00Z"),
    "jsonb": ("{}",), "uuid": ("00000000-0000-7000-8000-000000000000",), "interval": ("1 day",),
}  # fmt: skip
_BAD: dict[str, tuple[Any, ...]] = {
    "text": ("no_such_value", "zzz", "ZZ", "", " ", "x" * 300),
    "text[]": (["no_such_value"], []),
    "bytea": (b"", b"x"),
    "boolean": (True, False),
    "smallint": (-1, 0, 2, 5, 13, 101, 9999), "integer": (-1, 0, 2, 5, 13, 101, 9999),
    "bigint": (-1, 0, 2, 5, 1_000_000),
    "numeric": ("-1", "0", "NaN", "101", "181"), "double precision": (-1.0, 2.0, float("nan")),
    "date": ("infinity", "-infinity"), "timestamp with time zone": ("infinity", "-infinity", "1999-01-01T00:00:00Z"),
    "uuid": ("00000000-0000-7000-8000-0000000000ff",), "interval": ("-1 day",),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    mandatory: bool
    default: str | None


@dataclass(frozen=True)
class Rule:
    """A check (c), foreign key (f) or uniqueness (u) of a table."""

    table: str
    name: str
    kind: str
    columns: tuple[str, ...]
    text: str = ""
    parent: str | None = None
    parent_columns: tuple[str, ...] = ()


@dataclass
class Table:
    name: str
    columns: dict[str, Column] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)

    def of(self, kind: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.kind == kind]

    @property
    def parents(self) -> set[str]:
        return {rule.parent for rule in self.of("f") if rule.parent} | PARENTS.get(self.name, set())

    @property
    def mandatory_parents(self) -> set[str]:
        """Tables without whose rows this one can have none."""
        return {rule.parent for rule in self.of("f") if rule.parent
                and all(self.columns[name].mandatory for name in rule.columns)}  # fmt: skip


_TABLES = """
select t.oid, format('%%s.%%s', n.nspname, t.relname) from pg_class t join pg_namespace n on n.oid = t.relnamespace
where n.nspname = any(%s) and t.relkind in ('r', 'p') and not t.relispartition order by 2
"""
_COLUMNS = """
select attname, regexp_replace(format_type(atttypid, null), '\\(.*', ''), attnotnull,
    case when attidentity <> '' then '1' else pg_get_expr(adbin, adrelid) end
from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
where attrelid = %s and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
_RULES = """
select conname, contype::text, (select array_agg(attname order by k.n) from unnest(conkey) with ordinality as k (num, n)
    join pg_attribute a on a.attrelid = conrelid and a.attnum = k.num),
    pg_get_constraintdef(c.oid), case when confrelid <> 0 then (select format('%%s.%%s', n.nspname, relname)
        from pg_class p join pg_namespace n on n.oid = p.relnamespace where p.oid = confrelid) end,
    (select array_agg(attname order by k.n) from unnest(confkey) with ordinality as k (num, n)
    join pg_attribute a on a.attrelid = confrelid and a.attnum = k.num)
from pg_constraint c where conrelid = %s and conparentid = 0 and contype in ('c', 'f', 'x')
union all
select relname, 'u', (select array_agg(attname order by attnum) from pg_attribute a
    where a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[])), '', null, null
from pg_index i join pg_class x on x.oid = i.indexrelid where indrelid = %s and indisunique
"""


_LATE = """
select format('%%s.%%s', n.nspname, t.relname), tgname from pg_trigger g join pg_class t on t.oid = g.tgrelid
join pg_namespace n on n.oid = t.relnamespace
where tgdeferrable and not tgisinternal and not t.relispartition and n.nspname = any(%s)
"""


def read(conn: psycopg.Connection) -> dict[str, Table]:
    """Every table of our schemas with its columns and rules, parents before children."""
    tables = {}
    for oid, name in conn.execute(_TABLES, [list(SCHEMAS)]).fetchall():
        table = tables[name] = Table(name)
        table.columns = {row[0]: Column(*row) for row in conn.execute(_COLUMNS, [oid])}
        table.rules = [Rule(name, r[0], r[1], tuple(r[2] or ()), r[3], r[4], tuple(r[5] or ()))
                       for r in conn.execute(_RULES, [oid, oid])]  # fmt: skip
    return {name: tables[name] for name in _parents_first(tables)}


def _parents_first(tables: dict[str, Table]) -> list[str]:
    order: list[str] = []
    while len(order) < len(tables):
        rest = [name for name in tables if name not in order]
        done = {*order}
        ready = [n for n in rest if tables[n].parents - {n} <= done]
        # A circle of optional relations: begin in it, where no mandatory one is missing.
        ready = ready or [n for n in rest if tables[n].mandatory_parents - {n} <= done
                          and n in _ancestors(tables, n, done)][:1]  # fmt: skip
        assert ready, f"mandatory foreign keys in a circle: {rest}"
        order += ready
    return order


def _expression(rule: Rule) -> sql.SQL:
    text = re.sub(r"^CHECK ", "", rule.text).removesuffix(" NOT VALID").replace("%", "%%")
    return sql.SQL(text)  # type: ignore[arg-type]


def _named(checks: list[Rule]) -> list[str]:
    """Words of a list, prefixes of a pattern: what the checks themselves name."""
    return [word.replace("\\", "").replace("%", "1") for rule in checks
            for word in re.findall("'([^']+)'::text", rule.text)]  # fmt: skip


def _ancestors(tables: dict[str, Table], name: str, done: set[str]) -> set[str]:
    found: set[str] = set()
    ahead = tables[name].parents - {name}
    while ahead := ahead - found - done:
        found |= ahead
        ahead = {parent for each in ahead for parent in tables[each].parents - {each}}
    return found


class Maker:
    """Good rows of each table, given those of its parents."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        self.tables = read(conn)
        self.rows: dict[str, Row] = {}
        # What waits for the end of a transaction is about several rows, and bars changes of tables until then.
        for name, trigger in conn.execute(_LATE, [list(SCHEMAS)]).fetchall():
            conn.execute(sql.SQL("alter table {} disable trigger {}").format(
                sql.Identifier(*name.split(".")), sql.Identifier(trigger)))
        for name in reversed(self.tables):  # rows that migrations brought would be in the way
            if name != "ops.status_moves":
                conn.execute(sql.SQL("delete from {}").format(sql.Identifier(*name.split("."))))

    def good(self, name: str, *, bare: bool = False) -> Row:
        """A row that every rule accepts; `bare`: only what the table demands."""
        table, row = self.tables[name], {}
        related = {own: (rule.parent, theirs) for rule in reversed(table.of("f"))
                   for own, theirs in zip(rule.columns, rule.parent_columns, strict=True)}  # fmt: skip
        for column in table.columns.values():
            if (bare and not column.mandatory) or column.default is not None:
                continue
            if column.name in FIXED.get(name, {}):
                row[column.name] = FIXED[name][column.name]
            elif name in TOGETHER and column.name in TOGETHER[name][0]:
                row[column.name] = TOGETHER[name][0][column.name]
            elif column.name in related:
                parent, theirs = related[column.name]
                row[column.name] = self.rows.get(parent, {}).get(theirs)
            else:
                row[column.name] = self._value(table, column)
        return self._settled(table, row if bare else {**row, **FIXED.get(name, {})})

    def _settled(self, table: Table, row: Row) -> Row:
        """The row with other values where checks of several columns ask for them."""
        broken = [rule for rule in table.of("c") if rule.name in self._violated(table, row)]
        names = list(dict.fromkeys(name for rule in broken for name in rule.columns))
        columns = [table.columns[name] for name in names]
        others = [(*_GOOD[c.type], *_named(table.of("c")), *([] if c.mandatory else [None])) if c.type == "text"
                  else (*_GOOD[c.type], *([] if c.mandatory else [None])) for c in columns]  # fmt: skip
        for values in itertools.product(*others) if broken else ():
            changed = {**row, **dict(zip(names, values, strict=True))}
            with suppress(psycopg.Error), self.conn.transaction():
                if not self._violated(table, changed):
                    return changed
        return row

    def _violated(self, table: Table, row: Row) -> set[str]:
        checks = table.of("c")
        if not checks:
            return set()
        values = [sql.SQL("{}::{} as {}").format(
            sql.Placeholder() if name in row else sql.SQL(f"({(c.default or 'null').replace('%', '%%')})"),  # type: ignore[arg-type]
            sql.SQL(c.type), sql.Identifier(name)) for name, c in table.columns.items()]  # type: ignore[arg-type]  # fmt: skip
        query = sql.SQL("select {} from (select {}) as t").format(
            sql.SQL(", ").join(sql.SQL("coalesce({}, true)").format(_expression(rule)) for rule in checks),
            sql.SQL(", ").join(values))  # fmt: skip
        found = self.conn.execute(query, [row[name] for name in table.columns if name in row]).fetchone()
        return {rule.name for rule, holds in zip(checks, found or (), strict=True) if not holds}

    def _value(self, table: Table, column: Column) -> Any:
        checks = [rule for rule in table.of("c") if rule.columns == (column.name,)]
        named = _named(checks)
        if column.type not in _GOOD:
            raise AssertionError(f"{table.name}.{column.name}: give the type {column.type} a value in _GOOD")
        plain = [v.format(table=table.name.split(".")[1], column=column.name) if isinstance(v, str) else v
                 for v in _GOOD[column.type] if v != "{}"] or ["{}"]  # fmt: skip
        for value in (*(named if column.type == "text" else ()), *plain):
            if all(self._accepts(rule, column, value) for rule in checks):
                return value
        raise AssertionError(f"{table.name}.{column.name}: no value of _GOOD satisfies its checks; name one in FIXED")

    def _accepts(self, rule: Rule, column: Column, value: Any) -> bool:
        query = sql.SQL("select coalesce({}, true) from (select %s::{} as {}) as t").format(
            _expression(rule), sql.SQL(column.type), sql.Identifier(column.name))  # type: ignore[arg-type]
        return self.conn.execute(query, [value]).fetchone() == (True,)

    def insert(self, name: str, row: Row) -> None:
        """Insert the row; where a table takes rows only together, with the others it needs."""
        rows = [{**more, **row} if number == 0 else {**row, **more}
                for number, more in enumerate(TOGETHER.get(name, ({},)))]  # fmt: skip
        if not rows[0]:
            self.conn.execute(sql.SQL("insert into {} default values").format(sql.Identifier(*name.split("."))))
            return
        one = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(rows[0])))
        self.conn.execute(
            sql.SQL("insert into {} ({}) values {}").format(
                sql.Identifier(*name.split(".")), sql.SQL(", ").join(map(sql.Identifier, rows[0])),
                sql.SQL(", ").join([one] * len(rows))),
            [each[column] for each in rows for column in rows[0]],
        )  # fmt: skip

    def bad(self, rule: Rule) -> Iterator[Row]:
        """Changes of the good row that may break the rule and no other."""
        if rule.name in SPOILT:
            yield SPOILT[rule.name]
        columns = [self.tables[rule.table].columns[name] for name in rule.columns]
        words = _named([each for each in self.tables[rule.table].of("c") if {*each.columns} & {*rule.columns}])
        values = {c.name: (*_BAD.get(c.type, ()), None, *(words if c.type == "text" else ())) for c in columns}
        for column in columns:
            yield from ({column.name: value} for value in values[column.name])
        for one, two in itertools.combinations(columns, 2):
            yield from ({one.name: a, two.name: b} for a in values[one.name] for b in values[two.name])

    def insert_all(self) -> None:
        """The full good row of every table."""
        for name in self.tables:
            self.rows[name] = self.good(name)
            self.insert(name, self.rows[name])

    def refused_alone(self, rule: Rule, row: Row) -> bool:
        """Whether the row is refused under the rule's name, and taken once the rule is gone (triggers are silent)."""
        try:
            with self.conn.transaction(force_rollback=True):
                self.insert(rule.table, row)
        except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation) as error:
            if error.diag.constraint_name != rule.name:
                return False
        except psycopg.Error:
            return False
        else:
            return False
        taken = False
        with suppress(psycopg.Error), self.conn.transaction(force_rollback=True):
            table = sql.Identifier(*rule.table.split("."))
            self.conn.execute(sql.SQL("alter table {} disable trigger user").format(table))
            self.conn.execute(sql.SQL("alter table {} drop constraint {}").format(table, sql.Identifier(rule.name)))
            self.insert(rule.table, row)
            taken = True
        return taken
