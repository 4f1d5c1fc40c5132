"""Tables shaped like marts.fct_charges and marts.fct_disputes, filled from frames: what the features are built from.

Frame of charges: charge_id, created (datetime64, UTC), customer_token, terminal_id, amount_eur (int, minor units),
optionally status. Frame of disputes: charge_id, created, optionally reason.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import psycopg

FDH = Path(__file__).parent.parent.parent / "shared" / "data" / "fdh" / "transactions.parquet"

TABLES = """
create schema if not exists marts;
create table if not exists marts.fct_charges (
    charge_id text primary key, event_day date not null, created timestamptz not null, customer_token text,
    terminal_id text, amount_eur bigint, status text not null);
create table if not exists marts.fct_disputes (
    dispute_id text primary key, charge_id text not null, event_day date not null, created timestamptz not null,
    reason text not null);
delete from marts.fct_charges;
delete from marts.fct_disputes;
"""


def write(connection: psycopg.Connection, charges: pd.DataFrame, disputes: pd.DataFrame) -> None:
    """Replace both tables' rows."""
    with connection.transaction():
        connection.execute(TABLES)
        _copy(connection, "marts.fct_charges (charge_id, event_day, created, customer_token, terminal_id, amount_eur,"
              " status)", charges.assign(
                  event_day=charges.created.dt.date, status=charges.get("status", "succeeded"),
              )[["charge_id", "event_day", "created", "customer_token", "terminal_id", "amount_eur", "status"]])
        _copy(connection, "marts.fct_disputes (dispute_id, charge_id, event_day, created, reason)", disputes.assign(
            dispute_id=[f"dp_{i:032x}" for i in range(len(disputes))], event_day=disputes.created.dt.date,
            reason=disputes.get("reason", "fraudulent"),
        )[["dispute_id", "charge_id", "event_day", "created", "reason"]])
        if len(charges) > 10_000:
            connection.execute("analyze marts.fct_charges")
            connection.execute("analyze marts.fct_disputes")


def _copy(connection: psycopg.Connection, target: str, rows: pd.DataFrame) -> None:
    with connection.cursor() as cursor, cursor.copy(f"copy {target} from stdin (format csv)") as copy:
        copy.write(rows.to_csv(index=False, header=False, date_format="%Y-%m-%d %H:%M:%S.%f+00"))


def handbook(first: str, last: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The handbook's transactions of these days as charges, its frauds as disputes seven days later."""
    rows = pd.read_parquet(FDH, columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT",
                                         "TX_FRAUD"],
                           filters=[("TX_DATETIME", ">=", pd.Timestamp(first)),
                                    ("TX_DATETIME", "<", pd.Timestamp(last) + pd.Timedelta(days=1))])
    charges = pd.DataFrame({
        "charge_id": "ch_" + rows.TRANSACTION_ID.astype(str).str.zfill(12), "created": rows.TX_DATETIME,
        "customer_token": "c" + rows.CUSTOMER_ID.astype(str), "terminal_id": "t" + rows.TERMINAL_ID.astype(str),
        "amount_eur": (rows.TX_AMOUNT * 100).round().astype("int64"),
    })
    frauds = charges[(rows.TX_FRAUD == 1).to_numpy()]
    return charges, pd.DataFrame({"charge_id": frauds.charge_id, "created": frauds.created + pd.Timedelta(days=7)})
