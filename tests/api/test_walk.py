"""Stripe's own SDK against the API: a payment from customer to dispute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import stripe
from receiver import Receiver


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


def test_a_disputing_card_brings_a_signed_webhook(sdk: stripe.StripeClient, receiver: Callable[..., Receiver]) -> None:
    hook = receiver()
    endpoint = sdk.v1.webhook_endpoints.create({"url": hook.url, "enabled_events": ["charge.dispute.created"]})
    assert endpoint.secret.startswith("whsec_")
    assert sdk.v1.webhook_endpoints.retrieve(endpoint.id).to_dict().get("secret") is None

    intent = sdk.v1.payment_intents.create({
        "amount": 4200, "currency": "eur", "confirm": True, "payment_method": "pm_card_createDispute"})
    assert intent.status == "succeeded"
    body, signature = hook.wait(lambda got: len(got) == 1)[0]
    event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
    assert event.type == "charge.dispute.created"
    dispute = event.data.object
    assert (dispute.status, dispute.amount, dispute.charge) == ("needs_response", 4200, intent.latest_charge)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, signature, "whsec_another")

    dispute = sdk.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    assert dispute.status == "won"
    assert sdk.v1.charges.retrieve(intent.latest_charge).disputed
    assert {e.type for e in sdk.v1.events.list({"limit": 100})} >= {
        "payment_intent.succeeded", "charge.succeeded", "charge.dispute.created", "charge.dispute.funds_withdrawn",
        "charge.dispute.closed", "charge.dispute.funds_reinstated"}
    assert sdk.v1.events.retrieve(event.id).pending_webhooks == 0


def test_pages_go_on_by_themselves(sdk: stripe.StripeClient) -> None:
    made = [sdk.v1.customers.create({"name": f"Payer {number}"}).id for number in range(7)]
    assert [one.id for one in sdk.v1.customers.list({"limit": 3}).auto_paging_iter()] == made[::-1]
    page = sdk.v1.customers.list({"limit": 2, "ending_before": made[0]})
    assert ([one.id for one in page], page.has_more) == ([made[2], made[1]], True)
    first = sdk.v1.customers.retrieve(made[0]).created
    assert sdk.v1.customers.list({"created": {"gt": first + 1000}}).data == []
    assert len(sdk.v1.customers.list({"created": {"gte": first}}).data) == 7


def test_customers_and_methods_live_and_go(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({"name": "Ada", "address": {"country": "FR", "city": "Lyon"}, "description": "x",
                                        "metadata": {"a": "1", "b": "2"}})  # fmt: skip
    changed = sdk.v1.customers.update(customer.id, {"name": "", "metadata": {"a": "", "c": "3"}})
    assert changed.name is None
    assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
    assert changed.address.city == "Lyon"
    method = sdk.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    twin = sdk.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    assert twin.card.fingerprint == method.card.fingerprint
    sdk.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    shown = sdk.v1.customers.retrieve(customer.id, {"expand": ["invoice_settings.default_payment_method"]})
    assert shown.invoice_settings.default_payment_method.card.last4 == "4242"
    assert [one.id for one in sdk.v1.payment_methods.list({"customer": customer.id})] == [method.id]
    assert [one.id for one in sdk.v1.customers.payment_methods.list(customer.id)] == [method.id]
    method = sdk.v1.payment_methods.update(method.id, {"billing_details": {"name": "Ada B."}, "metadata": {"k": "v"}})
    assert (method.billing_details.name, method.metadata["k"]) == ("Ada B.", "v")
    assert sdk.v1.payment_methods.detach(method.id).customer is None
    with pytest.raises(stripe.InvalidRequestError):
        sdk.v1.payment_methods.attach(method.id, {"customer": customer.id})
    assert sdk.v1.customers.delete(customer.id).deleted
    assert sdk.v1.customers.retrieve(customer.id).deleted
    assert sdk.v1.customers.list().data == []


def test_intents_wait_change_and_end(sdk: stripe.StripeClient) -> None:
    intent = sdk.v1.payment_intents.create({"amount": 900, "currency": "EUR", "payment_method_types": ["card"]})
    intent = sdk.v1.payment_intents.update(intent.id, {"amount": 1000, "metadata": {"a": "b"}, "payment_method":
                                                       "pm_card_visa"})  # fmt: skip
    assert (intent.amount, intent.status) == (1000, "requires_confirmation")
    intent = sdk.v1.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"})
    assert (intent.status, intent.cancellation_reason) == ("canceled", "abandoned")
    waits = sdk.v1.payment_intents.create({
        "amount": 1000, "currency": "eur", "confirm": True, "payment_method": "pm_card_threeDSecure2Required"})
    assert (waits.status, waits.next_action.type) == ("requires_action", "use_stripe_sdk")
    assert sdk.v1.payment_intents.confirm(waits.id).status == "succeeded"
    pending = sdk.v1.payment_intents.create({
        "amount": 1000, "currency": "eur", "confirm": True, "payment_method": "pm_card_pendingRefund"})
    refund = sdk.v1.refunds.create({"charge": pending.latest_charge, "metadata": {"why": "late"}})
    assert (refund.status, refund.metadata["why"]) == ("pending", "late")
    assert sdk.v1.refunds.cancel(refund.id).status == "canceled"
    assert sdk.v1.refunds.update(refund.id, {"metadata": {"n": "1"}}).metadata.to_dict() == {"why": "late", "n": "1"}
    balance = sdk.v1.balance.retrieve()
    net = sum(one.net for one in sdk.v1.balance_transactions.list({"limit": 100}))
    assert sum(one.amount for one in [*balance.pending, *balance.available]) == net
    movement = sdk.v1.balance_transactions.list({"source": pending.latest_charge, "type": "charge"}).data[0]
    assert sdk.v1.balance_transactions.retrieve(movement.id, {"expand": ["source"]}).source.object == "charge"


def test_a_subscription_bills_and_ends(sdk: stripe.StripeClient) -> None:
    product = sdk.v1.products.create({"name": "Plan", "metadata": {"line": "a"}})
    price = sdk.v1.prices.create({"product": product.id, "currency": "eur", "unit_amount": 990, "nickname": "monthly",
                                  "recurring": {"interval": "month"}})  # fmt: skip
    assert (price.recurring.interval, price.unit_amount) == ("month", 990)
    assert sdk.v1.products.update(product.id, {"name": "Plan B"}).name == "Plan B"
    customer = sdk.v1.customers.create({"name": "Ada"}).id
    method = sdk.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    made = sdk.v1.subscriptions.create({
        "customer": customer, "items": [{"price": price.id, "quantity": 2}], "default_payment_method": method,
        "metadata": {"seat": "1"}, "expand": ["latest_invoice"]})
    assert (made.status, made.metadata["seat"]) == ("active", "1")
    assert made["items"].data[0].price.id == price.id
    invoice = made.latest_invoice
    assert (invoice.status, invoice.amount_paid, invoice.lines.data[0].quantity) == ("paid", 1980, 2)
    assert invoice.parent.subscription_details.subscription == made.id
    assert [one.id for one in sdk.v1.invoices.list({"subscription": made.id})] == [invoice.id]
    later = sdk.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})
    assert later.cancel_at_period_end
    assert not sdk.v1.subscriptions.update(made.id, {"cancel_at_period_end": False}).cancel_at_period_end
    assert sdk.v1.subscriptions.cancel(made.id).status == "canceled"
    assert sdk.v1.subscriptions.list({"customer": customer}).data == []
    assert [one.id for one in sdk.v1.subscriptions.list({"customer": customer, "status": "all"})] == [made.id]
    bad = sdk.v1.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer}).id
    wish: stripe.params.SubscriptionCreateParams = {
        "customer": customer, "items": [{"price": price.id}], "default_payment_method": bad}
    assert sdk.v1.subscriptions.create(wish).status == "incomplete"
    with pytest.raises(stripe.CardError):
        sdk.v1.subscriptions.create({**wish, "payment_behavior": "error_if_incomplete"})
    assert {"invoice.paid", "customer.subscription.created"} <= {e.type for e in sdk.v1.events.list({"limit": 100})}
