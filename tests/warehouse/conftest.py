"""A warehouse with empty raw tables, and dbt run in this process (an own process costs seconds of imports each)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from history import FIRST, Store, reference
from raw_tables import Change, create

from resources.warehouse import connect_postgres
from stripe_platform.settings import Settings
from stripe_platform.warehouse.bootstrap import prepare


@pytest.fixture
def store(warehouse: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Schemas, empty raw tables and the reference rows that every payment needs."""
    environment = dict(os.environ)
    monkeypatch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
    with connect_postgres(warehouse.need("warehouse_dsn")) as conn:
        conn.autocommit = True
        prepare(conn)
        create(conn)
        reference(Change(conn, FIRST))
        yield Store(conn, tmp_path / "dbt")
    os.environ.clear()
    os.environ.update(environment)
