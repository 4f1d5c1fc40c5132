"""Dagster's own storage in PostgreSQL, with its connections held open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres.auth import PgTokenProvider
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

STATEMENT_MILLISECONDS, RECYCLE_SECONDS, MORE_CONNECTIONS = 600_000, 3_600, 20


class EventLog(PostgresEventLogStorage):
    """Announcements of a run in one statement per batch: Dagster writes such a batch row by row."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._tables: set[str] = set()

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """As the superclass does; `events` of one run."""
        announced = [event for event in events
                     if event.dagster_event_type is DagsterEventType.ASSET_MATERIALIZATION_PLANNED]
        if not announced:
            super().store_event_batch(events)
            return
        others = [event for event in events
                  if event.dagster_event_type is not DagsterEventType.ASSET_MATERIALIZATION_PLANNED]
        statement = self.prepare_insert_event_batch(announced).returning(SqlEventLogStorageTable.c.id)
        with self._connect() as conn:
            ids = [int(row[0]) for row in conn.execute(statement)]
        newest = {event.get_dagster_event().asset_key: (event, id_) for event, id_ in zip(announced, ids, strict=True)}
        with self.index_transaction() as conn:
            for event, id_ in newest.values():
                self._store_asset_event(conn, event, id_)
        if others:
            super().store_event_batch(others)

    def has_table(self, table_name: str) -> bool:
        """Asked for at every step; a table that stood stands."""
        if table_name not in self._tables:
            if not super().has_table(table_name):
                return False
            self._tables.add(table_name)
        return True


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
        self._event_log_storage = EventLog(postgres_url, should_autocreate_tables, token_provider=token_provider)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.optimize_for_webserver(STATEMENT_MILLISECONDS, RECYCLE_SECONDS, MORE_CONNECTIONS)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data,
            get_token_provider_from_config(config_value),
        )
