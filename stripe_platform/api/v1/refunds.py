"""/v1/refunds."""

from __future__ import annotations

from stripe_platform.api.errors import ApiError, missing
from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import amount, merged_metadata
from stripe_platform.oltp import refunds, remarks

router = Resource("refunds")
_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


@router.writes("/v1/refunds")
def create(call: Call) -> Json:
    """Give back part of a charge, or all that is left."""
    params = call.params
    charge_id, intent_id = params.text("charge", longest=255), params.text("payment_intent", longest=255)
    given = amount(params, required=False)
    reason = params.text("reason", choices=_REASONS)
    metadata = params.metadata()
    params.end()
    if not charge_id and not intent_id:
        raise ApiError(400, "A refund names a charge or a payment intent: send one.", code="parameter_missing",
                       param="payment_intent")
    if not charge_id:
        call.row("payment_intent", intent_id, param="payment_intent")
        charge_id = remarks.charge_of_intent(call.conn, call.account, str(intent_id))
        if charge_id is None:
            raise ApiError(400, "The payment intent has taken no money: there is nothing to refund.",
                           code="payment_intent_unexpected_state", param="payment_intent")
    charge = call.row("charge", charge_id, param="charge")
    if intent_id and charge["payment_intent_id"] != intent_id:
        raise missing("charge", "charge")
    method = call.lookups.methods.get(call.conn, charge["payment_method_id"]) if charge["payment_method_id"] else None
    made = refunds.create_refund(
        call.conn, charge_id=charge_id, amount=given, currency=charge["currency"], reason=reason,
        status=call.front.issuer.of(method.number_mac if method else None).refund, idempotency=call.idempotency)
    if metadata:
        remarks.annotate_refund(call.conn, call.ring, refund_id=made.refund_id,
                                    subject=charge["customer_id"] or made.refund_id, metadata=metadata)
    return call.show("refund", made.refund_id)


@router.reads("/v1/refunds/{id}")
def retrieve(call: Call) -> Json:
    """A refund."""
    call.params.end()
    return call.present.render("refund", [call.row("refund")])[0]


@router.writes("/v1/refunds/{id}")
def update(call: Call) -> Json:
    """Change its metadata."""
    row = call.row("refund")
    metadata = merged_metadata(call.params, row["metadata"])
    call.params.end()
    if metadata is not None:
        charge = call.row("charge", row["charge_id"])
        remarks.annotate_refund(call.conn, call.ring, refund_id=row["id"],
                                    subject=charge["customer_id"] or row["id"], metadata=metadata)
    return call.show("refund", row["id"])


@router.writes("/v1/refunds/{id}/cancel")
def cancel(call: Call) -> Json:
    """Take back a refund that is not done yet."""
    row = call.row("refund")
    call.params.end()
    refunds.set_refund_status(call.conn, refund_id=row["id"], status="canceled", idempotency=call.idempotency)
    return call.show("refund", row["id"])


@router.reads("/v1/refunds")
def listing(call: Call) -> Json:
    """Refunds, newest first."""
    return call.list("refund", "charge", "payment_intent")
