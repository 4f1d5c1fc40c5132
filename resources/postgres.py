"""The OLTP database as a Dagster resource."""

from __future__ import annotations

import dagster as dg
import psycopg

from stripe_platform.settings import load_settings


class OltpResource(dg.ConfigurableResource):
    """Connections of the write API's role (DML, no DDL); the address comes from the settings at use."""

    application_name: str = "stripe-platform"

    def connect(self) -> psycopg.Connection:
        """A new connection; use it as a context manager: the block is one transaction."""
        return psycopg.connect(load_settings().need("oltp_dsn"), application_name=self.application_name)
