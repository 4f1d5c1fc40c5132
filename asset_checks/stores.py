"""The stores a profile may count in, opened only when it asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import psycopg
    from pymongo.database import Database

    from resources.lake import Lake
    from resources.model_registry import ModelStore

RESOURCES = ("oltp", "warehouse", "mongo", "lake", "models", "reference")


@cache
def _duck() -> duckdb.DuckDBPyConnection:
    """One database for all checks of a process: opening it takes 25 ms, a cursor none; each has its own temporary
    views."""
    import duckdb

    return duckdb.connect()


@dataclass(frozen=True)
class Stores:
    """The Dagster resources of the deployment; every method opens a connection of its own and closes it."""

    oltp_resource: Any
    warehouse_resource: Any
    mongo_resource: Any
    lake_resource: Any
    models_resource: Any
    reference_resource: Any = None

    @classmethod
    def of_settings(cls) -> Stores:
        """The stores of this deployment's settings, for use without Dagster."""
        from resources.lake import LakeResource
        from resources.model_registry import ModelRegistryResource
        from resources.mongo import MongoResource
        from resources.postgres import OltpResource, ReferenceResource
        from resources.warehouse import WarehouseResource

        return cls(OltpResource(), WarehouseResource(), MongoResource(), LakeResource(), ModelRegistryResource(),
                   ReferenceResource())

    @contextmanager
    def oltp(self) -> Iterator[psycopg.Connection]:
        with self.oltp_resource.connect() as connection:
            yield connection

    @contextmanager
    def reference(self) -> Iterator[psycopg.Connection]:
        with self.reference_resource.connect() as connection:
            yield connection

    @contextmanager
    def warehouse(self) -> Iterator[psycopg.Connection]:
        with self.warehouse_resource.connect() as connection:
            yield connection

    @contextmanager
    def mongo(self) -> Iterator[Database[dict[str, Any]]]:
        with self.mongo_resource.database() as database:
            yield database

    def lake(self) -> Lake:
        return self.lake_resource.open()

    def models(self) -> ModelStore:
        return self.models_resource.store()

    @contextmanager
    def duck(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB in memory, for counting in the lake's Parquet files."""
        with _duck().cursor() as connection:
            connection.execute("set timezone = 'UTC'")
            yield connection
