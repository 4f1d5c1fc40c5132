"""The write API of the reference database: one function, one transaction. Refusals are `ReferenceRefusedError`.

`put_*` take many rows and are idempotent: a row that stands with the same values is not written again, columns that
are not given stay. What is written here reaches the payments database with `sync`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.keys import REFERENCE_TABLES
from stripe_platform.oltp.ids import new_id, new_token
from stripe_platform.reference.database import SCHEMA, schemas

ROWS = 5_000  # in one statement
Row = Mapping[str, Any]
_KEYS = {t.name: t.key for t in REFERENCE_TABLES}
_FIXED = frozenset({"token"})  # given once
_UPDATE = ("update {table} t set {sets} from json_populate_recordset(null::{table}, %s::json) r"
           " where {same} and ({old}) is distinct from ({new})")
_INSERT = ("insert into {table} as t ({names}) select {names} from json_populate_recordset(null::{table}, %s::json) r"
           " where not exists (select from {table} t where {same}) on conflict ({key}) ")
_MEANWHILE = "do update set {sets} where ({old}) is distinct from ({new})"


class ReferenceRefusedError(ValueError):
    """A write that the rules of the reference refuse; the message names the table and the rule, never a value."""


def put_regions(conn: psycopg.Connection, rows: Iterable[Row], *, keep: bool = False) -> int:
    """Regions by code; rows written. `keep`: only those that are missing, what stands is left as it is."""
    return _put(conn, "regions", rows, keep)


def put_currencies(conn: psycopg.Connection, rows: Iterable[Row], *, keep: bool = False) -> int:
    """Currencies by code; rows written. `keep` as for regions."""
    return _put(conn, "currencies", rows, keep)


def put_countries(conn: psycopg.Connection, rows: Iterable[Row], *, keep: bool = False) -> int:
    """Countries by code, with region and currency; a region that is new is named by its code. `keep` as for regions."""
    rows = list(rows)
    with conn.transaction():
        codes = sorted({row["region"] for row in rows if row.get("region")})
        conn.execute("insert into reference.regions (code, name) select c, c from unnest(%s::text[]) as c"
                     " on conflict (code) do nothing", [codes])
        return _put(conn, "countries", rows, keep)


def put_rates(conn: psycopg.Connection, rows: Iterable[Row]) -> int:
    """Exchange rates by day and pair; decimal text or Decimal. Rows written."""
    return _put(conn, "exchange_rates", rows)


def put_rate(conn: psycopg.Connection, *, day: dt.date, from_currency: str, to_currency: str, rate: str) -> int:
    """One exchange rate: major units of `to_currency` for one of `from_currency`."""
    return put_rates(conn, [{"day": day, "from_currency": from_currency, "to_currency": to_currency, "rate": rate}])


def put_merchants(conn: psycopg.Connection, rows: Iterable[Row]) -> int:
    """Merchants by id; a new one without `token` gets a random one, and a token never changes. Rows written."""
    return _put(conn, "merchants", [{"token": None, **row, **_token(row)} for row in rows])


def put_products(conn: psycopg.Connection, rows: Iterable[Row]) -> int:
    """Products by id, with their `merchant_id` where they have one. Rows written."""
    return _put(conn, "products", rows)


def put_product(conn: psycopg.Connection, **row: Any) -> int:
    """One product of the catalogue."""
    return put_products(conn, [row])


def register_merchant(
    conn: psycopg.Connection, *, name: str, country: str, currency: str, mcc: str, business_type: str = "company",
    type: str = "standard", url: str | None = None, created: dt.datetime | None = None,
) -> str:
    """A new merchant; its id. Its account stands in the payments database after the next `sync`."""
    created = created or dt.datetime.now(dt.UTC)
    merchant = new_id("acct", created)
    put_merchants(conn, [{
        "id": merchant, "type": type, "country": country, "default_currency": currency, "business_type": business_type,
        "mcc": mcc, "name": name, "url": url, "created": created,
    }])  # fmt: skip
    return merchant


def rename_merchant(conn: psycopg.Connection, merchant: str, name: str) -> None:
    """Give a merchant another name."""
    _change(conn, "merchants", merchant, {"name": name})


def retire_merchant(conn: psycopg.Connection, merchant: str) -> None:
    """A merchant that left: its row stays, because payments name it."""
    _change(conn, "merchants", merchant, {"deleted": True})


def retire_product(conn: psycopg.Connection, product: str) -> None:
    """A product that is no longer in the catalogue: its row stays, because prices name it."""
    _change(conn, "products", product, {"deleted": True, "active": False})


def remove_rate(conn: psycopg.Connection, *, day: dt.date, from_currency: str, to_currency: str) -> bool:
    """Take back a rate that was wrong; whether there was one."""
    return bool(conn.execute(
        "delete from reference.exchange_rates where day = %s and from_currency = %s and to_currency = %s",
        [day, from_currency, to_currency]).rowcount)


def _token(row: Row) -> dict[str, str]:
    return {} if row.get("token") else {"token": new_token("tok")}


def _change(conn: psycopg.Connection, table: str, key: str, values: Row) -> None:
    settings = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                                  for name, value in values.items())
    found = conn.execute(sql.SQL("update {} set {} where id = {}").format(
        sql.Identifier(SCHEMA, table), settings, sql.Literal(key))).rowcount
    if not found:
        raise ReferenceRefusedError(f"{table} of the reference has no row {key}: check the id")


def _put(conn: psycopg.Connection, table: str, rows: Iterable[Row], keep: bool = False) -> int:
    """Insert or change rows by key; those that name the same columns go together."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    known = set(schemas()[table].names)
    for row in rows:
        if unknown := sorted(set(row) - known):
            raise ReferenceRefusedError(f"{table} of the reference has no column {unknown[0]}: leave it out")
        if missing := [name for name in _KEYS[table] if row.get(name) is None]:
            raise ReferenceRefusedError(f"a row of {table} lacks its {missing[0]}: give it")
        groups.setdefault(tuple(sorted(row)), []).append(row)
    written = 0
    try:
        with conn.transaction():
            for columns, group in groups.items():
                for start in range(0, len(group), ROWS):
                    written += _upsert(conn, table, columns, group[start:start + ROWS], keep)
    except psycopg.errors.IntegrityError as error:
        # The server's DETAIL shows the row: only the rule's name may travel on.
        rule = error.diag.constraint_name or error.diag.column_name or type(error).__name__
        raise ReferenceRefusedError(
            f"rows of reference.{table} break the rule {rule}: nothing of it was written") from None
    return written


def _upsert(conn: psycopg.Connection, table: str, columns: Sequence[str], rows: Sequence[Row], keep: bool) -> int:
    """Change the rows that stand, then insert the others: a row that names some columns only is no whole row."""
    key = _KEYS[table]
    newest = {tuple(str(row[name]) for name in key): row for row in rows}  # one statement meets a key once
    given = json.dumps(list(newest.values()), default=str)
    changing = [] if keep else [name for name in columns if name not in key and name not in _FIXED]
    parts = {
        "table": sql.Identifier(SCHEMA, table), "names": _list(columns), "key": _list(key), "old": _list(changing, "t"),
        "same": sql.SQL(" and ").join(sql.SQL("t.{0} = r.{0}").format(sql.Identifier(name)) for name in key),
    }
    if not changing:
        return conn.execute(sql.SQL(_INSERT + "do nothing").format(**parts), [given]).rowcount
    written = 0
    for text, new in ((_UPDATE, "r"), (_INSERT + _MEANWHILE, "excluded")):
        sets = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier(new, name)) for name in changing]
        statement = sql.SQL(text).format(sets=sql.SQL(", ").join(sets), new=_list(changing, new), **parts)
        written += conn.execute(statement, [given]).rowcount
    return written


def _list(names: Iterable[str], relation: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*([relation] if relation else []), name) for name in names)
