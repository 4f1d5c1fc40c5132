"""A running API on a fresh database, merchants with keys, and Stripe's own SDK pointed at it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import stripe
from api_shop import Merchant, Server

from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.api_keys import create_key
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings

START = "from stripe_platform.api import server; server.serve('127.0.0.1', {port}, {workers})"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(oltp: Settings, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts API servers on the test's database; stops them at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*, workers: int = 1, code: str = START, **settings: str) -> Server:
        port = free_port()
        output = tmp_path / f"server-{port}.log"
        env = os.environ | {f"STRIPE_PLATFORM_{name.upper()}": value for name, value in settings.items()}
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code.format(port=port, workers=workers)], env=env, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/healthz").status_code == 200:
                    return Server(url, process, output)
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(output.read_text())

    yield begin
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def conn(oltp: Settings) -> Iterator[psycopg.Connection]:
    """The app's role, in autocommit mode, with reference rows."""
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as connection:
        seed_reference(connection)
        yield connection


@pytest.fixture
def merchant(oltp: Settings, conn: psycopg.Connection) -> Callable[..., Merchant]:
    """Makes merchants, each with a key (by default for everything)."""
    ring = open_keyring(oltp)

    def make(*scopes: str) -> Merchant:
        account = write.create_account(conn, name="Shop", country="FR", currency="eur", mcc="5411")
        key_id, secret = create_key(conn, ring, account_id=account, scopes=list(scopes) or ["*:write"])
        return Merchant(account, key_id, secret)

    return make


@pytest.fixture
def server(start: Callable[..., Server], conn: psycopg.Connection) -> Server:
    return start()


@pytest.fixture
def shop(merchant: Callable[..., Merchant]) -> Merchant:
    return merchant()


@pytest.fixture
def sdk(server: Server, shop: Merchant) -> stripe.StripeClient:
    """Stripe's SDK with the shop's key."""
    return server.sdk(shop)
