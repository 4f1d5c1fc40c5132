"""The courier: at least once, whatever endpoints and servers do; nothing after three days."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Callable

import psycopg
import stripe
from api_shop import Merchant, Server
from receiver import Receiver

from stripe_platform.api.deliver import DELAYS, next_delay, signature


def _attempts(conn: psycopg.Connection, endpoint: str) -> list[tuple[int, str, int | None]]:
    return conn.execute("select attempt, status, http_status from oltp.webhook_deliveries"
                        " where webhook_endpoint_id = %s order by attempt", [endpoint]).fetchall()


def test_what_fails_is_sent_again(sdk: stripe.StripeClient, receiver: Callable[..., Receiver], conn: psycopg.Connection
                                  ) -> None:
    hook = receiver(500, 302)
    endpoint = sdk.v1.webhook_endpoints.create({"url": hook.url, "enabled_events": ["customer.created"]})
    customer = sdk.v1.customers.create({"name": "Ada"})
    got = hook.wait(lambda got: len(got) >= 2)
    for body, head in got:
        event = stripe.Webhook.construct_event(body, head, endpoint.secret)
        assert event.data.object.id == customer.id
        assert event["request"]["id"].startswith("req_")
    time.sleep(0.5)
    rows = _attempts(conn, endpoint.id)
    assert rows[:2] == [(1, "failed", 500), (2, "failed", 302)]
    assert rows[2][:2] == (3, "pending")


def test_only_what_was_asked_for_and_only_the_merchants_own(
    server: Server, merchant: Callable[..., Merchant], receiver: Callable[..., Receiver]
) -> None:
    mine, other = server.sdk(merchant()), server.sdk(merchant())
    hook = receiver()
    endpoint = mine.v1.webhook_endpoints.create({"url": hook.url, "enabled_events": ["customer.deleted"]})
    mine.v1.customers.delete(mine.v1.customers.create({}).id)
    other.v1.customers.delete(other.v1.customers.create({}).id)
    hook.wait(lambda got: len(got) == 1)
    mine.v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
    mine.v1.customers.delete(mine.v1.customers.create({}).id)
    mine.v1.webhook_endpoints.update(endpoint.id, {"disabled": False, "enabled_events": ["*"]})
    mine.v1.customers.create({})
    hook.wait(lambda got: len(got) == 2)
    mine.v1.webhook_endpoints.delete(endpoint.id)
    mine.v1.customers.create({})
    time.sleep(1)
    types = [stripe.Webhook.construct_event(body, head, endpoint.secret).type for body, head in hook.got]
    assert types == ["customer.deleted", "customer.created"]


def test_a_killed_courier_delivers_after_all(
    start: Callable[..., Server], server: Server, shop: Merchant, receiver: Callable[..., Receiver],
    conn: psycopg.Connection,
) -> None:
    """Killed while the endpoint had its request: when the lease is over, another server sends it again."""
    dying = start()
    os.kill(server.process.pid, signal.SIGSTOP)  # only the dying one is at work
    try:
        hook = receiver(hangs=2)
        endpoint = dying.sdk(shop).v1.webhook_endpoints.create(
            {"url": hook.url, "enabled_events": ["customer.created"]})
        dying.sdk(shop).v1.customers.create({})
        hook.wait(lambda got: len(got) == 1)
        assert dying.stop(signal.SIGKILL) == -9
        assert _attempts(conn, endpoint.id) == [(1, "pending", None)]
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    time.sleep(1)
    assert len(hook.got) == 1  # leased still
    conn.execute("update oltp.webhook_deliveries set next_attempt_at = next_attempt_at - interval '30 seconds'"
                 " where webhook_endpoint_id = %s", [endpoint.id])  # fmt: skip
    hook.wait(lambda got: len(got) == 2)
    end = time.monotonic() + 15
    while _attempts(conn, endpoint.id) != [(1, "delivered", 200)] and time.monotonic() < end:
        time.sleep(0.2)
    assert _attempts(conn, endpoint.id) == [(1, "delivered", 200)]


def test_the_plan_of_attempts_ends_with_the_third_day() -> None:
    age, attempts = dt.timedelta(), 0
    while (delay := next_delay(attempts + 1, age)) is not None:
        attempts, age = attempts + 1, age + delay
    assert dt.timedelta(days=2) < age < dt.timedelta(days=3)
    assert attempts > len(DELAYS)


def test_the_signature_is_stripes() -> None:
    payload = b'{"object": "event"}'
    head = signature(payload, "whsec_x", int(time.time()))
    assert stripe.WebhookSignature.verify_header(payload.decode(), head, "whsec_x", 300)
