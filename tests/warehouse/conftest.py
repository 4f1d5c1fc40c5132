"""A warehouse with raw tables, reference rows, staging views and dimensions; dbt runs in the tests' own process.

The views and dimensions are built once and copied: a database from a template costs a tenth of a second.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from history import FIRST, Store, reference
from psycopg import sql
from raw_tables import Change, create

from resources.warehouse import connect_postgres
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.bootstrap import prepare

DSN = "STRIPE_PLATFORM_WAREHOUSE_DSN"


@pytest.fixture(scope="session")
def warehouse_template(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a database in which the reference models stand."""
    name = "warehouse_template"
    _create(servers, name, "template0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRIPE_PLATFORM_HOME", str(tmp_path_factory.mktemp("home")))
        with _store(servers, name, tmp_path_factory.mktemp("dbt"), patch) as store:
            prepare(store.conn)
            create(store.conn)
            reference(Change(store.conn, FIRST))
            store.build(None, tags=("reference",), tests=True)
    return name


@pytest.fixture
def store(servers: Any, warehouse_template: str, own_home: Path, tmp_path: Path,
          monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A fresh copy of the template."""
    name = f"warehouse_{secrets.token_hex(6)}"
    _create(servers, name, warehouse_template)
    with _store(servers, name, tmp_path / "dbt", monkeypatch) as opened:
        yield opened
    with psycopg.connect(servers.superuser("warehouse"), autocommit=True) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


class _store:
    """Opens a database as a `Store`; afterwards the environment, which dbt changes, is as before."""

    def __init__(self, servers: Any, name: str, logs: Path, patch: pytest.MonkeyPatch) -> None:
        self.environment = dict(os.environ)
        patch.setenv("STRIPE_PLATFORM_WAREHOUSE", "postgres")
        patch.setenv(DSN, servers.url(DSN, name))
        self.logs = logs

    def __enter__(self) -> Store:
        self.conn = connect_postgres(load_settings().need("warehouse_dsn"))
        self.conn.autocommit = True
        return Store(self.conn, self.logs)

    def __exit__(self, *_: object) -> None:
        self.conn.close()
        os.environ.clear()
        os.environ.update(self.environment)


def _create(servers: Any, name: str, template: str) -> None:
    with psycopg.connect(servers.superuser("warehouse"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template {} owner warehouse").format(
            sql.Identifier(name), sql.Identifier(template)))
