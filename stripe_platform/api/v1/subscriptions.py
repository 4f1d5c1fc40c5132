"""/v1/subscriptions."""

from __future__ import annotations

from typing import Any

from stripe_platform.api.errors import ApiError, decline
from stripe_platform.api.front import Call
from stripe_platform.api.issuer import Behaviour
from stripe_platform.api.params import Params
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import merged_metadata, own_customer
from stripe_platform.api.v1.methods import own_method
from stripe_platform.oltp import billing, remarks

router = Resource("subscriptions")
_PRORATIONS = ("always_invoice", "create_prorations", "none")
_FEEDBACK = ("customer_service", "low_quality", "missing_features", "other", "switched_service", "too_complex",
             "too_expensive", "unused")
_STATUS = ("active", "all", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid")
_WITHOUT_EFFECT = ("automatic_tax", "billing_mode", "off_session", "payment_settings", "trial_settings")


@router.writes("/v1/subscriptions")
def create(call: Call) -> Json:
    """Begin a subscription and bill its first period."""
    params = call.params
    params.ignore(*_WITHOUT_EFFECT, "currency")
    customer = str(own_customer(call, params, required=True))
    items = [billing.Item(call.row("price", one.need("price", longest=255), param="items")["id"],
                          one.integer("quantity", low=0, high=999_999) or 1) for one in params.objects("items")]
    if not items:
        raise params.absent("items")
    method = _method(call, params, customer)
    more: dict[str, Any] = {
        "collection_method": params.text("collection_method", choices=("charge_automatically", "send_invoice"))
        or "charge_automatically",
        "days_until_due": params.integer("days_until_due", low=0, high=730),
        "trial_days": params.integer("trial_period_days", low=1, high=730),
        "trial_end": params.instant("trial_end"), "cancel_at": params.instant("cancel_at")}
    behaviour = params.text("payment_behavior", choices=("allow_incomplete", "default_incomplete",
                                                         "error_if_incomplete"))  # fmt: skip
    notes = _notes(params, None)
    params.end()
    does = _does(call, method, customer)
    made = billing.subscribe(
        call.conn, account_id=call.account, customer_id=customer, items=items, payment_method_id=method,
        declined=does.declined, idempotency=call.idempotency, **more)
    if made.failure_code and behaviour == "error_if_incomplete":
        code, decline_code, message = decline(made.failure_code)
        raise ApiError(402, message, kind="card_error", code=code, more={"decline_code": decline_code})
    _annotate(call, made.subscription_id, customer, notes)
    return call.show("subscription", made.subscription_id)


@router.reads("/v1/subscriptions/{id}")
def retrieve(call: Call) -> Json:
    """A subscription."""
    call.params.end()
    return call.present.render("subscription", [call.row("subscription")])[0]


@router.writes("/v1/subscriptions/{id}")
def update(call: Call) -> Json:
    """Change items, payment method or metadata, or let it end with its period."""
    row, params = call.row("subscription"), call.params
    params.ignore(*_WITHOUT_EFFECT)
    changes = []
    for one in params.objects("items"):
        price = one.text("price", longest=255)
        if price:
            call.row("price", price, param="items")
        item = one.text("id", longest=255)
        if item and call.row("subscription_item", item, param="items")["subscription_id"] != row["id"]:
            raise ApiError(400, "An item belongs to another subscription: check its id.", param="items")
        changes.append(billing.Change(item, price, one.integer("quantity", low=0, high=999_999),
                                      one.boolean("deleted") or False))  # fmt: skip
    method = _method(call, params, row["customer_id"])
    ends = params.boolean("cancel_at_period_end")
    proration = params.text("proration_behavior", choices=_PRORATIONS) or "create_prorations"
    anchor = params.text("billing_cycle_anchor", choices=("now", "unchanged")) == "now"
    notes = _notes(params, row)
    params.end()
    key = call.idempotency
    if changes or method or anchor or (ends is False and row["cancel_at_period_end"]):
        billing.update(
            call.conn, subscription_id=row["id"], changes=changes, payment_method_id=method, anchor_now=anchor,
            keep=ends is False, declined=_does(call, method, row["customer_id"]).declined, idempotency=key,
            proration=proration)  # type: ignore[arg-type]
        key = None
    if ends:
        billing.cancel(call.conn, subscription_id=row["id"], at_period_end=True, idempotency=key)
    _annotate(call, row["id"], row["customer_id"], notes)
    return call.show("subscription", row["id"])


@router.deletes("/v1/subscriptions/{id}")
def cancel(call: Call) -> Json:
    """End it at once."""
    row, params = call.row("subscription"), call.params
    prorate = params.boolean("prorate") or False
    params.ignore("invoice_now")
    details = params.object("cancellation_details")
    feedback = details.text("feedback", choices=_FEEDBACK) if details else None
    if details:
        details.ignore("comment")
    params.end()
    billing.cancel(call.conn, subscription_id=row["id"], prorate=prorate, feedback=feedback)
    return call.show("subscription", row["id"])


@router.writes("/v1/subscriptions/{id}/resume")
def resume(call: Call) -> Json:
    """Go on after a rest."""
    row = call.row("subscription")
    call.params.ignore("billing_cycle_anchor", "proration_behavior")
    call.params.end()
    does = _does(call, row["default_payment_method_id"], row["customer_id"])
    billing.resume(call.conn, subscription_id=row["id"], declined=does.declined, idempotency=call.idempotency)
    return call.show("subscription", row["id"])


@router.reads("/v1/subscriptions")
def listing(call: Call) -> Json:
    """Subscriptions that are not canceled (`status` chooses others), newest first."""
    call.params.text("status", choices=_STATUS)
    return call.list("subscription", "customer", "status")


def _method(call: Call, params: Params, customer: str) -> str | None:
    named = params.text("default_payment_method", longest=255)
    if not named:
        return None
    method = own_method(call, named, "default_payment_method")
    if method.customer_id != customer or method.detached:
        raise ApiError(400, "The payment method is not this customer's: attach it first.",
                       param="default_payment_method")
    return method.id


def _does(call: Call, method: str | None, customer: str) -> Behaviour:
    """What the card that will pay does: the named one, else the payer's default."""
    paying = method or call.row("customer", customer, param="customer")["default_payment_method_id"]
    found = call.lookups.methods.get(call.conn, paying) if paying else None
    return call.front.issuer.of(found.number_mac if found else None)


def _notes(params: Params, row: dict[str, Any] | None) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if params.given("description"):
        notes["description"] = params.text("description", longest=500, sealed=True)
    if params.given("metadata"):
        notes["metadata"] = merged_metadata(params, row["metadata"] if row else None)
    return notes


def _annotate(call: Call, subscription: str, customer: str, notes: dict[str, Any]) -> None:
    if notes:
        remarks.annotate_object(call.conn, call.ring, table="subscriptions", object_id=subscription, subject=customer,
                                values=notes)
