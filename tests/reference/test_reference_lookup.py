"""Look-ups kept in a process follow the reference: its changes reach them through the copies they read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from stripe_platform.oltp.lookup import Lookups
from stripe_platform.reference import write
from stripe_platform.reference.sync import sync
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers
SHOP = {"name": "Shop", "country": "FR", "currency": "eur", "mcc": "5411"}


@pytest.fixture
def lookups(ready: Settings) -> Iterator[Lookups]:
    kept = Lookups(ready.need("oltp_dsn"))
    kept.start()
    until(lambda: kept.accounts.remembers)
    yield kept
    kept.stop()


def until(holds: Callable[[], object]) -> None:
    """A notice travels for a moment after the commit."""
    limit = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < limit, "the change was not seen"
        time.sleep(0.01)


def test_a_change_in_the_reference_is_looked_up_anew_and_the_rest_stays(
        ready: Settings, conn: psycopg.Connection, lookups: Lookups):
    shop = write.register_merchant(conn, **SHOP)
    sync(ready)
    with psycopg.connect(ready.need("oltp_dsn"), autocommit=True) as app:
        for _ in range(3):
            assert (lookups.accounts.get(app, shop) or {})["name"] == "Shop"
            assert lookups.countries.get(app, "FR") == "eur"
        assert (lookups.accounts.hits, lookups.accounts.misses) == (2, 1)
        write.rename_merchant(conn, shop, "Boutique")
        sync(ready)
        until(lambda: (lookups.accounts.get(app, shop) or {})["name"] == "Boutique")
        hits = lookups.countries.hits
        assert lookups.countries.get(app, "FR") == "eur"
        assert lookups.countries.hits == hits + 1, "countries did not change: their look-ups stay"


def test_a_currency_that_is_new_in_the_reference_is_found(ready: Settings, conn: psycopg.Connection, lookups: Lookups):
    with psycopg.connect(ready.need("oltp_dsn"), autocommit=True) as app:
        assert lookups.currencies.get(app, "xxf") is None
        write.put_currencies(conn, [{"code": "xxf", "name": "CFP franc", "stripe_exponent": 0, "iso_exponent": 0}])
        sync(ready)
        assert lookups.currencies.get(app, "xxf") == 0
