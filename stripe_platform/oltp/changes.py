"""What a loaded day changes in rows of earlier days: set by set, each change of a status with its own instant.

The moves a status may make are the database's (`ops.status_moves`); what breaks them refuses the whole day.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

# Tables whose statuses are kept as history, and the name under which they stand there.
KINDS = {
    "payment_intents": "payment_intent", "charges": "charge", "refunds": "refund", "disputes": "dispute",
    "payouts": "payout", "subscriptions": "subscription", "invoices": "invoice",
}  # fmt: skip


class ChangeError(RuntimeError):
    """A change that cannot be made; the message names table, day and rule."""


def apply(conn: psycopg.Connection, table: str, rows: pa.Table, day: dt.date) -> int:
    """Change the rows named by `id`; null leaves a column as it is. Changes of one id follow each other by `at`."""
    rounds: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    seen: defaultdict[str, int] = defaultdict(int)
    for row in rows.sort_by([("at", "ascending"), ("id", "ascending")]).to_pylist():
        rounds[seen[row["id"]]].append(row)
        seen[row["id"]] += 1
    statement = _statement(table, [name for name in rows.column_names if name not in ("id", "at")])
    # The trigger would date a change by the clock of the load: here every one brings its own instant.
    conn.execute("set local ingest.keeps_history = 'on'")
    for changes in rounds.values():
        try:
            found = conn.execute(statement, [json.dumps(changes, default=str)]).fetchone()
        except psycopg.errors.IntegrityError as error:
            rule = error.diag.constraint_name or type(error).__name__
            raise ChangeError(f"changes of oltp.{table} on {day} break the rule {rule}: nothing was written") from None
        if found is None or found[0] != len(changes):
            raise ChangeError(f"changes of oltp.{table} on {day} name a row that does not stand: nothing was written")
    conn.execute("set local ingest.keeps_history = 'off'")
    return rows.num_rows


def _statement(table: str, columns: list[str]) -> sql.Composed:
    name = sql.Identifier("oltp", table)
    settings = sql.SQL(", ").join(
        sql.SQL("{0} = coalesce(n.{0}, t.{0})").format(sql.Identifier(column)) for column in columns)
    history: sql.Composable = sql.SQL("")
    if "status" in columns:
        history = sql.SQL(
            ", kept as (insert into oltp.status_history (object_kind, object_id, from_status, to_status, at)"
            " select {}, c.id, c.status, c.became, c.at from changed c where c.status <> c.became order by c.at, c.id)"
        ).format(sql.Literal(KINDS[table]))
    return sql.SQL(
        "with n as materialized (select n.*, (w.value ->> 'at')::timestamptz as at"
        " from json_array_elements(%s::json) as w (value), json_populate_record(null::{table}, w.value) as n),"
        " changed as (update {table} t set {settings} from n join {table} o on o.id = n.id where t.id = n.id"
        " returning t.id, n.at{status}){history} select count(*) from changed"
    ).format(table=name, settings=settings, history=history,
             status=sql.SQL(", o.status, t.status as became" if "status" in columns else ""))


def follow_refunds(conn: psycopg.Connection, refunds: pa.Table | None) -> None:
    """Charges say what their refunds say that changed."""
    if refunds is None or not refunds.num_rows:
        return
    conn.execute(
        "update oltp.charges c set amount_refunded = s.total from ("
        " select r.charge_id, coalesce(sum(r.amount) filter (where r.status = 'succeeded'), 0)::bigint as total"
        " from oltp.refunds r where r.charge_id in (select o.charge_id from oltp.refunds o where o.id = any(%s))"
        " group by 1) s where c.id = s.charge_id and c.amount_refunded <> s.total",
        [refunds["id"].to_pylist()])


def movements(updates: Mapping[str, pa.Table], *tables: str) -> tuple[list[str], list[str]]:
    """Ids and instants of the last change of each row of these tables whose status may move money."""
    last: dict[str, dt.datetime] = {}
    for table in tables:
        rows = updates.get(table)
        if rows is not None and "status" in rows.column_names:
            for row in rows.select(["id", "at"]).to_pylist():
                last[row["id"]] = max(row["at"], last.get(row["id"], row["at"]))
    return list(last), [at.isoformat() for at in last.values()]
