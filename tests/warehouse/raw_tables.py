"""Raw tables as the change log fills them, for tests: all of them, from the OLTP's own schema description."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.oltp.schema import load_schema

BOOKKEEPING = {
    "_source": "text", "_epoch": "text", "_commit_lsn": "bigint", "_ord": "bigint", "_deleted": "boolean",
    "_ledger_day": "date",
}


def create(conn: psycopg.Connection) -> None:
    """All raw tables, empty: the non-sensitive columns with their types, then the bookkeeping columns."""
    conn.execute("create schema if not exists raw")
    for table in load_schema().values():
        columns = {c.name: c.type for c in table.columns if c.name not in table.sensitive} | BOOKKEEPING
        conn.execute(sql.SQL("create table raw.{} ({}, primary key ({}))").format(
            sql.Identifier(table.name),
            sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in columns.items()),
            sql.SQL(", ").join(map(sql.Identifier, table.key)),
        ))


class Change:
    """Writes rows of one ledger day into raw, as the fenced merge would leave them: the newest state wins."""

    def __init__(self, conn: psycopg.Connection, day: dt.date) -> None:
        self.conn, self.day = conn, day

    def put(self, table: str, *, deleted: bool = False, **row: Any) -> None:
        """Insert or replace one row; columns not given stay null (insert) or as they are (replace)."""
        self._write(table, {**row, "_deleted": deleted})

    def _write(self, table: str, row: dict[str, Any]) -> None:
        key = load_schema()[table].key
        full = {**row, "_source": "oltp", "_epoch": "1", "_commit_lsn": self.day.toordinal(), "_ord": 0,
                "_ledger_day": self.day}
        columns = list(full)
        self.conn.execute(
            sql.SQL("insert into raw.{} ({}) values ({}) on conflict ({}) do update set {}").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(sql.Placeholder() * len(columns)),
                sql.SQL(", ").join(map(sql.Identifier, key)),
                sql.SQL(", ").join(
                    sql.SQL("{0} = excluded.{0}").format(sql.Identifier(c)) for c in columns if c not in key),
            ),
            list(full.values()),
        )


# Volume: `charges` per day for `days` days, one refund in 30 and one dispute in 120, three days later.
_VOLUME = """
insert into raw.currencies select code, code, e, e, 1, 'oltp', '1', 1, 0, false, %(first)s
    from (values ('eur', 2), ('usd', 2), ('jpy', 0), ('kwd', 3)) as c (code, e);
insert into raw.exchange_rates select %(first)s + d, code, 'eur', rate, 'oltp', '1', 1, 0, false, %(first)s
    from generate_series(0, %(days)s + 30) as d,
    (values ('usd', 0.9137), ('jpy', 0.0061), ('kwd', 2.9871)) as c (code, rate);
insert into raw.accounts select 'acct_' || i, 'standard', 'FR', 'eur', 'company', '5411', 'name', true, true,
    'tok_a' || i, %(first)s, 'oltp', '1', 1, 0, false, %(first)s from generate_series(0, 499) as i;
insert into raw.customers (id, account_id, country, currency, delinquent, deleted, token, created, _source, _epoch,
    _commit_lsn, _ord, _deleted, _ledger_day)
    select 'cus_' || i, null, 'FR', 'eur', false, false, 'tok_c' || i, %(first)s, 'oltp', '1', 1, 0, false, %(first)s
    from generate_series(0, 4999) as i;
insert into raw.payment_methods select 'pm_' || i, 'cus_' || i, 'card', 'visa', '4242', 1, 2030, 'credit', 'FR',
    'fp' || i, %(first)s, 'oltp', '1', 1, 0, false, %(first)s from generate_series(0, 4999) as i;
insert into raw.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, terminal_id, amount,
    amount_captured, amount_refunded, currency, status, disputed, failure_code, device_type, ip_country, created,
    _source, _epoch, _commit_lsn, _ord, _deleted, _ledger_day)
select 'ch_' || lpad(to_hex(n), 32, '0'), 'pi_' || n, 'acct_' || n %% 500, 'cus_' || h, 'pm_' || h,
    'tmr_' || n %% 10000, a, a,
    case when n %% 30 = 0 then a else 0 end, (array['eur', 'usd', 'jpy', 'kwd'])[1 + n %% 4],
    'succeeded', n %% 120 = 7, null, 'mobile', 'FR', %(first)s + d + make_interval(secs => i * 86400.0 / %(charges)s),
    'oltp', '1', n, 0, false,
    %(first)s + d + case when n %% 30 = 0 or n %% 120 = 7 then 3 else 0 end
from generate_series(0, %(days)s - 1) as d, generate_series(0, %(charges)s - 1) as i,
    lateral (select d::bigint * %(charges)s + i as n) as x,
    lateral (select n * 7919 %% 5000 as h, n * 104729 %% 20000 as a) as y;
insert into raw.charge_outcomes select id, 'authorized', 'approved_by_network', null, 'normal', 10, 'oltp', '1', 1, 0,
    false, created::date from raw.charges;
insert into raw.refunds (id, charge_id, amount, currency, status, created, _source, _epoch, _commit_lsn, _ord, _deleted,
    _ledger_day)
select 're_' || substr(id, 4), id, amount, currency, 'succeeded', created + interval '3 days', 'oltp', '1', 1, 0, false,
    _ledger_day from raw.charges where amount_refunded > 0;
insert into raw.disputes (id, charge_id, amount, currency, status, reason, created, _source, _epoch, _commit_lsn, _ord,
    _deleted, _ledger_day)
select 'dp_' || substr(id, 4), id, amount, currency, 'lost', 'fraudulent', created + interval '3 days', 'oltp', '1', 1,
    0, false, _ledger_day from raw.charges where disputed;
"""


def fill(conn: psycopg.Connection, first: dt.date, days: int, charges: int) -> None:
    """`days` x `charges` charges made by the server, and everything they refer to."""
    conn.execute("set timezone = 'UTC'")
    with psycopg.ClientCursor(conn) as cursor:
        cursor.execute(_VOLUME, {"first": first, "days": days, "charges": charges})
    conn.commit()
    conn.autocommit = True
    conn.execute("analyze")
