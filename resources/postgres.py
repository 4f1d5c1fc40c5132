"""The OLTP and the reference database as Dagster resources."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import psycopg
from psycopg import sql

from stripe_platform.settings import load_settings


class OltpResource(dg.ConfigurableResource):
    """Connections of the write API's role (DML, no DDL); the address comes from the settings at use."""

    application_name: str = "stripe-platform"

    def connect(self) -> psycopg.Connection:
        """A new connection; use it as a context manager: the block is one transaction."""
        return psycopg.connect(load_settings().need("oltp_dsn"), application_name=self.application_name)


class ReferenceResource(dg.ConfigurableResource):
    """Connections of the reference's write API; the address comes from the settings at use."""

    application_name: str = "stripe-platform"

    def connect(self) -> psycopg.Connection:
        """A new connection; use it as a context manager: the block is one transaction."""
        return psycopg.connect(load_settings().need("reference_dsn"), application_name=self.application_name)

    def count(self, tables: Sequence[str]) -> dict[str, int]:
        """Rows by table."""
        counts = {}
        with self.connect() as connection:
            for name in tables:
                row = connection.execute(
                    sql.SQL("select count(*) from {}").format(sql.Identifier("reference", name))).fetchone()
                counts[name] = int(row[0]) if row else 0
        return counts
