"""What the stores have put aside, seen and released in one place."""

from __future__ import annotations

from typing import Any

from resources.mongo import MongoResource
from resources.warehouse import connect_postgres
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.documents import change_log, reference_rows
from stripe_platform.documents import quarantine as of_documents
from stripe_platform.documents import stream as documents
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import Settings
from stripe_platform.warehouse import release
from stripe_platform.warehouse.raw_rows import PostgresRows


def listing(settings: Settings) -> list[dict[str, Any]]:
    """Every entry of every store: place in the log, rule and remedy, no value."""
    with connect_postgres(settings.need("warehouse_dsn")) as conn, MongoResource().database() as db:
        return [*release.listing(conn), *of_documents.listing(db)]


def retry(settings: Settings, source: Source) -> dict[str, int]:
    """Apply the history of what is put aside again, raw first; entries closed by store. Repeating it is harmless.

    The platform's two sources go together: the documents are fed by both.
    """
    own = source in (OLTP, REFERENCE)
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        conn.autocommit = True
        released = {"raw": release.retry(conn, (OLTP if own else source).lake(settings), settings.first_day)}
        if own:
            with MongoResource().database() as db, change_log.in_memory() as duck:
                released["documents"] = documents.retry(db, PostgresRows(conn), duck) + reference_rows.retry(
                    db, REFERENCE.lake(settings))
    return released
