"""Risk: disputes, warnings, reviews, evaluations and lists."""

from __future__ import annotations

from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.spec import (
    CREATED,
    LIVEMODE,
    METADATA,
    Child,
    Kind,
    at,
    currency,
    flag,
    money,
    of,
    ref,
    sealed,
    state,
    text,
    word,
)  # fmt: skip

DISPUTE = Kind(
    "dispute", "disputes", (
        ref("charge_id", "charges", "charge", "@charge", sticky=True), ref("payment_intent_id", "payment_intents"),
        money("amount"), currency("currency"),
        state("status", "appeal_needs_response", "appeal_under_review", "charge_refunded", "lost", "needs_response",
              "prevented", "under_review", "warning_closed", "warning_needs_response", "warning_under_review", "won"),
        word("reason", default="general"),
        word("case_type", "payment_method_details.card.case_type"),
        text("network_reason_code", "payment_method_details.card.network_reason_code", "network_reason_code"),
        at("evidence_due_by", "evidence_details.due_by", "evidence_due_by"),
        flag("evidence_has", "evidence_details.has_evidence"), flag("evidence_past_due", "evidence_details.past_due"),
        of("evidence_submissions", values.count, "evidence_details.submission_count"), flag("is_charge_refundable"),
        METADATA, LIVEMODE, CREATED,
    ),
    deletable=False, known=("evidence",), grows=("evidence_submissions",),
    order=("warning_needs_response", "warning_under_review", "warning_closed", "needs_response", "under_review",
           "appeal_needs_response", "appeal_under_review", "charge_refunded", "prevented", "lost", "won"),
)  # fmt: skip

_FRAUD_TYPES = ("card_never_received", "fraudulent_card_application", "made_with_counterfeit_card",
                "made_with_lost_card", "made_with_stolen_card", "misc", "unauthorized_use_of_card")  # fmt: skip
_WARNING = (
    ref("charge_id", "charges"), ref("payment_intent_id", "payment_intents"), state("fraud_type", *_FRAUD_TYPES),
    flag("actionable"), LIVEMODE, CREATED,
)
EARLY_FRAUD_WARNING = Kind("radar.early_fraud_warning", "early_fraud_warnings", _WARNING, deletable=False)
ISSUER_FRAUD_RECORD = Kind("issuer_fraud_record", "early_fraud_warnings", _WARNING, deletable=False, preference=0)

REVIEW = Kind(
    "review", "reviews", (
        ref("charge_id", "charges"), ref("payment_intent_id", "payment_intents"), flag("open"), word("opened_reason"),
        word("closed_reason"), word("reason"), sealed("ip", "ip_address"),
        word("ip_country", "ip_address_location.country"), text("ip_region", "ip_address_location.region"),
        text("ip_city", "ip_address_location.city"), text("session_browser", "session.browser"),
        text("session_device", "session.device"), text("session_platform", "session.platform"), sealed("billing_zip"),
        LIVEMODE, CREATED,
    ),
    deletable=False, known=("ip_address_location.latitude", "ip_address_location.longitude"),
)  # fmt: skip

PAYMENT_EVALUATION = Kind(
    "radar.payment_evaluation", "payment_evaluations", (
        word("action", "recommended_action", "action"), word("outcome", "$outcome"), LIVEMODE,
        at("created", "created", "created_at"),
    ),
    children=(
        Child("payment_evaluation_signals", "payment_evaluation_id", (
            of("score", values.percent), word("risk_level"), at("evaluated_at", "evaluated_at", "at"),
        ), at="signals", each="map", number="name"),
    ),
    derive=lambda obj, _context: {"outcome": _type_of(obj.get("outcome"))}, known=("outcome",), deletable=False,
)  # fmt: skip


def _type_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else value


VALUE_LIST = Kind(
    "radar.value_list", "value_lists", (
        text("alias"), text("name"), word("item_type"), sealed("created_by"), METADATA, LIVEMODE, CREATED,
    ),
)  # fmt: skip
VALUE_LIST_ITEM = Kind(
    "radar.value_list_item", "value_list_items", (
        ref("value_list_id", "value_lists", "value_list", "@radar.value_list", sticky=True), sealed("value"),
        sealed("created_by"), LIVEMODE, CREATED,
    ),
)  # fmt: skip

KINDS = (DISPUTE, EARLY_FRAUD_WARNING, ISSUER_FRAUD_RECORD, REVIEW, PAYMENT_EVALUATION, VALUE_LIST, VALUE_LIST_ITEM)
