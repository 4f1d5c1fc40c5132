"""Dagster's own storage in PostgreSQL, with its connections held open."""

from __future__ import annotations

from typing import Any, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres.auth import PgTokenProvider
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

STATEMENT_MILLISECONDS, RECYCLE_SECONDS, MORE_CONNECTIONS = 600_000, 3_600, 20


class PooledPostgresStorage(DagsterPostgresStorage):
    """Named in `dagster.yaml`; configured as `DagsterPostgresStorage`.

    A run announces every asset and day as an event of its own. Over a new connection with a new password exchange
    each, as Dagster does outside its webserver, 3,000 of them cost two minutes of an ingest.
    """

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.optimize_for_webserver(STATEMENT_MILLISECONDS, RECYCLE_SECONDS, MORE_CONNECTIONS)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data,
            get_token_provider_from_config(config_value),
        )
