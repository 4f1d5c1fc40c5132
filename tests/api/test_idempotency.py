"""Same key, same answer, one effect: repeated, raced, changed, and with the server killed in between."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import httpx
import psycopg
import pytest
import stripe
from api_shop import Merchant, Server

from stripe_platform.cards import holds_card_number

UUID_LIKE_A_CARD = "abcd4242-4242-4242-8003-abcdefabcdef"  # the SDK sends UUIDs of its own making
PAY = {"amount": "1000", "currency": "eur", "confirm": "true", "payment_method": "pm_card_visa"}


def _count(conn: psycopg.Connection, table: str, shop: Merchant) -> int:
    row = conn.execute(f"select count(*) from oltp.{table} where account_id = %s", [shop.account]).fetchone()
    assert row
    return row[0]


def _pay(server: Server, shop: Merchant, key: str, **more: str) -> httpx.Response:
    return server.raw(shop, "POST", "/v1/payment_intents", {**PAY, **more}, idempotency_key=key)


def test_the_first_answer_is_repeated_byte_for_byte(server: Server, shop: Merchant, conn: psycopg.Connection) -> None:
    first, again = _pay(server, shop, "one"), _pay(server, shop, "one")
    assert first.status_code == 200
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert _count(conn, "payment_intents", shop) == 1
    kept = conn.execute("select response_ciphertext from oltp.idempotency_keys where account_id = %s",
                        [shop.account]).fetchone()
    assert kept
    assert b"payment_intent" not in kept[0]
    told = conn.execute("select type from oltp.events where idempotency_key = 'one' and account_id = %s"
                        " and request_id = %s order by 1", [shop.account, first.headers["request-id"]])  # fmt: skip
    assert [row[0] for row in told] == ["charge.succeeded", "payment_intent.created", "payment_intent.succeeded"]


def test_declines_and_refusals_are_answers_too(server: Server, shop: Merchant, conn: psycopg.Connection) -> None:
    for key, more, status in (("declined", {"payment_method": "pm_card_visa_chargeDeclined"}, 402),
                              ("refused", {"amount": "0"}, 400)):
        first, again = _pay(server, shop, key, **more), _pay(server, shop, key, **more)
        assert (first.status_code, again.status_code) == (status, status)
        assert again.content == first.content
    assert _count(conn, "charges", shop) == 1


def test_other_parameters_are_refused(server: Server, shop: Merchant) -> None:
    sdk = server.sdk(shop)
    options: stripe.RequestOptions = {"idempotency_key": "two"}
    sdk.v1.customers.create({"name": "Ada"}, options)
    with pytest.raises(stripe.IdempotencyError):
        sdk.v1.customers.create({"name": "Eve"}, options)
    with pytest.raises(stripe.IdempotencyError):
        sdk.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k" * 256})


@pytest.mark.parametrize("key", ["4242 4242 4242 4242", UUID_LIKE_A_CARD])
def test_a_key_that_looks_like_a_card_works_and_is_not_kept(
    server: Server, shop: Merchant, conn: psycopg.Connection, key: str
) -> None:
    assert holds_card_number(key)
    first, again = _pay(server, shop, key), _pay(server, shop, key)
    assert again.content == first.content
    assert _pay(server, shop, key, amount="1001").status_code == 400
    kept = conn.execute("select key from oltp.idempotency_keys where account_id = %s", [shop.account]).fetchall()
    assert [row[0][:4] for row in kept] == ["key_"]


def test_a_key_belongs_to_its_merchant(server: Server, merchant: Callable[..., Merchant]) -> None:
    mine, theirs = merchant(), merchant()
    assert _pay(server, mine, "same").content != _pay(server, theirs, "same").content


def test_a_key_in_use_is_told_at_once(server: Server, shop: Merchant, conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended(%s, 7220005))", [f"{shop.account} busy"])
        answer = _pay(server, shop, "busy")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_key_in_use"
    assert _pay(server, shop, "busy").status_code == 200


def test_twenty_at_once_act_once(server: Server, shop: Merchant, conn: psycopg.Connection) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: _pay(server, shop, "twenty"), range(20)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert _count(conn, "payment_intents", shop) == 1
    assert _count(conn, "balance_transactions", shop) == 1


# The server of these tests dies of itself, once, at the named point of its first payment.
DIES = """
import os, signal
from stripe_platform.api import front, server
from stripe_platform.oltp import answers
def die(*a, **k):
    os.kill(os.getpid(), signal.SIGKILL)
{where}
server.serve('127.0.0.1', {{port}}, {{workers}})
"""
BEFORE_COMMIT = """
kept = front.keep_answer
def keep(*a, **k):
    kept(*a, **k)
    die()
front.keep_answer = keep
"""
AFTER_COMMIT = "front.Front._note = die"


@pytest.mark.parametrize(("where", "stands"), [(BEFORE_COMMIT, 0), (AFTER_COMMIT, 1)])
def test_a_killed_server_acts_once(
    start: Callable[..., Server], shop: Merchant, conn: psycopg.Connection, where: str, stands: int
) -> None:
    dying = start(code=DIES.format(where=where))
    with pytest.raises(httpx.TransportError):
        _pay(dying, shop, "killed")
    assert dying.process.wait(30) == -9
    assert _count(conn, "payment_intents", shop) == stands
    after = start()
    answer = _pay(after, shop, "killed")
    assert answer.status_code == 200
    assert ("idempotent-replayed" in answer.headers) == bool(stands)
    assert _count(conn, "payment_intents", shop) == 1
    assert _count(conn, "balance_transactions", shop) == 1


def test_without_the_kept_answer_the_core_repeats_its_own(
    server: Server, shop: Merchant, conn: psycopg.Connection
) -> None:
    first = _pay(server, shop, "core")
    conn.execute("update oltp.idempotency_keys set response_ciphertext = null where account_id = %s",
                 [shop.account])
    again = _pay(server, shop, "core")
    assert again.json()["id"] == first.json()["id"]
    assert _count(conn, "payment_intents", shop) == 1
    assert _count(conn, "charges", shop) == 1


FAULT = """
from stripe_platform.api import server
from stripe_platform.api.v1 import payment_intents
def broken(*a, **k):
    raise RuntimeError('4242424242424242 of Ada')
payment_intents._outcome = broken
server.serve('127.0.0.1', {port}, {workers})
"""


def test_a_fault_undoes_the_work_and_is_kept(
    start: Callable[..., Server], shop: Merchant, conn: psycopg.Connection
) -> None:
    server = start(code=FAULT)
    first, again = _pay(server, shop, "fault"), _pay(server, shop, "fault")
    assert (first.status_code, again.status_code) == (500, 500)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert _count(conn, "payment_intents", shop) == 0
    log = server.output.read_text()
    assert "RuntimeError" in log
    assert "4242" not in log
    assert "Ada" not in log + first.text
