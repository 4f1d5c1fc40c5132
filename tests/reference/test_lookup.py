"""Look-ups are answered from memory until the copies change; what is counted is what happened."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal

import psycopg
import pytest

from stripe_platform.reference import write
from stripe_platform.reference.lookup import Lookup
from stripe_platform.reference.sync import sync
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers
DAY = dt.date(2026, 6, 1)


def until(holds) -> None:
    """A notification travels for a moment after the commit."""
    limit = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < limit, "the change was not seen"
        time.sleep(0.01)


def test_the_second_look_up_is_a_hit_and_absence_is_remembered_too(ready: Settings):
    with Lookup(ready) as lookup:
        assert lookup.currency("kwd") == lookup.currency("kwd")
        assert lookup.currency("kwd")["stripe_exponent"] == 3  # type: ignore[index]
        assert (lookup.country("ZZ"), lookup.country("ZZ")) == (None, None)
        assert (lookup.stats.hits, lookup.stats.misses, lookup.stats.hit_rate) == (3, 2, 0.6)


def test_a_change_drops_the_entries_of_its_table_and_of_no_other(ready: Settings, conn: psycopg.Connection):
    write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.9")
    sync(ready)
    with Lookup(ready) as lookup:
        assert lookup.rate(DAY, "usd", "eur") == Decimal("0.9")
        assert lookup.country("FR") is not None
        write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.8")
        sync(ready)
        until(lambda: lookup.rate(DAY, "usd", "eur") == Decimal("0.8"))
        assert lookup.stats.invalidations == 1
        misses = lookup.stats.misses
        assert lookup.country("FR") is not None
        assert lookup.stats.misses == misses


def test_a_row_that_did_not_exist_is_seen_when_it_arrives_and_not_when_it_is_retired(
        ready: Settings, conn: psycopg.Connection):
    with Lookup(ready) as lookup:
        assert lookup.merchant("acct_1") is None
        write.put_merchants(conn, [{"id": "acct_1", "name": "Shop"}])
        sync(ready)
        until(lambda: (lookup.merchant("acct_1") or {}).get("name") == "Shop")
        write.retire_merchant(conn, "acct_1")
        sync(ready)
        until(lambda: lookup.merchant("acct_1") is None)


def test_a_lost_connection_empties_the_cache(ready: Settings, conn: psycopg.Connection):
    with Lookup(ready) as lookup:
        assert lookup.currency("eur") is not None
        with psycopg.connect(ready.need("oltp_dsn"), autocommit=True) as other:
            other.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                          " where application_name = 'stripe_platform_lookup' and datname = current_database()")
        write.put_currencies(conn, [{"code": "eur", "name": "Euro, renamed"}])
        sync(ready)
        until(lambda: (lookup.currency("eur") or {})["name"] == "Euro, renamed")


def test_the_cache_is_bounded(ready: Settings):
    with Lookup(ready, size=2) as lookup:
        for code in ("eur", "usd", "gbp", "eur"):
            lookup.currency(code)
        assert (lookup.stats.hits, lookup.stats.misses) == (0, 4)
