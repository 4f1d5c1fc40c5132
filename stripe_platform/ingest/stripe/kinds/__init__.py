"""The kinds we model, by the name Stripe gives them, and in which of them the reference's entities arrive."""

from __future__ import annotations

from stripe_platform.ingest.stripe.kinds import billing, connect, payments, risk
from stripe_platform.ingest.stripe.spec import Kind

ALL: dict[str, Kind] = {
    kind.name: kind for module in (payments, connect, risk, billing) for kind in module.KINDS
}  # fmt: skip
# Kinds that Stripe once named otherwise.
ALIASES = {
    "payment": "charge", "payment_refund": "refund", "reversal": "transfer_reversal",
    "application_fee_refund": "fee_refund", "early_fraud_warning": "radar.early_fraud_warning",
    "value_list": "radar.value_list", "value_list_item": "radar.value_list_item", "invoice_item": "invoiceitem",
    "invoice_line_item": "line_item", "payment_evaluation": "radar.payment_evaluation", "reserve_hold": "reserve.hold",
    "reserve_plan": "reserve.plan", "reserve_release": "reserve.release",
}  # fmt: skip
MODELLED = frozenset(name for name in ALL if " as " not in name)
# One table of the payments reference each; cards, banks and plans are further forms of its entities.
ENTITIES = frozenset({
    "account", "capability", "customer", "payment_method", "mandate", "setup_intent", "payment_intent", "charge",
    "refund", "dispute", "radar.early_fraud_warning", "review", "radar.payment_evaluation", "radar.value_list",
    "radar.value_list_item", "balance_transaction", "payout", "transfer", "transfer_reversal", "application_fee",
    "fee_refund", "topup", "reserve.hold", "reserve.plan", "reserve.release", "customer_balance_transaction",
    "product", "price", "coupon", "promotion_code", "discount", "subscription", "subscription_item", "invoice",
    "invoice_payment", "line_item", "credit_note", "credit_note_line_item", "tax_rate", "tax_id", "event",
    "webhook_endpoint",
})  # fmt: skip


def kind_of(name: str) -> str:
    """Today's name of a kind."""
    return ALIASES.get(name, name)
