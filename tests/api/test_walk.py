"""Stripe's own SDK against the API: a payment from customer to dispute."""

from __future__ import annotations

import stripe


def test_create_confirm_capture_refund_list(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({
        "name": "Ada Example", "email": "ada@mail.example", "metadata": {"tier": "gold"}})
    assert customer.metadata["tier"] == "gold"
    method = sdk.v1.payment_methods.create({"type": "card", "card": {
        "number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"}})
    assert method.card.brand == "visa"
    assert method.card.last4 == "4242"
    sdk.v1.payment_methods.attach(method.id, {"customer": customer.id})

    intent = sdk.v1.payment_intents.create({
        "amount": 2000, "currency": "eur", "customer": customer.id, "capture_method": "manual",
        "metadata": {"order": "1"}, "description": "Two tickets"})
    assert intent.status == "requires_payment_method"
    intent = sdk.v1.payment_intents.confirm(intent.id, {"payment_method": method.id})
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 2000)
    intent = sdk.v1.payment_intents.capture(intent.id, {"amount_to_capture": 1500})
    assert (intent.status, intent.amount_received) == ("succeeded", 1500)
    assert intent.metadata["order"] == "1"

    refund = sdk.v1.refunds.create({"payment_intent": intent.id, "amount": 500, "reason": "requested_by_customer"})
    assert (refund.status, refund.amount) == ("succeeded", 500)
    charge = sdk.v1.charges.retrieve(intent.latest_charge, {"expand": ["customer", "balance_transaction"]})
    assert charge.amount_refunded == 500
    assert charge.customer.email == "ada@mail.example"
    assert charge.balance_transaction.net == 1500 - charge.balance_transaction.fee
    assert [one.id for one in sdk.v1.refunds.list({"charge": charge.id})] == [refund.id]
    assert [one.id for one in sdk.v1.payment_intents.list({"customer": customer.id})] == [intent.id]
