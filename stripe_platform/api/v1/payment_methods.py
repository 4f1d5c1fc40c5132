"""/v1/payment_methods."""

from __future__ import annotations

from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import merged_metadata, own_customer
from stripe_platform.api.v1.methods import billing, method_from, own_method
from stripe_platform.oltp import payers
from stripe_platform.oltp.card_vault import check_expiry

router = Resource("payment_methods")


@router.writes("/v1/payment_methods")
def create(call: Call) -> Json:
    """Create a card from its data or a test token; it belongs to nobody until it is attached."""
    made = method_from(call, call.params)
    call.params.end()
    return call.show("payment_method", made)


@router.reads("/v1/payment_methods/{id}")
def retrieve(call: Call) -> Json:
    """A payment method."""
    call.params.end()
    return call.present.render("payment_method", [call.row("payment_method")])[0]


@router.writes("/v1/payment_methods/{id}")
def update(call: Call) -> Json:
    """Change billing details, expiry, redisplay or metadata."""
    row, params = call.row("payment_method"), call.params
    values = billing(params)
    if params.given("metadata"):
        values["metadata"] = merged_metadata(params, row["metadata"])
    card = params.object("card")
    if card is not None:
        month = card.integer("exp_month") or row["card_exp_month"]
        year = check_expiry(month, card.integer("exp_year") or row["card_exp_year"])
        values |= {"card_exp_month": month, "card_exp_year": year}
    redisplay = params.text("allow_redisplay", choices=("always", "limited", "unspecified"))
    if redisplay:
        values["allow_redisplay"] = redisplay
    params.end()
    payers.update_method(call.conn, call.ring, account_id=call.account, method_id=row["id"], values=values,
                         key=call.event_key)  # fmt: skip
    return call.show("payment_method", row["id"])


@router.writes("/v1/payment_methods/{id}/attach")
def attach(call: Call) -> Json:
    """Make it a customer's."""
    customer = own_customer(call, call.params, required=True)
    call.params.end()
    method = own_method(call, call.ids["id"], "id")
    payers.attach_method(call.conn, account_id=call.account, method=method, customer_id=str(customer),
                         key=call.event_key)  # fmt: skip
    call.after.append(lambda: call.lookups.changed("payment_methods"))
    return call.show("payment_method", method.id)


@router.writes("/v1/payment_methods/{id}/detach")
def detach(call: Call) -> Json:
    """Give it up, for good."""
    call.params.end()
    method = own_method(call, call.ids["id"], "id")
    payers.detach_method(call.conn, account_id=call.account, method=method, key=call.event_key)
    call.after.append(lambda: call.lookups.changed("payment_methods"))
    return call.show("payment_method", method.id)


@router.reads("/v1/payment_methods")
def listing(call: Call) -> Json:
    """Payment methods of a customer, newest first."""
    return call.list("payment_method", "customer", "type")
