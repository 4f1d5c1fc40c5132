"""Refusals as the SDK's own exceptions, each one sentence with the remedy and no value in it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import stripe
from api_shop import Merchant, Server

from stripe_platform.api.front import LARGEST_BODY

PAY = {"amount": 1000, "currency": "eur", "confirm": True}


@pytest.mark.parametrize(("card", "code", "decline_code"), [
    ("4000000000000002", "card_declined", "generic_decline"),
    ("4000000000009995", "card_declined", "insufficient_funds"),
    ("4000000000000069", "expired_card", None),
    ("4000000000000127", "incorrect_cvc", None),
    ("4100000000000019", "card_declined", "fraudulent"),
])  # fmt: skip
def test_declines(sdk: stripe.StripeClient, card: str, code: str, decline_code: str | None) -> None:
    with pytest.raises(stripe.CardError) as raised:
        sdk.v1.payment_intents.create({**PAY, "payment_method_data": {"type": "card", "card": {
            "number": card, "exp_month": 1, "exp_year": 2034, "cvc": "123"}}})
    error = raised.value.json_body["error"]
    assert raised.value.http_status == 402
    assert (error["code"], error.get("decline_code")) == (code, decline_code)
    assert error["payment_intent"]["status"] == "requires_payment_method"
    assert error["payment_intent"]["last_payment_error"]["code"] == code
    charge = sdk.v1.charges.retrieve(error["charge"])
    assert (charge.paid, charge.failure_code) == (False, code)
    # Another card, and the same intent succeeds.
    intent = sdk.v1.payment_intents.confirm(error["payment_intent"]["id"], {"payment_method": "pm_card_visa"})
    assert intent.status == "succeeded"


def test_refusals_of_the_core(sdk: stripe.StripeClient) -> None:
    intent = sdk.v1.payment_intents.create({**PAY, "payment_method": "pm_card_visa"})
    for code, call in (
        ("amount_too_large", lambda: sdk.v1.refunds.create({"payment_intent": intent.id, "amount": 1001})),
        ("payment_intent_unexpected_state", lambda: sdk.v1.payment_intents.cancel(intent.id)),
        ("payment_intent_unexpected_state", lambda: sdk.v1.payment_intents.confirm(intent.id)),
        ("payment_intent_unexpected_state", lambda: sdk.v1.payment_intents.update(intent.id, {"amount": 5})),
        ("parameter_missing", lambda: sdk.v1.payment_intents.create(PAY)),
    ):
        with pytest.raises(stripe.InvalidRequestError) as raised:
            call()
        assert (raised.value.http_status, raised.value.code) == (400, code)


def test_parameters_are_judged(sdk: stripe.StripeClient) -> None:
    for param, code, given in (
        ("currency", None, {"amount": 1, "currency": "xxx"}),
        ("amount", "parameter_missing", {"currency": "eur"}),
        ("amount", "parameter_invalid_integer", {"amount": "1.5", "currency": "eur"}),
        ("colour", "parameter_unknown", {"amount": 1, "currency": "eur", "colour": "red"}),
        ("metadata", None, {"amount": 1, "currency": "eur", "metadata": {"k": "v" * 501}}),
        ("metadata", None, {"amount": 1, "currency": "eur", "metadata": {str(n): "v" for n in range(51)}}),
        ("customer", "resource_missing", {"amount": 1, "currency": "eur", "customer": "cus_none"}),
        ("capture_method", None, {"amount": 1, "currency": "eur", "capture_method": "never"}),
        ("expand", None, {"amount": 1, "currency": "eur", "expand": ["nothing"]}),
    ):
        with pytest.raises(stripe.InvalidRequestError) as raised:
            sdk.v1.payment_intents.create(given)  # type: ignore[arg-type]
        assert raised.value.param == param
        assert code in (None, raised.value.code)


def test_who_may_not(server: Server, merchant: Callable[..., Merchant]) -> None:
    reader = server.sdk(merchant("customers:read", "refunds:write"))
    assert reader.v1.customers.list().data == []
    assert reader.v1.refunds.list().data == []  # who may write may read
    with pytest.raises(stripe.PermissionError):
        reader.v1.customers.create({})
    with pytest.raises(stripe.PermissionError):
        reader.v1.payment_intents.list()
    with pytest.raises(stripe.PermissionError):
        reader.v1.customers.list({}, {"stripe_account": "acct_other"})
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient("sk_test_nobody", base_addresses={"api": server.url}).v1.customers.list()


def test_both_ways_to_send_a_key(server: Server, shop: Merchant) -> None:
    assert httpx.get(f"{server.url}/v1/balance", auth=(shop.secret, "")).status_code == 200
    assert httpx.get(f"{server.url}/v1/balance").status_code == 401
    answer = server.raw(shop, "GET", "/v1/balance", authorization="Basic !!!")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")


def test_unknown_paths_and_odd_bodies(server: Server, shop: Merchant) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/v1/customers", 405), ("GET", "/", 404)):
        answer = server.raw(shop, method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    answer = server.raw(shop, "POST", "/v1/customers", b"{}", content_type="application/json")
    assert answer.status_code == 400
    for body in (b"%ff=1", b"a[b=1", b"a=1&a[b]=2", b"a[b]=1&a=2", b"[]=1", b"a" + b"[b]" * 9 + b"=1", b"name=%00",
                 b"&".join(b"a[]=1" for _ in range(1100)), b"metadata[%c2%b2]=1&metadata[x]=%e2%82%ac"):
        answer = server.raw(shop, "POST", "/v1/customers", body, content_type="application/x-www-form-urlencoded")
        assert answer.status_code in (200, 400)
    answer = server.raw(shop, "POST", "/v1/customers", {"name": "x" * LARGEST_BODY})
    assert answer.status_code == 413
    assert answer.headers["request-id"].startswith("req_")


def test_too_many_requests(start: Callable[..., Server], shop: Merchant, merchant: Callable[..., Merchant]) -> None:
    slow = start(api_rate="2")
    answers = [slow.raw(shop, "GET", "/v1/balance").status_code for _ in range(12)]
    assert answers[0] == 200
    assert 429 in answers
    with pytest.raises(stripe.RateLimitError):
        [slow.sdk(shop).v1.balance.retrieve() for _ in range(20)]
    assert slow.raw(merchant(), "GET", "/v1/balance").status_code == 200  # another key has a bucket of its own
    slow.stop()
