"""Rows in the shape of Stripe's objects, API version 2026-10-28.endive: one function per object, nothing but shape."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any

from stripe_platform.api.errors import decline
from stripe_platform.keyring import Keyring

API_VERSION = "2026-10-28.endive"
Row = Mapping[str, Any]
Json = dict[str, Any]

_LETTERS = "abcdefghijklmnop"
_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
_SELLER = {
    "authorized": "Payment complete.", "blocked": "The payment was blocked.", "invalid": "The payment was invalid.",
    "issuer_declined": "The bank did not return any further details with this decline.",
    "manual_review": "The payment is in manual review.",
}  # fmt: skip
_WON = ("won", "lost", "prevented", "warning_closed", "charge_refunded")
_EVIDENCE = """access_activity_log billing_address cancellation_policy cancellation_policy_disclosure
cancellation_rebuttal customer_communication customer_email_address customer_name customer_purchase_ip
customer_signature duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id product_description
receipt refund_policy refund_policy_disclosure refund_refusal_explanation service_date service_documentation
shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number uncategorized_file
uncategorized_text""".split()


def unix(instant: dt.datetime | None) -> int | None:
    """Whole seconds of an instant."""
    return None if instant is None else int(instant.timestamp())


def letters(ring: Keyring, namespace: str, text: str, length: int) -> str:
    """A stable name without digits that only the key ring's holder can make."""
    raw = ring.mac(namespace, text.encode())
    return "".join(_LETTERS[byte >> 4] + _LETTERS[byte & 15] for byte in raw)[:length]


def client_secret(ring: Keyring, intent_id: str) -> str:
    """What a payer's browser may confirm an intent with."""
    return f"{intent_id}_secret_{letters(ring, 'client_secret', intent_id, 24)}"


def _map(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def _address(text: str | None) -> Json | None:
    found = _map(text)
    return {name: found.get(name) for name in _ADDRESS} if found else None


def _billing(row: Row, prefix: str = "") -> Json:
    return {
        "address": _address(row[f"{prefix}address"]) or dict.fromkeys(_ADDRESS), "email": row[f"{prefix}email"],
        "name": row[f"{prefix}name"], "phone": row[f"{prefix}phone"], "tax_id": None,
    }  # fmt: skip


def _print(ring: Keyring, row: Row) -> str | None:
    """A card's fingerprint as this merchant sees it: the same card reads otherwise at another's."""
    token = row["card_fingerprint"]
    return letters(ring, "fingerprint", f"{row['account_id']} {token}", 16) if token else None


def customer(row: Row, _ring: Keyring) -> Json:
    if row["deleted"]:
        return {"id": row["id"], "object": "customer", "deleted": True}
    return {
        "id": row["id"], "object": "customer", "address": _address(row["address"]), "balance": row["balance"],
        "created": unix(row["created"]), "currency": row["currency"], "default_source": None,
        "delinquent": row["delinquent"], "description": row["description"], "discount": None, "email": row["email"],
        "invoice_prefix": row["invoice_prefix"],
        "invoice_settings": {"custom_fields": None, "default_payment_method": row["default_payment_method_id"],
                             "footer": None, "rendering_options": None},
        "livemode": row["livemode"], "metadata": _map(row["metadata"]), "name": row["name"], "phone": row["phone"],
        "preferred_locales": [], "shipping": None, "tax_exempt": row["tax_exempt"] or "none", "test_clock": None,
    }  # fmt: skip


def payment_method(row: Row, ring: Keyring) -> Json:
    shown = {
        "id": row["id"], "object": "payment_method", "allow_redisplay": row["allow_redisplay"] or "unspecified",
        "billing_details": _billing(row), "created": unix(row["created"]),
        "customer": None if row["detached"] else row["customer_id"], "livemode": row["livemode"],
        "metadata": _map(row["metadata"]), "type": row["type"],
    }  # fmt: skip
    if row["type"] == "card":
        shown["card"] = {
            "brand": row["card_brand"], "checks": {
                "address_line1_check": row["address_line1_check"],
                "address_postal_code_check": row["address_postal_code_check"], "cvc_check": row["cvc_check"]},
            "country": row["card_country"], "display_brand": row["card_brand"], "exp_month": row["card_exp_month"],
            "exp_year": row["card_exp_year"], "fingerprint": _print(ring, row), "funding": row["card_funding"],
            "generated_from": None, "last4": row["card_last4"],
            "networks": {"available": [row["card_brand"]], "preferred": None}, "regulated_status": None,
            "three_d_secure_usage": {"supported": bool(row["three_d_secure_supported"])}, "wallet": None,
        }  # fmt: skip
    return shown


def payment_intent(row: Row, ring: Keyring) -> Json:
    status = row["status"]
    error = None
    if status == "requires_payment_method" and row["charge_failure_code"]:
        code, decline_code, message = decline(row["charge_failure_code"])
        error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": message,
                 "charge": row["latest_charge_id"]}  # fmt: skip
    waits = status == "requires_action"
    return {
        "id": row["id"], "object": "payment_intent", "amount": row["amount"],
        "amount_capturable": row["charge_amount"] or 0 if status == "requires_capture" else 0,
        "amount_details": {"tip": {}}, "amount_received": row["amount_received"], "application": None,
        "application_fee_amount": row["application_fee_amount"], "automatic_payment_methods": None,
        "canceled_at": unix(row["canceled_at"]), "cancellation_reason": row["cancellation_reason"],
        "capture_method": row["capture_method"], "client_secret": client_secret(ring, row["id"]),
        "confirmation_method": row["confirmation_method"] or "automatic", "created": unix(row["created"]),
        "currency": row["currency"], "customer": row["customer_id"], "description": row["description"],
        "excluded_payment_method_types": None, "last_payment_error": error, "latest_charge": row["latest_charge_id"],
        "livemode": row["livemode"], "metadata": _map(row["metadata"]),
        "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        if waits else None,
        "on_behalf_of": row["on_behalf_of_id"],
        # A declined card is taken off the intent: it waits for another.
        "payment_method": None if status == "requires_payment_method" else row["payment_method_id"],
        "payment_method_configuration_details": None, "payment_method_options": {}, "payment_method_types": ["card"],
        "processing": None, "receipt_email": row["receipt_email"], "review": row["review_id"],
        "setup_future_usage": row["setup_future_usage"], "shipping": None, "source": None,
        "statement_descriptor": None, "statement_descriptor_suffix": None, "status": status, "transfer_data": None,
        "transfer_group": row["transfer_group"],
    }  # fmt: skip


def charge(row: Row, ring: Keyring) -> Json:
    failed = row["failure_code"]
    code, _, message = decline(failed) if failed else (None, None, None)
    outcome = None
    if row["outcome_type"]:
        outcome = {
            "advice_code": None, "network_advice_code": None, "network_decline_code": None,
            "network_status": row["network_status"], "reason": row["reason"], "risk_level": row["risk_level"],
            "risk_score": row["risk_score"], "seller_message": _SELLER.get(row["outcome_type"]),
            "type": row["outcome_type"],
        }  # fmt: skip
    details = None
    if row["method_type"] == "card":
        details = {"type": "card", "card": {
            "amount_authorized": row["amount"] if row["status"] == "succeeded" else None, "brand": row["card_brand"],
            "checks": None, "country": row["card_country"], "exp_month": row["card_exp_month"],
            "exp_year": row["card_exp_year"], "fingerprint": _print(ring, row), "funding": row["card_funding"],
            "installments": None, "last4": row["card_last4"], "mandate": None, "network": row["card_brand"],
            "three_d_secure": None, "wallet": None}}
    return {
        "id": row["id"], "object": "charge", "amount": row["amount"], "amount_captured": row["amount_captured"],
        "amount_refunded": row["amount_refunded"], "application": None, "application_fee": row["application_fee_id"],
        "application_fee_amount": row["application_fee_amount"],
        "balance_transaction": row["balance_transaction_id"], "billing_details": _billing(row, "m_"),
        "calculated_statement_descriptor": row["statement_descriptor"],
        "captured": row["amount_captured"] > 0 if row["captured"] is None else row["captured"],
        "created": unix(row["created"]), "currency": row["currency"], "customer": row["customer_id"],
        "description": row["description"], "disputed": row["disputed"],
        "failure_balance_transaction": row["failure_balance_transaction_id"], "failure_code": code,
        "failure_message": row["failure_message"] or message, "fraud_details": {}, "livemode": row["livemode"],
        "metadata": _map(row["metadata"]), "on_behalf_of": row["on_behalf_of_id"], "outcome": outcome,
        "paid": row["status"] == "succeeded" if row["paid"] is None else row["paid"],
        "payment_intent": row["payment_intent_id"], "payment_method": row["payment_method_id"],
        "payment_method_details": details, "radar_options": {}, "receipt_email": row["receipt_email"],
        "receipt_number": None, "receipt_url": None,
        "refunded": 0 < row["amount_captured"] == row["amount_refunded"], "review": row["review_id"], "shipping": None,
        "source": None, "source_transfer": None, "statement_descriptor": row["statement_descriptor"],
        "statement_descriptor_suffix": None, "status": row["status"], "transfer_data": None,
        "transfer_group": row["transfer_group"],
    }  # fmt: skip


def refund(row: Row, _ring: Keyring) -> Json:
    shown = {
        "id": row["id"], "object": "refund", "amount": row["amount"],
        "balance_transaction": row["balance_transaction_id"], "charge": row["charge_id"],
        "created": unix(row["created"]), "currency": row["currency"],
        "destination_details": {"type": "card", "card": {"type": "refund", "reference_status": "pending",
                                                         "reference_type": "acquirer_reference_number"}},
        "metadata": _map(row["metadata"]), "payment_intent": row["payment_intent_id"], "reason": row["reason"],
        "receipt_number": None, "source_transfer_reversal": None, "status": row["status"], "transfer_reversal": None,
    }  # fmt: skip
    if row["failure_reason"]:
        shown["failure_reason"] = row["failure_reason"]
    if row["failure_balance_transaction_id"]:
        shown["failure_balance_transaction"] = row["failure_balance_transaction_id"]
    return shown


def dispute(row: Row, _ring: Keyring) -> Json:
    due = row["evidence_due_by"] or row["created"] + dt.timedelta(days=7)
    open_ = row["status"] not in _WON
    return {
        "id": row["id"], "object": "dispute", "amount": row["amount"],
        "balance_transactions": row["movements"] or [], "charge": row["charge_id"], "created": unix(row["created"]),
        "currency": row["currency"], "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": unix(due) if open_ else None, "enhanced_eligibility": {},
            "has_evidence": bool(row["evidence_has"]),
            "past_due": due < dt.datetime.now(dt.UTC) if row["evidence_past_due"] is None else row["evidence_past_due"],
            "submission_count": row["evidence_submissions"] or 0},
        "is_charge_refundable": row["status"].startswith("warning_") and not row["charge_refunded"]
        if row["is_charge_refundable"] is None else row["is_charge_refundable"],
        "livemode": row["livemode"], "metadata": _map(row["metadata"]), "payment_intent": row["payment_intent_id"],
        "payment_method_details": {"type": "card", "card": {
            "brand": row["card_brand"], "case_type": row["case_type"] or "chargeback",
            "network_reason_code": row["network_reason_code"]}},
        "reason": row["reason"], "status": row["status"],
    }  # fmt: skip


def balance_transaction(row: Row, _ring: Keyring) -> Json:
    fees = [{"amount": f["amount"], "application": None, "currency": f["currency"], "description": None,
             "type": f["type"]} for f in row["fee_details"] or []]  # fmt: skip
    return {
        "id": row["id"], "object": "balance_transaction", "amount": row["amount"],
        "available_on": unix(row["available_on"]), "balance_type": row["balance_type"],
        "created": unix(row["created"]), "currency": row["currency"], "description": None,
        "exchange_rate": None if row["exchange_rate"] is None else float(row["exchange_rate"]), "fee": row["fee"],
        "fee_details": fees, "net": row["net"], "reporting_category": row["reporting_category"],
        "source": row["source_id"], "status": row["status"], "type": row["type"],
    }  # fmt: skip


def webhook_endpoint(row: Row, _ring: Keyring) -> Json:
    if row["deleted"]:
        return {"id": row["id"], "object": "webhook_endpoint", "deleted": True}
    return {
        "id": row["id"], "object": "webhook_endpoint", "api_version": row["api_version"], "application": None,
        "created": unix(row["created"]), "description": row["description"], "enabled_events": row["enabled_events"],
        "livemode": row["livemode"], "metadata": _map(row["metadata"]), "status": row["status"], "url": row["url"],
    }  # fmt: skip


def event(row: Row, _ring: Keyring) -> Json:
    """Without its object, which the caller puts in `data`."""
    return {
        "id": row["id"], "object": "event", "api_version": row["api_version"] or API_VERSION,
        "created": unix(row["created"]), "data": {"object": None}, "livemode": row["livemode"],
        "pending_webhooks": row["pending_webhooks"],
        "request": {"id": row["request_id"], "idempotency_key": row["idempotency_key"]}, "type": row["type"],
    }  # fmt: skip


def product(row: Row, _ring: Keyring) -> Json:
    if row["deleted"]:
        return {"id": row["id"], "object": "product", "deleted": True}
    return {
        "id": row["id"], "object": "product", "active": row["active"], "created": unix(row["created"]),
        "default_price": row["default_price_id"], "description": None, "images": [], "livemode": row["livemode"],
        "marketing_features": [], "metadata": _map(row["metadata"]), "name": row["name"], "package_dimensions": None,
        "shippable": row["shippable"], "statement_descriptor": row["statement_descriptor"],
        "tax_code": row["tax_code"], "type": row["type"] or "service", "unit_label": row["unit_label"],
        "updated": unix(row["created"]), "url": row["url"],
    }  # fmt: skip


def price(row: Row, _ring: Keyring) -> Json:
    recurring = None
    if row["type"] == "recurring":
        recurring = {"interval": row["recurring_interval"], "interval_count": row["recurring_interval_count"] or 1,
                     "meter": None, "trial_period_days": row["trial_period_days"],
                     "usage_type": row["usage_type"] or "licensed"}
    decimal = row["unit_amount"] if row["unit_amount_decimal"] is None else row["unit_amount_decimal"]
    return {
        "id": row["id"], "object": "price", "active": row["active"],
        "billing_scheme": row["billing_scheme"] or "per_unit", "created": unix(row["created"]),
        "currency": row["currency"], "custom_unit_amount": None, "livemode": row["livemode"],
        "lookup_key": row["lookup_key"], "metadata": _map(row["metadata"]),
        "nickname": row["nickname"], "product": row["product_id"], "recurring": recurring,
        "tax_behavior": row["tax_behavior"] or "unspecified", "tiers_mode": row["tiers_mode"],
        "transform_quantity": None, "type": row["type"], "unit_amount": row["unit_amount"],
        "unit_amount_decimal": None if decimal is None else str(decimal),
    }  # fmt: skip


def subscription_item(row: Row, _ring: Keyring) -> Json:
    """With the price's id; whoever shows a subscription puts the price in its place."""
    return {
        "id": row["id"], "object": "subscription_item", "billing_thresholds": None, "created": unix(row["created"]),
        "current_period_end": unix(row["current_period_end"]),
        "current_period_start": unix(row["current_period_start"]), "discounts": [],
        "metadata": _map(row["metadata"]), "price": row["price_id"], "quantity": row["quantity"],
        "subscription": row["subscription_id"], "tax_rates": [],
    }  # fmt: skip


def subscription(row: Row, _ring: Keyring) -> Json:
    """Without its items, which the caller fills in."""
    return {
        "id": row["id"], "object": "subscription", "application": None, "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": unix(row["billing_cycle_anchor"] or row["created"]),
        "billing_mode": {"type": "flexible"}, "billing_schedules": [], "billing_thresholds": None,
        "cancel_at": unix(row["cancel_at"]), "cancel_at_period_end": row["cancel_at_period_end"],
        "canceled_at": unix(row["canceled_at"]),
        "cancellation_details": {"comment": None, "feedback": row["cancellation_feedback"],
                                 "reason": row["cancellation_reason"]},
        "collection_method": row["collection_method"] or "charge_automatically", "created": unix(row["created"]),
        "currency": row["currency"], "customer": row["customer_id"], "days_until_due": row["days_until_due"],
        "default_payment_method": row["default_payment_method_id"], "default_source": None, "default_tax_rates": [],
        "description": row["description"], "discounts": [], "ended_at": unix(row["ended_at"]),
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}}, "items": None,
        "latest_invoice": row["latest_invoice_id"], "livemode": row["livemode"], "metadata": _map(row["metadata"]),
        "next_pending_invoice_item_invoice": None, "on_behalf_of": None, "pause_collection": None,
        "payment_settings": {"payment_method_options": None, "payment_method_types": None,
                             "save_default_payment_method": "off"},
        "pending_invoice_item_interval": None, "pending_setup_intent": None, "pending_update": None, "schedule": None,
        "start_date": unix(row["start_date"] or row["created"]), "status": row["status"], "test_clock": None,
        "transfer_data": None, "trial_end": unix(row["trial_end"]),
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": unix(row["trial_start"]),
    }  # fmt: skip


def line_item(row: Row, _ring: Keyring) -> Json:
    parent = None
    if row["subscription_item_id"]:
        parent = {"type": "subscription_item_details", "invoice_item_details": None, "subscription_item_details": {
            "invoice_item": None, "proration": bool(row["proration"]), "proration_details": None,
            "subscription": row["subscription_id"], "subscription_item": row["subscription_item_id"]}}
    elif row["invoice_item_id"]:
        parent = {"type": "invoice_item_details", "subscription_item_details": None, "invoice_item_details": {
            "invoice_item": row["invoice_item_id"], "proration": bool(row["proration"]), "proration_details": None,
            "subscription": None}}
    pricing = None
    if row["price_id"]:
        pricing = {"type": "price_details", "price_details": {"price": row["price_id"], "product": row["product_id"]},
                   "unit_amount_decimal": None if row["unit_amount"] is None else str(row["unit_amount"])}
    return {
        "id": row["id"], "object": "line_item", "amount": row["amount"], "currency": row["currency"],
        "description": row["description"], "discount_amounts": [], "discountable": bool(row["discountable"]),
        "discounts": [], "invoice": row["invoice_id"], "livemode": row["livemode"], "metadata": _map(row["metadata"]),
        "parent": parent, "period": {"start": unix(row["period_start"]), "end": unix(row["period_end"])},
        "pretax_credit_amounts": [], "pricing": pricing, "quantity": row["quantity"],
        "subtotal": row["amount"] if row["subtotal"] is None else row["subtotal"], "taxes": [],
    }  # fmt: skip


def invoice(row: Row, _ring: Keyring) -> Json:
    """Without its lines, which the caller fills in."""
    if row["deleted"]:
        return {"id": row["id"], "object": "invoice", "deleted": True}
    subscribed = None
    if row["subscription_id"]:
        subscribed = {"type": "subscription_details", "quote_details": None,
                      "subscription_details": {"metadata": {}, "subscription": row["subscription_id"]}}
    numbers = {name: row[name] or 0 for name in (
        "amount_due", "amount_overpaid", "amount_paid", "amount_remaining", "attempt_count", "starting_balance",
        "subtotal", "total")}
    return {
        "id": row["id"], "object": "invoice", **numbers, "amount_shipping": 0, "application": None,
        "attempted": bool(row["attempted"]), "auto_advance": row["auto_advance"],
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "provider": None,
                          "status": None},
        "automatically_finalizes_at": None, "billing_reason": row["billing_reason"],
        "collection_method": row["collection_method"] or "charge_automatically", "created": unix(row["created"]),
        "currency": row["currency"], "custom_fields": None, "customer": row["customer_id"], "default_payment_method":
        None, "default_source": None, "default_tax_rates": [], "description": row["description"], "discounts": [],
        "due_date": unix(row["due_date"]), "effective_at": unix(row["finalized_at"]),
        "ending_balance": row["ending_balance"], "footer": None, "from_invoice": None, "hosted_invoice_url": None,
        "invoice_pdf": None, "issuer": {"type": "self"}, "last_finalization_error": None, "latest_revision": None,
        "lines": None, "livemode": row["livemode"], "metadata": _map(row["metadata"]),
        "next_payment_attempt": unix(row["next_payment_attempt"]), "number": row["number"], "on_behalf_of": None,
        "parent": subscribed, "payment_settings": {"default_mandate": None, "payment_method_options": None,
                                                   "payment_method_types": None},
        "period_end": unix(row["period_end"] or row["created"]),
        "period_start": unix(row["period_start"] or row["created"]),
        "post_payment_credit_notes_amount": 0, "pre_payment_credit_notes_amount": 0, "receipt_number": None,
        "rendering": None, "shipping_cost": None, "shipping_details": None, "statement_descriptor": None,
        "status": row["status"],
        "status_transitions": {name: unix(row[name]) for name in (
            "finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")},
        "subtotal_excluding_tax": row["subtotal"], "test_clock": None, "total_discount_amounts": [],
        "total_excluding_tax": (row["total"] or 0) - (row["tax"] or 0), "total_pretax_credit_amounts": [],
        "total_taxes": [], "webhooks_delivered_at": None,
    }  # fmt: skip


SHAPES: dict[str, Callable[[Row, Keyring], Json]] = {
    function.__name__: function for function in (
        balance_transaction, charge, customer, dispute, event, invoice, line_item, payment_intent, payment_method,
        price, product, refund, subscription, subscription_item, webhook_endpoint)
}  # fmt: skip
