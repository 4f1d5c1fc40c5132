"""Fixtures of all rooms: real local servers, one set per session, and a fresh database per test.

Each function fixture yields the settings as they are when it is built; a test that asks for several of them reads
`load_settings()` itself, or uses the last one's value.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from memory import in_memory
from psycopg import sql

from stripe_platform.embedded import servers as embedded
from stripe_platform.embedded.processes import Proc
from stripe_platform.settings import Settings, load_settings

TEMPLATE = "oltp_template"
REFERENCE_TEMPLATE = "reference_template"
LONGEST = ("e2e", "warehouse", "asset_checks", "cdc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest rooms go first: two workers share the files in this order, and the last one ends alone."""
    order = {room: number for number, room in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@dataclass(frozen=True)
class Servers:
    """The session's running servers and their connection URLs by variable name."""

    home: Path
    urls: dict[str, str]

    def url(self, variable: str, database: str | None = None) -> str:
        """A connection URL of `connections.env`, for another database when named."""
        url = self.urls[variable]
        return url if database is None else f"{url.rsplit('/', 1)[0]}/{database}"

    def superuser(self, cluster: str, database: str = "postgres") -> str:
        return f"{embedded.superuser(self.home, cluster).rsplit('/', 1)[0]}/{database}"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Own servers of this test session, in a home of its own; taken down and deleted at the end."""
    homes = in_memory() / f"stripe_platform_tests-{os.getuid()}"
    homes.mkdir(mode=0o711, exist_ok=True)  # root's servers run as another user, who must get in
    _remove_homes_of_killed_sessions(homes)
    home = homes / str(os.getpid())
    home.mkdir(mode=0o711)
    (home / "owner.json").write_text(json.dumps(vars(Proc.of(os.getpid()))))
    try:
        # Only a MongoDB of the user's may stand in: the other databases are created and dropped by these fixtures.
        own = {name: os.environ[name] for name in ("MONGODB_URI", "MONGOD_BIN") if name in os.environ}
        embedded.up(home, own, fsync=False)
        lines = (home / "connections.env").read_text().splitlines()
        pairs = [line.split("=", 1) for line in lines if not line.startswith("#")]
        yield Servers(home, {name: value.strip("'") for name, value in pairs})
    finally:
        embedded.remove(home)


def _remove_homes_of_killed_sessions(homes: Path) -> None:
    with homes.with_name(f"{homes.name}.lock").open("w") as one_worker_at_a_time:
        fcntl.flock(one_worker_at_a_time, fcntl.LOCK_EX)
        for home in homes.iterdir():
            owner = home / "owner.json"
            if owner.exists() and not Proc(**json.loads(owner.read_text())).running():
                embedded.remove(home)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of this test alone: lake, landing, keyring."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("STRIPE_PLATFORM_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def oltp_template(servers: Servers) -> str:
    """Name of a database with all migrations applied; tests copy it."""
    from stripe_platform.oltp.migrate import migrate

    _create(servers, "oltp", TEMPLATE, "payments_owner")
    migrate(servers.url("STRIPE_PLATFORM_OLTP_OWNER_DSN", TEMPLATE))
    return TEMPLATE


@pytest.fixture
def oltp(servers: Servers, oltp_template: str, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A fresh payments database with migrations applied and a slot name of its own; slots are dropped afterwards."""
    name = f"oltp_{secrets.token_hex(6)}"
    _create(servers, "oltp", name, "payments_owner", template=oltp_template,
            users=("payments_app", "payments_ingest", "payments_cdc", "reference_copier"))
    for variable in ("OLTP_OWNER_DSN", "OLTP_DSN", "INGEST_DSN", "CDC_DSN", "REFERENCE_COPIER_DSN"):
        monkeypatch.setenv(f"STRIPE_PLATFORM_{variable}", servers.url(f"STRIPE_PLATFORM_{variable}", name))
    monkeypatch.setenv("STRIPE_PLATFORM_CDC_SLOT", f"slot_{name}")
    monkeypatch.setenv("STRIPE_PLATFORM_CDC_PUBLICATION", "stripe_platform")
    yield load_settings()
    _drop(servers, "oltp", name)


@pytest.fixture(scope="session")
def reference_template(servers: Servers) -> str:
    """Name of a reference database with all migrations applied; tests copy it."""
    from stripe_platform.reference.database import migrate

    _create(servers, "oltp", REFERENCE_TEMPLATE, "reference_owner")
    migrate(servers.url("STRIPE_PLATFORM_REFERENCE_OWNER_DSN", REFERENCE_TEMPLATE))
    return REFERENCE_TEMPLATE


@pytest.fixture
def both(servers: Servers, oltp: Settings, reference_template: str,
              monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a fresh OLTP with a fresh reference database beside it; the reference's slot is made at first use."""
    name = f"reference_{secrets.token_hex(6)}"
    _create(servers, "oltp", name, "reference_owner", template=reference_template,
            users=("reference_app", "payments_cdc"))
    for variable in ("REFERENCE_OWNER_DSN", "REFERENCE_DSN", "REFERENCE_CDC_DSN"):
        monkeypatch.setenv(f"STRIPE_PLATFORM_{variable}", servers.url(f"STRIPE_PLATFORM_{variable}", name))
    monkeypatch.setenv("STRIPE_PLATFORM_REFERENCE_SLOT", f"slot_{name}")
    monkeypatch.setenv("STRIPE_PLATFORM_REFERENCE_PUBLICATION", "stripe_platform_reference")
    yield load_settings()
    _drop(servers, "oltp", name)


@pytest.fixture
def warehouse(servers: Servers, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A fresh, empty warehouse database."""
    name = f"warehouse_{secrets.token_hex(6)}"
    _create(servers, "warehouse", name, "warehouse")
    monkeypatch.setenv("STRIPE_PLATFORM_WAREHOUSE", "postgres")
    monkeypatch.setenv("STRIPE_PLATFORM_WAREHOUSE_DSN", servers.url("STRIPE_PLATFORM_WAREHOUSE_DSN", name))
    monkeypatch.setenv("STRIPE_PLATFORM_DAGSTER_DSN", servers.url("STRIPE_PLATFORM_DAGSTER_DSN"))
    yield load_settings()
    _drop(servers, "warehouse", name)


@pytest.fixture
def mongo(servers: Servers, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A fresh document database name; dropped afterwards."""
    import pymongo

    name = f"documents_{secrets.token_hex(6)}"
    monkeypatch.setenv("MONGODB_URI", servers.url("MONGODB_URI"))
    monkeypatch.setenv("STRIPE_PLATFORM_MONGODB_DATABASE", name)
    yield load_settings()
    with pymongo.MongoClient(servers.url("MONGODB_URI")) as client:
        client.drop_database(name)


@pytest.fixture
def lake(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty lake folder."""
    folder = own_home / "lake"
    folder.mkdir()
    monkeypatch.setenv("STRIPE_PLATFORM_LAKE_URL", str(folder))
    yield folder
    shutil.rmtree(folder)


def _create(servers: Servers, cluster: str, name: str, owner: str, *, template: str = "template0",
            users: tuple[str, ...] = ()) -> None:
    with psycopg.connect(servers.superuser(cluster), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {} strategy file_copy owner {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)))
        connection.execute(sql.SQL("revoke connect on database {} from public").format(sql.Identifier(name)))
        for user in users:
            connection.execute(sql.SQL("grant connect on database {} to {}").format(
                sql.Identifier(name), sql.Identifier(user)))


def _drop(servers: Servers, cluster: str, name: str) -> None:
    """Slots pin a database: their readers go first, then the slots, then the database with whoever is connected."""
    with psycopg.connect(servers.superuser(cluster), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots "
            "where database = %s and active_pid is not null", [name])
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", [name])
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
