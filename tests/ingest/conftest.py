"""Fresh databases with a connection of the app's role; all of a test share one key ring."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from stripe_objects import bring_world

from stripe_platform.keyring import Keyring, open_keyring
from stripe_platform.settings import Settings


@dataclass
class Platform:
    """What an import needs."""

    conn: psycopg.Connection
    ring: Keyring
    settings: Settings


@pytest.fixture
def platform(oltp: Settings) -> Iterator[Platform]:
    ring = open_keyring(oltp)
    with psycopg.connect(oltp.need("oltp_owner_dsn"), autocommit=True) as owner:
        bring_world(owner)
    with psycopg.connect(oltp.need("ingest_dsn"), autocommit=True) as conn:
        yield Platform(conn, ring, oltp)


@pytest.fixture
def fresh(platform: Platform, servers: Any, oltp_template: str) -> Callable[[], AbstractContextManager[Platform]]:
    """Makes an empty database that goes with its block: a property's examples are many, connections are few."""

    @contextmanager
    def make() -> Iterator[Platform]:
        name = f"oltp_{secrets.token_hex(6)}"
        with psycopg.connect(servers.superuser("oltp"), autocommit=True) as superuser:
            superuser.execute(sql.SQL("create database {} template {} owner payments_owner").format(
                sql.Identifier(name), sql.Identifier(oltp_template)))
            try:
                with psycopg.connect(servers.url("STRIPE_PLATFORM_OLTP_OWNER_DSN", name), autocommit=True) as owner:
                    bring_world(owner)
                dsn = servers.url("STRIPE_PLATFORM_INGEST_DSN", name)
                with psycopg.connect(dsn, autocommit=True) as conn:
                    yield Platform(conn, platform.ring, platform.settings)
            finally:
                superuser.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    return make


@pytest.fixture
def another(fresh: Callable[[], AbstractContextManager[Platform]]) -> Iterator[Callable[[], Platform]]:
    """Makes one more empty database each time it is called; all go with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(fresh())
