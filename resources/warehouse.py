"""The analytical warehouse: PostgreSQL locally, Snowflake at scale, by settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from stripe_platform.settings import Settings, load_settings

if TYPE_CHECKING:
    import psycopg

WarehouseKind = Literal["postgres", "snowflake"]


class WarehouseResource(dg.ConfigurableResource):
    """Connections to the warehouse; without values of its own it reads the settings when first used."""

    dsn: str | None = None

    @property
    def kind(self) -> WarehouseKind:
        """Which warehouse this deployment has; a DSN given to the resource itself means PostgreSQL."""
        return "postgres" if self.dsn else load_settings().warehouse

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """A connection: committed at the end of the block, rolled back when it raises, closed in both cases.

        Snowflake yields its connector's connection instead: cursors and SQL are the same, psycopg's COPY is not.
        """
        if self.kind == "snowflake":
            with snowflake(load_settings()).get_connection() as conn:
                yield conn
                conn.commit()
            return
        with connect_postgres(self.dsn or load_settings().need("warehouse_dsn")) as conn:
            yield conn


def connect_postgres(dsn: str) -> psycopg.Connection:
    """A connection whose session is in UTC, so that no result depends on the server's zone."""
    import psycopg

    return psycopg.connect(dsn, options="-c timezone=UTC", application_name="stripe-platform")


def snowflake(settings: Settings) -> Any:
    """Dagster's Snowflake resource, authenticated by key pair; imported here because the import takes seconds."""
    from dagster_snowflake import SnowflakeResource

    return SnowflakeResource(
        account=settings.need("snowflake_account"),
        user=settings.need("snowflake_user"),
        private_key_path=settings.need("snowflake_private_key_path"),
        database=settings.snowflake_database,
        warehouse=settings.need("snowflake_warehouse"),
        role=settings.snowflake_role,
    )
