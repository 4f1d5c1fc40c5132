"""/v1/invoices."""

from __future__ import annotations

from typing import Any

from stripe_platform.api.errors import ApiError, decline
from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import currency, own_customer
from stripe_platform.api.v1.methods import own_method
from stripe_platform.oltp import invoices

router = Resource("invoices")


@router.writes("/v1/invoices")
def create(call: Call) -> Json:
    """A draft with the items that wait for a customer."""
    params = call.params
    customer = str(own_customer(call, params, required=True))
    code = currency(call, params, required=False) or call.row("customer", customer)["currency"]
    if code is None:
        account = call.lookups.accounts.get(call.conn, call.account) or {}
        code = account.get("default_currency")
    method = params.text("collection_method", choices=("charge_automatically", "send_invoice"))
    params.ignore("auto_advance", "pending_invoice_items_behavior")
    params.end()
    more: dict[str, Any] = {"collection_method": method} if method else {}
    made = invoices.create(call.conn, account_id=call.account, customer_id=customer, currency=str(code),
                           idempotency=call.idempotency, **more)  # fmt: skip
    return call.show("invoice", made.invoice_id)


@router.reads("/v1/invoices/{id}")
def retrieve(call: Call) -> Json:
    """An invoice."""
    call.params.end()
    return call.present.render("invoice", [call.row("invoice")])[0]


@router.reads("/v1/invoices/{id}/lines")
def lines(call: Call) -> Json:
    """The lines of an invoice."""
    return call.list("line_item", invoice=call.row("invoice")["id"])


@router.writes("/v1/invoices/{id}/finalize")
def finalize(call: Call) -> Json:
    """Number it and open it."""
    row = call.row("invoice")
    call.params.ignore("auto_advance")
    call.params.end()
    invoices.finalize(call.conn, invoice_id=row["id"], idempotency=call.idempotency)
    return call.show("invoice", row["id"])


@router.writes("/v1/invoices/{id}/pay")
def pay(call: Call) -> Json:
    """Collect what remains, or note that it was paid elsewhere."""
    row, params = call.row("invoice"), call.params
    outside = params.boolean("paid_out_of_band") or False
    named = params.text("payment_method", longest=255)
    params.ignore("off_session")
    params.end()
    paying = named or call.row("customer", row["customer_id"])["default_payment_method_id"]
    method = own_method(call, paying) if paying and not outside else None
    made = invoices.pay(
        call.conn, invoice_id=row["id"], payment_method_id=method.id if method and named else None,
        declined=call.front.issuer.of(method.number_mac).declined if method else None, out_of_band=outside,
        idempotency=call.idempotency)
    if made.failure_code:
        code, decline_code, message = decline(made.failure_code)
        return call.decline(ApiError(402, message, kind="card_error", code=code, more={
            "decline_code": decline_code, "charge": made.charge_id}))
    return call.show("invoice", row["id"])


@router.writes("/v1/invoices/{id}/void")
def void(call: Call) -> Json:
    """End it for good."""
    row = call.row("invoice")
    call.params.end()
    invoices.void(call.conn, invoice_id=row["id"], idempotency=call.idempotency)
    return call.show("invoice", row["id"])


@router.writes("/v1/invoices/{id}/mark_uncollectible")
def give_up(call: Call) -> Json:
    """Give it up; it can still be paid."""
    row = call.row("invoice")
    call.params.end()
    invoices.mark_uncollectible(call.conn, invoice_id=row["id"], idempotency=call.idempotency)
    return call.show("invoice", row["id"])


@router.deletes("/v1/invoices/{id}")
def delete(call: Call) -> Json:
    """Drop a draft."""
    row = call.row("invoice")
    call.params.end()
    invoices.delete(call.conn, invoice_id=row["id"])
    return {"id": row["id"], "object": "invoice", "deleted": True}


@router.reads("/v1/invoices")
def listing(call: Call) -> Json:
    """Invoices, newest first."""
    call.params.text("status", choices=("draft", "open", "paid", "uncollectible", "void"))
    return call.list("invoice", "customer", "status", "subscription")
