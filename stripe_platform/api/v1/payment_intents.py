"""/v1/payment_intents: from the wish to pay to the money, through the write API."""

from __future__ import annotations

from typing import Any

from stripe_platform.api.errors import ApiError, decline
from stripe_platform.api.front import Call
from stripe_platform.api.issuer import Behaviour
from stripe_platform.api.params import Params
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import amount, currency, merged_metadata, own_customer, texts
from stripe_platform.api.v1.methods import given_method
from stripe_platform.oltp import disputes, payers, payments, remarks
from stripe_platform.oltp.lookup import Method

router = Resource("payment_intents")
_CAPTURE = ("automatic", "automatic_async", "manual")
_REASONS = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")
# Accepted for callers' sake: cards are the only methods here, and nothing is shown to payers.
_WITHOUT_EFFECT = (
    "automatic_payment_methods", "error_on_requires_action", "off_session", "payment_method_options",
    "payment_method_types", "return_url", "statement_descriptor", "statement_descriptor_suffix", "use_stripe_sdk")


@router.writes("/v1/payment_intents")
def create(call: Call) -> Json:
    """Create an intent and, with `confirm`, try to collect at once."""
    params = call.params
    params.ignore(*_WITHOUT_EFFECT)
    money = {"amount": amount(params), "currency": currency(call, params)}
    customer = own_customer(call, params)
    capture = params.text("capture_method", choices=_CAPTURE) or "automatic"
    confirm = params.boolean("confirm") or False
    notes = _notes(params, None)
    method = given_method(call, params)
    params.end()
    method = _usable(call, method, customer)
    common: dict[str, Any] = {
        "account_id": call.account, "customer_id": customer, "payment_method_id": method.id if method else None,
        "capture_method": capture, "idempotency": call.idempotency, **money}
    if confirm and method is None:
        raise ApiError(400, "A payment intent is confirmed with a payment method: name one.", code="parameter_missing",
                       param="payment_method")
    does = call.front.issuer.of(method.number_mac) if method else None
    if not confirm or method is None or does is None or does.authenticate:
        made = payments.create_intent(call.conn, **common)
        if confirm and does is not None:
            payments.confirm_intent(call.conn, payment_intent_id=made.payment_intent_id, requires_action=True)
    else:
        made = payments.create_payment(call.conn, **common, **_asked(does))
    subject = customer or made.payment_intent_id
    remarks.annotate_intent(call.conn, call.ring, intent_id=made.payment_intent_id, subject=subject, values=notes)
    return _outcome(call, made, does, subject, notes)


@router.writes("/v1/payment_intents/{id}/confirm")
def confirm(call: Call) -> Json:
    """One attempt to collect."""
    row, params = call.row("payment_intent"), call.params
    params.ignore(*_WITHOUT_EFFECT)
    notes = {name: value for name, value in _notes(params, row).items() if name != "metadata"}
    method = given_method(call, params)
    params.end()
    method = _usable(call, method, row["customer_id"])
    chosen = method or (call.lookups.methods.get(call.conn, row["payment_method_id"]) if row["payment_method_id"]
                        else None)
    does = call.front.issuer.of(chosen.number_mac if chosen else None)
    authenticates = does.authenticate and row["status"] != "requires_action"
    made = payments.confirm_intent(
        call.conn, payment_intent_id=row["id"], payment_method_id=method.id if method else None,
        requires_action=authenticates, idempotency=call.idempotency, **({} if authenticates else _asked(does)))
    subject = row["customer_id"] or row["id"]
    remarks.annotate_intent(call.conn, call.ring, intent_id=row["id"], subject=subject, values=notes)
    said = {"metadata": row["metadata"], "description": row["description"], "receipt_email": row["receipt_email"],
            **notes}
    return _outcome(call, made, does, subject, said)


@router.writes("/v1/payment_intents/{id}/capture")
def capture(call: Call) -> Json:
    """Take what was authorised, or part of it."""
    row, params = call.row("payment_intent"), call.params
    taken = amount(params, "amount_to_capture", required=False)
    params.ignore("final_capture", "statement_descriptor", "statement_descriptor_suffix")
    params.end()
    made = payments.capture_intent(call.conn, payment_intent_id=row["id"], amount=taken, idempotency=call.idempotency)
    method = call.lookups.methods.get(call.conn, row["payment_method_id"]) if row["payment_method_id"] else None
    return _outcome(call, made, call.front.issuer.of(method.number_mac if method else None), row["id"], {})


@router.writes("/v1/payment_intents/{id}/cancel")
def cancel(call: Call) -> Json:
    """End it; an authorisation is released."""
    row = call.row("payment_intent")
    reason = call.params.text("cancellation_reason", choices=_REASONS)
    call.params.end()
    payments.cancel_intent(call.conn, payment_intent_id=row["id"], reason=reason, idempotency=call.idempotency)
    return call.show("payment_intent", row["id"])


@router.reads("/v1/payment_intents/{id}")
def retrieve(call: Call) -> Json:
    """A payment intent."""
    call.params.text("client_secret", longest=255)
    call.params.end()
    return call.present.render("payment_intent", [call.row("payment_intent")])[0]


@router.writes("/v1/payment_intents/{id}")
def update(call: Call) -> Json:
    """Change it before it is confirmed; notes at any time."""
    row, params = call.row("payment_intent"), call.params
    params.ignore(*_WITHOUT_EFFECT)
    values: dict[str, Any] = {
        "amount": amount(params, required=False), "currency": currency(call, params, required=False),
        "customer_id": own_customer(call, params), "capture_method": params.text("capture_method", choices=_CAPTURE)}
    notes = _notes(params, row)
    method = given_method(call, params)
    params.end()
    method = _usable(call, method, values["customer_id"] or row["customer_id"])
    values["payment_method_id"] = method.id if method else None
    values = {name: value for name, value in values.items() if value is not None}
    if values:
        remarks.change_intent(call.conn, account_id=call.account, intent_id=row["id"], values=values)
    subject = row["customer_id"] or row["id"]
    remarks.annotate_intent(call.conn, call.ring, intent_id=row["id"], subject=subject, values=notes)
    return call.show("payment_intent", row["id"])


@router.reads("/v1/payment_intents")
def listing(call: Call) -> Json:
    """Payment intents, newest first."""
    return call.list("payment_intent", "customer")


def _notes(params: Params, row: dict[str, Any] | None) -> dict[str, Any]:
    """What stands beside an intent: sealed texts and metadata."""
    notes = texts(params, "description", "receipt_email")
    if params.given("metadata"):
        notes["metadata"] = merged_metadata(params, row["metadata"] if row else None)
    for name, choices in (("setup_future_usage", ("off_session", "on_session")),
                          ("confirmation_method", ("automatic", "manual"))):
        if params.given(name):
            notes[name] = params.text(name, choices=choices)
    return notes


def _usable(call: Call, method: Method | None, customer: str | None) -> Method | None:
    """The method, which is the payer's: one of nobody becomes the payer's with its first payment."""
    if method is None:
        return None
    if method.detached:
        raise ApiError(400, "The payment method was detached and cannot be used again: create a new one.",
                       code="payment_method_unexpected_state", param="payment_method")
    if method.customer_id is not None and method.customer_id != customer:
        raise ApiError(400, "The payment method belongs to a customer: name that customer.", param="customer")
    if customer is not None and method.customer_id is None:
        payers.attach_method(call.conn, account_id=call.account, method=method, customer_id=customer)
        call.after.append(lambda: call.lookups.changed("payment_methods"))
    return method


def _asked(does: Behaviour) -> dict[str, Any]:
    """What the card network and our rules say of an attempt."""
    outcome = "blocked" if does.blocked else None
    return {"declined": does.declined, "outcome": outcome, "risk_level": does.risk_level, "risk_score": does.risk_score}


def _outcome(call: Call, made: payments.Payment, does: Behaviour | None, subject: str, notes: dict[str, Any]) -> Json:
    """The intent after the attempt; what its card brings about later comes about now."""
    if made.charge_id and notes:
        remarks.annotate_charge(call.conn, call.ring, charge_id=made.charge_id, subject=subject, values=notes)
    if made.failure_code is not None:
        code, decline_code, message = decline(made.failure_code)
        intent = call.show("payment_intent", made.payment_intent_id)
        more = {"charge": made.charge_id, "decline_code": decline_code, "payment_intent": intent}
        return call.decline(ApiError(402, message, kind="card_error", code=code, more=more))
    if made.status == "succeeded" and does is not None and not made.replayed:
        _aftermath(call, made, does)
    return call.show("payment_intent", made.payment_intent_id)


def _aftermath(call: Call, made: payments.Payment, does: Behaviour) -> None:
    if does.dispute:
        charge = call.row("charge", made.charge_id)
        status = "warning_needs_response" if does.inquiry else "needs_response"
        disputes.create_dispute(
            call.conn, charge_id=made.charge_id, amount=charge["amount_captured"], currency=charge["currency"],
            reason=does.dispute, status=status)
    if does.warning:
        disputes.record_early_fraud_warning(call.conn, charge_id=made.charge_id,
                                            fraud_type="made_with_stolen_card")
