"""Reads charges with features and the moment their fraud became known from the warehouse."""

from __future__ import annotations

import datetime as dt
import io

import pandas as pd
import psycopg
from psycopg import sql

from stripe_platform.features.declarations import FEATURE_NAMES
from stripe_platform.fraud.protocol import ProtocolError

COLUMNS = ("charge_id", "event_day", "event_ts", "customer_token", *FEATURE_NAMES, "known_ts")
_QUERY = """
copy (
    select {}, d.known_ts at time zone 'UTC'
    from features.charge as f
    left join (
        select charge_id, min(created) as known_ts from marts.fct_disputes where reason = 'fraudulent' group by 1
    ) as d on d.charge_id = f.charge_id
    where f.event_day between {} and {}
) to stdout (format csv, header false)
"""


def span(connection: psycopg.Connection) -> tuple[dt.date, dt.date]:
    """First and last event day of features.charge; `ProtocolError` when it is empty or missing."""
    exists = connection.execute("select to_regclass('features.charge') is not null").fetchone()
    days = connection.execute("select min(event_day), max(event_day) from features.charge").fetchone() \
        if exists and exists[0] else None
    if days is None or days[0] is None:
        raise ProtocolError("features.charge holds no charge: materialize features/charge first")
    return days[0], days[1]


def read(connection: psycopg.Connection, first: dt.date, last: dt.date) -> pd.DataFrame:
    """Charges of these event days, ordered by time and id; columns as `COLUMNS`, stamps naive in UTC.

    known_ts is NaT for charges never disputed as fraudulent.
    """
    import pyarrow as pa
    from pyarrow import csv

    columns = [sql.SQL("f.event_ts at time zone 'UTC'") if c == "event_ts" else sql.Identifier("f", c)
               for c in COLUMNS[:-1]]
    query = sql.SQL(_QUERY).format(sql.SQL(", ").join(columns), sql.Literal(first), sql.Literal(last))
    with connection.transaction():
        connection.execute("set local enable_nestloop = off")  # right after a load statistics are missing
        with connection.cursor().copy(query) as copy:
            buffer = io.BytesIO(b"".join(copy))
    types = dict.fromkeys(FEATURE_NAMES, pa.float64()) | dict.fromkeys(("charge_id", "customer_token"), pa.string()) | {
        "event_day": pa.timestamp("us"), "event_ts": pa.timestamp("us"), "known_ts": pa.timestamp("us")}
    if buffer.getbuffer().nbytes == 0:
        raise ProtocolError(f"features.charge holds no charge from {first} to {last}: materialize these days first")
    table = csv.read_csv(buffer, csv.ReadOptions(column_names=list(COLUMNS)),
                         convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False))
    return table.to_pandas().sort_values(["event_ts", "charge_id"], kind="stable", ignore_index=True)
