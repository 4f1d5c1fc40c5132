"""A running API that the tests of this room share, merchants with keys, and Stripe's own SDK pointed at it.

Every test has merchants of its own, which see nothing of each other: one database and one server do for all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import stripe
from api_shop import Merchant, Server
from psycopg import sql
from receiver import Receiver

from stripe_platform.keyring import Keyring, open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.api_keys import create_key
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings

START = "from stripe_platform.api import server; server.serve('127.0.0.1', {port}, {workers})"


@pytest.fixture(scope="session")
def api_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of this room's platform."""
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="session")
def api_settings(servers: Any, oltp_template: str, api_home: Path) -> Iterator[Settings]:
    """A payments database of this room, with reference rows."""
    name = f"oltp_api_{secrets.token_hex(6)}"
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template {} owner payments_owner").format(
            sql.Identifier(name), sql.Identifier(oltp_template)))
        admin.execute(sql.SQL("grant connect on database {} to payments_app").format(sql.Identifier(name)))
    settings = Settings(
        home=api_home, oltp_dsn=servers.url("STRIPE_PLATFORM_OLTP_DSN", name),
        oltp_owner_dsn=servers.url("STRIPE_PLATFORM_OLTP_OWNER_DSN", name))
    with psycopg.connect(settings.need("oltp_owner_dsn")) as conn:
        seed_reference(conn)
    yield settings
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def ring(api_settings: Settings) -> Keyring:
    return open_keyring(api_settings)


@pytest.fixture(scope="session")
def start(
    api_settings: Settings, ring: Keyring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Starts API servers on the room's database; stops them at the end."""
    running: list[Server] = []

    def begin(*, workers: int = 1, code: str = START, home: Path | None = None, **settings: str) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        output = tmp_path_factory.mktemp("server") / "output.log"
        env = os.environ | {
            "STRIPE_PLATFORM_HOME": str(home or api_settings.home), "STRIPE_PLATFORM_OLTP_DSN":
            api_settings.need("oltp_dsn"), "STRIPE_PLATFORM_KEYRING": str(api_settings.keyring_path),
            **{f"STRIPE_PLATFORM_{name.upper()}": value for name, value in settings.items()}}
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code.format(port=port, workers=workers)], env=env, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        running.append(Server(f"http://127.0.0.1:{port}", process, output))
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{running[-1].url}/healthz").status_code == 200:
                    return running[-1]
            time.sleep(0.1)
        raise AssertionError(output.read_text())

    yield begin
    for server in running:
        server.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def server(start: Callable[..., Server]) -> Server:
    """The server most tests share."""
    return start()


@pytest.fixture
def conn(api_settings: Settings) -> Iterator[psycopg.Connection]:
    """The app's role, in autocommit mode."""
    with psycopg.connect(api_settings.need("oltp_dsn"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def merchant(ring: Keyring, conn: psycopg.Connection, api_settings: Settings) -> Callable[..., Merchant]:
    """Makes merchants, each with a key (by default for everything)."""

    def make(*scopes: str) -> Merchant:
        with psycopg.connect(api_settings.need("oltp_owner_dsn"), autocommit=True) as owner:
            account = write.create_account(owner, name="Shop", country="FR", currency="eur", mcc="5411")
        key_id, secret = create_key(conn, ring, account_id=account, scopes=list(scopes) or ["*:write"])
        return Merchant(account, key_id, secret)

    return make


@pytest.fixture
def shop(merchant: Callable[..., Merchant]) -> Merchant:
    return merchant()


@pytest.fixture
def sdk(server: Server, shop: Merchant) -> stripe.StripeClient:
    """Stripe's SDK with the shop's key."""
    return server.sdk(shop)


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    """Makes webhook endpoints; closes them at the end."""
    made: list[Receiver] = []

    def listen(*answers: int, hangs: float = 0) -> Receiver:
        made.append(Receiver(*answers, hangs=hangs))
        return made[-1]

    yield listen
    for one in made:
        one.close()
