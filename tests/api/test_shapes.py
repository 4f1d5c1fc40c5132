"""What is shown against the fields Stripe's SDK knows: none of ours is unknown to it, none it counts on is missing."""

from __future__ import annotations

from typing import Any, Union, get_args, get_origin

import pytest
import stripe
from api_shop import Merchant, Server

from stripe_platform.api.issuer import _NAMES, _TABLE
from stripe_platform.oltp.card_vault import card_number

KINDS = {
    "customers": stripe.Customer, "payment_methods": stripe.PaymentMethod, "payment_intents": stripe.PaymentIntent,
    "charges": stripe.Charge, "refunds": stripe.Refund, "disputes": stripe.Dispute,
    "balance_transactions": stripe.BalanceTransaction, "events": stripe.Event,
    "webhook_endpoints": stripe.WebhookEndpoint, "products": stripe.Product, "prices": stripe.Price,
    "subscriptions": stripe.Subscription, "invoices": stripe.Invoice,
}  # fmt: skip


@pytest.fixture
def busy(server: Server, shop: Merchant) -> stripe.StripeClient:
    sdk = server.sdk(shop)
    customer = sdk.v1.customers.create({"name": "Ada", "address": {"city": "Lyon"}}).id
    method = sdk.v1.payment_methods.attach("pm_card_createDispute", {"customer": customer}).id
    sdk.v1.payment_intents.create({"amount": 1000, "currency": "eur", "confirm": True, "customer": customer,
                                   "payment_method": method})  # fmt: skip
    paid = sdk.v1.payment_intents.create({"amount": 1000, "currency": "eur", "confirm": True,
                                          "payment_method": "pm_card_visa"})  # fmt: skip
    sdk.v1.refunds.create({"payment_intent": paid.id})
    sdk.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/", "enabled_events": ["charge.captured"]})
    price = sdk.v1.prices.create({"product_data": {"name": "Plan"}, "currency": "eur", "unit_amount": 500,
                                  "recurring": {"interval": "month"}}).id  # fmt: skip
    sdk.v1.subscriptions.create({"customer": customer, "items": [{"price": price}], "default_payment_method": method})
    return sdk


def _inner(kind: Any) -> Any:
    """The SDK's class behind an annotation, where it is one of our objects' parts."""
    if get_origin(kind) is Union:
        inner = [arg for arg in get_args(kind) if arg is not type(None)]
        return _inner(inner[0]) if len(inner) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, stripe.StripeObject) else None


def _unknown(shown: dict[str, Any], kind: Any, path: str = "") -> list[str]:
    known = {name: value for name, value in kind.__annotations__.items() if not name.startswith("_")}
    found = [f"{path}{name}" for name in shown if known and name not in known]
    for name, value in shown.items():
        if isinstance(value, dict) and name in known and (inner := _inner(known[name])) and hasattr(
                inner, "__annotations__") and name not in ("metadata",):
            found += _unknown(value, inner, f"{path}{name}.")
    return found


def _missing(shown: dict[str, Any], kind: Any) -> list[str]:
    """Fields the SDK promises to be there and not null."""
    plain = [name for name, value in kind.__annotations__.items()
             if not name.startswith("_") and name != "OBJECT_NAME" and type(None) not in get_args(value)]
    return [name for name in plain if shown.get(name) is None]


def test_every_object_has_the_sdks_fields(busy: stripe.StripeClient, server: Server, shop: Merchant) -> None:
    for family, kind in KINDS.items():
        query = f"?customer={busy.v1.customers.list().data[0].id}" if family == "payment_methods" else "?limit=100"
        listed = server.raw(shop, "GET", f"/v1/{family}{query}").json()["data"]
        assert listed, family
        for shown in listed:
            assert _unknown(shown, kind) == [], family
            assert _missing(shown, kind) == [], family


def test_every_event_is_one_stripe_knows(busy: stripe.StripeClient) -> None:
    known = set(get_args(stripe.Event.__annotations__["type"])) or set()
    for argument in get_args(stripe.Event.__annotations__["type"]):
        known |= set(get_args(argument))
    types = {event.type for event in busy.v1.events.list({"limit": 100})}
    assert len(types) > 10
    assert types <= known


def test_every_event_names_an_object_that_is_shown(busy: stripe.StripeClient) -> None:
    for event in busy.v1.events.list({"limit": 100}):
        assert "created" in event.data.object.to_dict(), event.type


def test_the_table_of_test_cards_is_sound() -> None:
    for digits in _TABLE:
        assert card_number(digits).brand
    assert set(_NAMES.values()) <= set(_TABLE)


def test_expansion_goes_deep(busy: stripe.StripeClient) -> None:
    listed = busy.v1.payment_intents.list({"expand": ["data.latest_charge.balance_transaction", "data.customer"]})
    for intent in listed:
        assert intent.latest_charge.balance_transaction.fee >= 0
    refund = busy.v1.refunds.list({"expand": ["data.charge.customer", "data.balance_transaction"]}).data[0]
    assert refund.balance_transaction.amount == -refund.amount
