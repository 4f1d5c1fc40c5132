"""Reference look-ups: kept, forgotten when told, never kept while nobody listens; their counters at /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import psycopg
import pytest
import stripe
from api_shop import Merchant, Server

from stripe_platform.oltp.lookup import Lookup, Lookups
from stripe_platform.settings import Settings


def _until(true: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def test_a_change_is_heard_of(api_settings: Settings, conn: psycopg.Connection) -> None:
    lookups = Lookups(api_settings.need("oltp_dsn"))
    assert lookups.countries.get(conn, "FR") == "eur"
    assert (lookups.countries.hits, lookups.countries.misses) == (0, 1)  # nobody listens: nothing is kept
    lookups.start()
    try:
        assert _until(lambda: lookups.countries.remembers)
        for _ in range(3):
            assert lookups.countries.get(conn, "FR") == "eur"
        assert (lookups.countries.hits, lookups.countries.misses) == (2, 2)
        _as_owner(api_settings, "update oltp.countries set currency = 'usd' where code = 'FR'")
        assert _until(lambda: lookups.countries.get(conn, "FR") == "usd")
        _as_owner(api_settings, "update oltp.countries set currency = 'eur' where code = 'FR'")
        assert lookups.currencies.get(conn, "jpy") == 0
        assert lookups.currencies.get(conn, "xxx") is None
        # A listener that lost its connection keeps nothing until it listens again.
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lookups'")
        assert _until(lambda: not lookups.countries.remembers)
        assert _until(lambda: lookups.countries.remembers)
    finally:
        lookups.stop()


def test_what_was_read_before_a_change_is_not_kept_after_it(conn: psycopg.Connection) -> None:
    slow: Lookup[str] = Lookup("slow", frozenset({"t"}), lambda *_: (slow.forget(), "old")[1])
    slow.forget(remembers=True)
    assert slow.get(conn, "k") == "old"
    assert slow.get(conn, "k") == "old"
    assert slow.hits == 0


def test_a_detached_card_is_not_charged(start: Callable[..., Server], server: Server, shop: Merchant) -> None:
    """Detached through one process, refused by another that had it in its cache."""
    other = start()
    sdk = server.sdk(shop)
    customer = sdk.v1.customers.create({}).id
    method = sdk.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    pay: stripe.params.PaymentIntentCreateParams = {
        "amount": 100, "currency": "eur", "confirm": True, "customer": customer, "payment_method": method}
    assert other.sdk(shop).v1.payment_intents.create(pay).status == "succeeded"
    sdk.v1.payment_methods.detach(method)
    time.sleep(0.5)
    for front in (server, other):
        with pytest.raises(stripe.InvalidRequestError) as raised:
            front.sdk(shop).v1.payment_intents.create(pay)
        assert raised.value.code == "payment_method_unexpected_state"
    other.stop()


def test_metrics_of_all_workers_add_up(start: Callable[..., Server], shop: Merchant, tmp_path_factory: object) -> None:
    server = start(workers=2, home=tmp_path_factory.mktemp("metrics"))  # type: ignore[attr-defined]
    for _ in range(30):
        assert httpx.get(f"{server.url}/v1/balance", auth=(shop.secret, "")).status_code == 200
    time.sleep(2)
    text = httpx.get(f"{server.url}/metrics").text
    assert 'api_requests_total{method="GET",route="/v1/balance",status="200"} 30' in text
    assert 'api_request_seconds_bucket{method="GET",route="/v1/balance",le="+Inf"} 30' in text
    assert 'api_request_seconds_count{method="GET",route="/v1/balance"} 30' in text
    hits = next(line for line in text.splitlines() if line.startswith('lookup_hit_ratio{cache="api_keys"}'))
    assert float(hits.split()[-1]) > 0.9
    assert server.stop() == 0


def _as_owner(settings: Settings, statement: str) -> None:
    """Countries are a copy of the reference: the app's role cannot change them."""
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute(statement)  # type: ignore[call-overload]
