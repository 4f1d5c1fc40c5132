"""The reference database as a place: its tables, its migrations and grants, and the source its change log has.

`python -m stripe_platform.reference.database` writes `schema.json` anew from a migrated database.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from stripe_platform.cdc.source import Source
from stripe_platform.keys import REFERENCE_TABLES
from stripe_platform.oltp.migrate import MigrationReport, apply_files, need_role, publish
from stripe_platform.oltp.schema import TableSchema, load_schema, read_catalogue, render
from stripe_platform.settings import Settings, load_settings

SCHEMA = "reference"
MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA_FILE = Path(__file__).parent / "schema.json"
APP = "reference_app"
# No calendar of its own: its changes get their ledger day in the OLTP, where their copies are committed.
REFERENCE = Source(
    "reference", SCHEMA, "reference_cdc_dsn", "reference_slot", "reference_publication",
    {t.name: t.key for t in REFERENCE_TABLES}, folder="reference", reader="reference_dsn",
)


def migrate(owner_dsn: str, *, app_role: str = APP, publication: str | None = None) -> MigrationReport:
    """Apply what is missing, in one transaction; harmless when repeated."""
    tables = [sql.Identifier(SCHEMA, t.name) for t in REFERENCE_TABLES]
    with psycopg.connect(owner_dsn) as conn, conn.transaction():
        report = apply_files(conn, MIGRATIONS)
        role, listed = need_role(conn, app_role), sql.SQL(", ").join(tables)
        for statement in (
            "revoke all on schema public from public",
            "revoke all on all tables in schema reference, ops from public",
            "grant usage on schema reference, ops to {role}",
            "grant select, insert, update, delete on {tables} to {role}",
            "grant select, insert, update on ops.outbox to {role}",
            "grant select, insert on ops.filled to {role}",
            "grant select on ops.migrations to {role}",
        ):
            conn.execute(sql.SQL(statement).format(role=role, tables=listed))
        publish(conn, publication or load_settings().reference_publication, tables)
    return report


def schemas() -> dict[str, TableSchema]:
    """The reference's tables as its catalogue describes them, from the committed file."""
    return load_schema(SCHEMA_FILE)


def connect(settings: Settings) -> psycopg.Connection:
    """A connection of the write API's role, each statement its own transaction unless the caller opens one."""
    return psycopg.connect(settings.need("reference_dsn"), autocommit=True, options="-c timezone=UTC",
                           application_name="stripe_platform_reference")


def generate(owner_dsn: str) -> None:
    """Write `schema.json` from the live catalogue."""
    with psycopg.connect(owner_dsn) as conn:
        SCHEMA_FILE.write_text(render(read_catalogue(conn, REFERENCE_TABLES, SCHEMA)))


if __name__ == "__main__":
    generate(load_settings().need("reference_owner_dsn"))
