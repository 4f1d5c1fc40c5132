"""One database, lake and warehouse for all cases of a file: each case has tables of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from any_source import Shop

from resources.lake import LocalLake
from stripe_platform.cdc.slot import OPTIONS
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import load_settings


@pytest.fixture(scope="module")
def shop(servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A database that nobody declared, owned by the superuser: extensions and event triggers need one."""
    name, home = f"shop_{secrets.token_hex(6)}", tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(servers.superuser("oltp"), autocommit=True) as oltp, \
            psycopg.connect(servers.superuser("warehouse"), autocommit=True) as warehouse:
        for server in (oltp, warehouse):
            server.execute(f"create database {name} template template0 strategy file_copy")
        patch.setenv("STRIPE_PLATFORM_HOME", str(home))
        patch.setenv("STRIPE_PLATFORM_FIRST_DAY", "2026-06-01")
        patch.setenv("SHOP_DSN", servers.url("STRIPE_PLATFORM_CDC_DSN", name))
        patch.setenv("SHOP_OWNER_DSN", servers.superuser("oltp", name))
        patch.setenv("STRIPE_PLATFORM_WAREHOUSE_DSN", servers.superuser("warehouse", name))
        source = ConfiguredSource("shop", "public", "SHOP_DSN", f"slot_{name}", "shop", {}, folder="sources/shop",
                                  owner_dsn="SHOP_OWNER_DSN")
        with psycopg.connect(servers.superuser("oltp", name), autocommit=True, options="-c timezone=UTC") as db, \
                psycopg.connect(servers.superuser("warehouse", name), autocommit=True, options=OPTIONS) as raw:
            yield Shop(load_settings(), source, LocalLake(home / "lake" / "sources" / "shop"), db, raw)
        oltp.execute("select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
                     " where database = %s and active_pid is not null", [name])
        oltp.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", [name])
        for server in (oltp, warehouse):
            server.execute(f"drop database {name} with (force)")
