"""What stands in each store, counted in the stores themselves."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform import keys
from stripe_platform.settings import Settings

MARTS = ("dim_customer", "dim_account", "dim_date", "fct_charges", "fct_refunds", "fct_disputes", "agg_daily_revenue",
         "fct_fraud_scores")


def rows_by_layer(settings: Settings) -> dict[str, dict[str, int]]:
    """`{layer: {table: rows}}`; the charges of every layer stand under the name `charges`, to be compared.

    `cdc` counts changes in durable batches, `snapshots` rows of each table's newest one, `fraud` scores.
    """
    from resources.lake import open_lake
    from stripe_platform.cdc import manifest, snapshots

    lake = open_lake(settings)
    with psycopg.connect(settings.need("oltp_dsn")) as oltp:
        counted = {"oltp": {t.name: _count(oltp, "oltp", t.name) for t in keys.OLTP_TABLES}}
    with psycopg.connect(settings.need("reference_dsn")) as reference:
        counted["reference"] = {t.name: _count(reference, "reference", t.name) for t in keys.REFERENCE_TABLES}
    counted["cdc"] = {"changes": sum(batch.rows for batch in manifest.Chain.load(lake).manifests)}
    kept = [snapshot for table in keys.OLTP_TABLES if (snapshot := snapshots.newest(lake, table.name))]
    counted["snapshots"] = {"rows": sum(snapshot.rows for snapshot in kept)}
    counted["fraud"] = {"scores": counted["oltp"]["fraud_assessments"]}
    with psycopg.connect(settings.need("warehouse_dsn")) as warehouse:
        counted["raw"] = {t.name: _count(warehouse, "raw", t.name, living=True) for t in keys.OLTP_TABLES}
        counted["marts"] = {name: _count(warehouse, "marts", name) for name in MARTS}
        counted["features"] = {"charge": _count(warehouse, "features", "charge")}
    counted["marts"]["charges"] = counted["marts"].pop("fct_charges")
    counted["documents"] = {name: sum(row["n"] for row in _documents(settings, name)) for name in keys.COLLECTIONS}
    counted["documents"]["charges"] = counted["documents"].pop("transactions")
    return counted


def quarantined(settings: Settings) -> list[dict[str, object]]:
    """Refused records by rule: `rule`, `records`, and the `first` one's sentence, free of its values."""
    query = "select rule, count(*), min(reason) from ops.quarantine group by rule order by count(*) desc, rule"
    with psycopg.connect(settings.need("oltp_dsn")) as oltp:
        return [dict(zip(("rule", "records", "first"), row, strict=True)) for row in oltp.execute(query)]


def charged_amounts(settings: Settings) -> dict[str, dict[str, int]]:
    """`{layer: {currency: minor units}}` of all charges, summed where they stand: equal in every layer, to the cent."""
    tables = {"oltp": ("oltp_dsn", "oltp.charges"), "raw": ("warehouse_dsn", "raw.charges where not _deleted"),
              "marts": ("warehouse_dsn", "marts.fct_charges")}
    sums: dict[str, dict[str, int]] = {}
    for layer, (store, table) in tables.items():
        with psycopg.connect(settings.need(store)) as connection:
            rows = connection.execute(f"select currency, sum(amount) from {table} group by 1 order by 1")  # noqa: S608
            sums[layer] = {currency: int(amount) for currency, amount in rows}
    found = _documents(settings, "transactions", "$currency", amount="$amount")
    sums["documents"] = {row["_id"]: int(row["amount"]) for row in found}
    return sums


def _documents(settings: Settings, collection: str, key: str | None = None, **sums: str) -> list[dict[str, Any]]:
    """A collection's documents and sums by key, sorted; those of days a slice at a time."""
    from pymongo import MongoClient

    from stripe_platform.documents.schemas import LOADS
    from stripe_platform.documents.slices import grouped

    client: MongoClient[dict[str, Any]] = MongoClient(settings.need("mongodb_uri"))
    with client:
        database = client[settings.mongodb_database]
        if collection in keys.SERVED:
            return [{"n": database[collection].count_documents({})}]
        loaded = [row["day"] for row in database[LOADS].find({"collection": collection}, {"day": 1})]
        last = max([settings.first_day, dt.datetime.now(dt.UTC).date(), *map(dt.date.fromisoformat, loaded)])
        days = [settings.first_day + dt.timedelta(days=n) for n in range((last - settings.first_day).days + 1)]
        return sorted(grouped(database, collection, days, key, sums, off=True), key=lambda row: str(row["_id"]))


def mart_hashes(settings: Settings) -> dict[str, str]:
    """Content hash of every mart: equal content, equal hash, whatever the order of rows."""
    from stripe_platform.warehouse.content import content_hash

    with psycopg.connect(settings.need("warehouse_dsn")) as warehouse:
        return {name: content_hash(warehouse, f"marts.{name}") for name in MARTS}


def event_rows(settings: Settings) -> int:
    """Rows in Dagster's event log."""
    with psycopg.connect(settings.need("dagster_dsn")) as dagster:
        return _count(dagster, "public", "event_logs")


def _count(conn: psycopg.Connection, schema: str, table: str, *, living: bool = False) -> int:
    query = sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table))
    row = conn.execute(query + sql.SQL(" where not _deleted") if living else query).fetchone()
    return int(row[0]) if row else 0
