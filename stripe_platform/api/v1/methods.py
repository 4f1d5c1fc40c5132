"""Payment methods as parameters: named by id or test token, or given as card data, which go straight to the vault."""

from __future__ import annotations

from typing import Any

from stripe_platform.api.errors import ApiError, missing
from stripe_platform.api.front import Call
from stripe_platform.api.issuer import behaviour_of, named
from stripe_platform.api.params import Params
from stripe_platform.api.v1.common import address, texts
from stripe_platform.oltp import payers
from stripe_platform.oltp.card_vault import CardNumber, card_number
from stripe_platform.oltp.lookup import Method

_TEST_EXPIRY = (12, 2034)


def own_method(call: Call, method_id: str, param: str = "payment_method") -> Method:
    """A payment method of this merchant; a test token becomes one."""
    number = named(method_id)
    if number is not None and not call.key.livemode:
        return _fresh(call, make_card(call, number, *_TEST_EXPIRY))
    found = call.lookups.methods.get(call.conn, method_id)
    if found is None or found.account_id != call.account:
        raise missing("payment_method", param)
    return found


def given_method(call: Call, params: Params) -> Method | None:
    """The method a payment names, or brings along as card data."""
    named_one = params.text("payment_method", longest=255)
    data = params.object("payment_method_data")
    if named_one and data:
        raise ApiError(400, "Parameters payment_method and payment_method_data exclude each other: keep one.",
                       code="parameters_exclusive", param="payment_method_data")
    if data is not None:
        return _fresh(call, method_from(call, data))
    return own_method(call, named_one) if named_one else None


def method_from(call: Call, params: Params) -> str:
    """A new payment method from its parameters; its id."""
    params.need("type", choices=("card",))
    card = params.object("card")
    if card is None:
        raise params.absent("card")
    details = billing(params)
    redisplay = params.text("allow_redisplay", choices=("always", "limited", "unspecified")) or "unspecified"
    more: dict[str, Any] = {"billing": details, "metadata": params.metadata(), "allow_redisplay": redisplay}
    token = card.text("token", longest=255)
    if token:
        number = named(token)
        if number is None:
            raise missing("token", "card[token]")
        return make_card(call, number, *_TEST_EXPIRY, **more)
    number = card_number(card.need("number", longest=40, sealed=True))
    month, year = card.integer("exp_month", required=True), card.integer("exp_year", required=True)
    code = card.text("cvc", longest=10, sealed=True)
    if code is not None and not (code.isascii() and code.isdigit() and len(code) in (3, 4)):
        raise ApiError(402, "The card's security code is not one: check it.", kind="card_error", code="invalid_cvc",
                       param="card[cvc]")
    return make_card(call, number, month or 0, year or 0, coded=code is not None, **more)


def billing(params: Params) -> dict[str, Any]:
    """Billing details that were sent."""
    inner = params.object("billing_details")
    if inner is None:
        return {}
    found = texts(inner, "name", "email", "phone")
    return {**found, **({"address": address(inner)} if inner.given("address") else {})}


def make_card(call: Call, number: CardNumber, month: int, year: int, *, coded: bool = True, **more: Any) -> str:
    """A card of this merchant that belongs to nobody yet."""
    does = behaviour_of(number)
    country = does.country if call.lookups.countries.get(call.conn, does.country) else None
    return payers.create_card(
        call.conn, call.ring, account_id=call.account, number=number, exp_month=month, exp_year=year,
        funding=does.funding, country=country, cvc_check=does.cvc_check if coded else None, **more)


def _fresh(call: Call, method_id: str) -> Method:
    # Read past the cache: should this transaction fail, nobody may remember the row.
    found = call.lookups.methods.read(call.conn, method_id)
    if found is None:
        raise missing("payment_method", "payment_method")
    return found
