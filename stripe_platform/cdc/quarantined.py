"""What the quarantines of all stores share: how many, which names may be shown, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg

from stripe_platform.settings import Settings

if TYPE_CHECKING:
    from pymongo.database import Database

COLLECTION = "ops_quarantine"
FED_BY_THE_LOG = {"fence": {"$exists": True}}  # landing's own entries have a line in a file instead
SECONDS = 2.0  # that counting waits for a document server
MOST = 1_000  # keys that one call puts aside; a rule that refuses more is wrong itself, and stops its table
REMEDY = "mend the rule or the row's cause, then run `stripe-platform cdc quarantine --retry`"
_RANDOM_ID = re.compile(r"[A-Za-z]{2,8}_[A-Za-z0-9_]{1,64}")


def shown(name: str | None) -> str | None:
    """A key that says nothing of who it names, as our ids and Stripe's; None for any other."""
    return name if name and _RANDOM_ID.fullmatch(name) else None


def in_raw(conn: psycopg.Connection) -> dict[str, int]:
    """Keys that raw has put aside, by table; tables without any are not there."""
    if conn.execute("select to_regclass('raw._quarantine')").fetchone() == (None,):
        return {}
    return dict(conn.execute("select table_name, count(*) from raw._quarantine group by 1").fetchall())


def in_documents(db: Database[dict[str, Any]], *collections: str) -> int:
    """Documents put aside, of these collections or of all that the log feeds."""
    of = {"collection": {"$in": list(collections)}} if collections else {}
    return db[COLLECTION].count_documents(FED_BY_THE_LOG | of)


def by_store(settings: Settings) -> dict[str, int | None]:
    """What raw and documents have put aside now; None where a store does not answer or keeps no quarantine."""
    return {"raw": _of_raw(settings), "documents": _of_documents(settings)}


def _of_raw(settings: Settings) -> int | None:
    if settings.warehouse != "postgres" or settings.warehouse_dsn is None:
        return None
    from resources.warehouse import connect_postgres

    try:
        with connect_postgres(settings.need("warehouse_dsn")) as conn:
            return sum(in_raw(conn).values())
    except psycopg.OperationalError:
        return None


def _of_documents(settings: Settings) -> int | None:
    if settings.mongodb_uri is None:
        return None
    import pymongo
    from pymongo.errors import PyMongoError

    from resources.mongo import MongoResource

    try:
        with MongoResource().database() as db, pymongo.timeout(SECONDS):
            return in_documents(db)
    except PyMongoError:
        return None
