"""/v1/customers."""

from __future__ import annotations

from typing import Any

from stripe_platform.api.errors import ApiError, missing
from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import address, merged_metadata, texts
from stripe_platform.api.v1.methods import own_method
from stripe_platform.oltp import payers

router = Resource("customers")


@router.writes("/v1/customers")
def create(call: Call) -> Json:
    """Create a customer."""
    values = _values(call, None)
    method = call.params.text("payment_method", longest=255)
    call.params.end()
    customer = payers.create_payer(call.conn, call.ring, account_id=call.account, values=values, key=call.event_key)
    if method:
        payers.attach_method(call.conn, account_id=call.account, method=own_method(call, method), customer_id=customer)
        call.after.append(lambda: call.lookups.changed("payment_methods"))
    return call.show("customer", customer)


@router.reads("/v1/customers/{id}")
def retrieve(call: Call) -> Json:
    """A customer; of a deleted one, that it is."""
    call.params.end()
    return call.present.render("customer", [call.row("customer")])[0]


@router.writes("/v1/customers/{id}")
def update(call: Call) -> Json:
    """Change what is named."""
    row = call.row("customer")
    if row["deleted"]:
        raise missing("customer")
    values = _values(call, row)
    call.params.end()
    payers.update_payer(call.conn, call.ring, account_id=call.account, customer_id=row["id"], values=values,
                        key=call.event_key)  # fmt: skip
    return call.show("customer", row["id"])


@router.deletes("/v1/customers/{id}")
def delete(call: Call) -> Json:
    """The customer is gone for this merchant."""
    row = call.row("customer")
    call.params.end()
    if row["deleted"]:
        raise missing("customer")
    payers.delete_payer(call.conn, account_id=call.account, customer_id=row["id"], key=call.event_key)
    call.after.append(lambda: call.lookups.changed("customers", "payment_methods"))
    return {"id": row["id"], "object": "customer", "deleted": True}


@router.reads("/v1/customers")
def listing(call: Call) -> Json:
    """Customers, newest first."""
    return call.list("customer")


@router.reads("/v1/customers/{id}/payment_methods")
def methods(call: Call) -> Json:
    """The payment methods of a customer, newest first."""
    return call.list("payment_method", "type", customer=call.row("customer")["id"])


def _values(call: Call, row: dict[str, Any] | None) -> dict[str, Any]:
    params = call.params
    params.ignore("preferred_locales", "tax")
    values = texts(params, "name", "email", "phone", "description")
    if values.get("email") and "@" not in str(values["email"]):
        raise ApiError(400, "Parameter email is no e-mail address: correct it.", code="email_invalid", param="email")
    if params.given("address"):
        values["address"] = address(params)
        country = (values["address"] or {}).get("country")
        if country and call.lookups.countries.get(call.conn, country):
            values["country"] = country
    if params.given("metadata"):
        values["metadata"] = merged_metadata(params, row["metadata"] if row else None)
    if params.given("tax_exempt"):
        values["tax_exempt"] = params.text("tax_exempt", choices=("exempt", "none", "reverse"))
    billing = params.object("invoice_settings")
    if billing and billing.given("default_payment_method"):
        default = billing.text("default_payment_method", longest=255)
        if default:
            method = own_method(call, default)
            if row is None or method.customer_id != row["id"]:
                raise ApiError(400, "The default payment method is not this customer's: attach it first.",
                               param="invoice_settings[default_payment_method]")
        values["default_payment_method_id"] = default
    return values
