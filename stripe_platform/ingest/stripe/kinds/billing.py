"""Catalogue and billing: products and prices, subscriptions, bills and what reduces them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.spec import (
    ACCOUNT,
    CREATED,
    LIVEMODE,
    METADATA,
    Child,
    Field,
    Json,
    Kind,
    Rule,
    at,
    currency,
    flag,
    ident,
    money,
    of,
    ref,
    sealed,
    state,
    text,
    word,
)  # fmt: skip

_NOT_NEGATIVE = values.minor_decimal

PRODUCT = Kind(
    "product", "products", (
        ACCOUNT, text("name"), word("type"), flag("active", default=True),
        ident("tax_code"), text("unit_label"), flag("shippable"), text("url"), text("statement_descriptor"),
        ref("default_price_id", "prices"), METADATA, LIVEMODE, CREATED,
    ),
    known=("updated",),
)  # fmt: skip

_OPTIONS = Child("price_currency_options", "price_id", (
    money("unit_amount"), of("unit_amount_decimal", values.any_decimal), word("tax_behavior"),
), at="currency_options", each="map", number="currency")  # fmt: skip


def _tiers(amount: str) -> Child:
    return Child("price_tiers", "price_id", (
        of("up_to", values.whole(1, values.MAX_MINOR)), money("unit_amount", amount, signed=True),
        money("flat_amount", signed=True), of("unit_amount_decimal", values.any_decimal, f"{amount}_decimal"),
        of("flat_amount_decimal", values.any_decimal),
    ), at="tiers", each="list")  # fmt: skip


def _price_columns(amount: str, recurring: str) -> tuple[Field, ...]:
    return (
        ref("product_id", "products", "product", "@product", sticky=True), flag("active", default=True),
        currency("currency"), of("billing_scheme", values.one_of("per_unit", "tiered")), money("unit_amount", amount),
        of("unit_amount_decimal", _NOT_NEGATIVE, f"{amount}_decimal"),
        of("recurring_interval", values.one_of("day", "month", "week", "year"), f"{recurring}interval"),
        of("recurring_interval_count", values.positive, f"{recurring}interval_count"),
        of("usage_type", values.one_of("licensed", "metered"), f"{recurring}usage_type"),
        of("tiers_mode", values.one_of("graduated", "volume")), text("nickname", "nickname", "name"),
        of("trial_period_days", values.count, f"{recurring}trial_period_days"), METADATA, LIVEMODE, CREATED,
    )  # fmt: skip


PRICE = Kind(
    "price", "prices", (
        *_price_columns("unit_amount", "recurring."), of("type", values.one_of("one_time", "recurring")),
        word("tax_behavior"), text("lookup_key"), flag("legacy_plan", "$plan", default=False),
    ),
    children=(_tiers("unit_amount"), _OPTIONS), derive=lambda _obj, _context: {"plan": False},
)  # fmt: skip
PLAN = Kind(
    "plan", "prices", (
        *_price_columns("amount", ""), word("type", "$type"), flag("legacy_plan", "$plan", default=True),
    ),
    children=(_tiers("unit_amount"),), derive=lambda _obj, _context: {"plan": True, "type": "recurring"}, preference=0,
)  # fmt: skip

COUPON = Kind(
    "coupon", "coupons", (
        ACCOUNT, text("name"), of("duration", values.one_of("forever", "once", "repeating", "variable")),
        of("duration_in_months", values.positive),
        of("percent_off", values.percent, "percent_off_precise", "percent_off"), money("amount_off"),
        currency("currency"), of("max_redemptions", values.count), of("times_redeemed", values.count),
        at("redeem_by"), flag("valid"), METADATA, LIVEMODE, CREATED,
    ),
    rules=(Rule("amount_off_has_currency", "an amount is taken off in no currency that is known",
                lambda row: row["amount_off"] is None or row["currency"] is not None),),
    key=values.coupon_id, grows=("times_redeemed",),
)  # fmt: skip
PROMOTION_CODE = Kind(
    "promotion_code", "promotion_codes", (
        ref("coupon_id", "coupons", "coupon", "promotion.coupon", convert=values.coupon_id),
        ref("customer_id", "customers"), text("code"), flag("active"), of("max_redemptions", values.count),
        of("times_redeemed", values.count), at("expires_at"), METADATA, LIVEMODE, CREATED,
    ),
    deletable=False, grows=("times_redeemed",),
)  # fmt: skip


def _inside(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _discount_id(obj: Json, context: Mapping[str, Any]) -> Any:
    """Until 2020 a discount had no id: its place is its name, for there was one discount a place."""
    if obj.get("id"):
        return obj["id"]
    for place in ("subscription", "customer"):
        found = values.ident(obj.get(place) or context.get(place), place)
        if found:
            return f"discount:{found}"
    return _gone(obj) if obj.get("deleted") is True else None


def _gone(obj: Json) -> str:
    """The answer to a deletion that says not whose discount it was: a tombstone, one for all that say the same."""
    coupon = obj.get("coupon") or _inside(obj.get("source")).get("coupon")
    said = [values.coupon_id(coupon, "coupon"), values.ident(obj.get("promotion_code"), "promotion_code"),
            *(t if isinstance(t, int) else None for t in (obj.get("start"), obj.get("end")))]  # fmt: skip
    if not any(part is not None for part in said):
        return "discount:gone"
    return f"discount:gone:{hashlib.sha256(values.dumps(said).encode()).hexdigest()[:32]}"


DISCOUNT = Kind(
    "discount", "discounts", (
        ref("coupon_id", "coupons", "coupon", "source.coupon", convert=values.coupon_id),
        ref("promotion_code_id", "promotion_codes"), ref("customer_id", "customers", "customer", "@customer"),
        ref("subscription_id", "subscriptions"), ref("subscription_item_id", "subscription_items"),
        ref("invoice_id", "invoices"), ref("invoice_item_id", "invoice_items"), at("start"), at("ends", "end"),
    ),
    id=_discount_id,
)  # fmt: skip


def _subscription(obj: Json, _context: Mapping[str, Any]) -> Json:
    pause = obj.get("pause_collection")
    return {"pause": pause if isinstance(pause, dict) else {}}


SUBSCRIPTION = Kind(
    "subscription", "subscriptions", (
        ACCOUNT, ref("customer_id", "customers", "customer", "@customer"),
        ref("default_payment_method_id", "payment_methods", "default_payment_method", "default_source"),
        ref("latest_invoice_id", "invoices"),
        state("status", "active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing",
              "unpaid"),
        word("collection_method", "collection_method", "billing"), currency("currency", "currency", "plan.currency"),
        at("billing_cycle_anchor"), at("start_date", "start_date", "start"), at("trial_start"), at("trial_end"),
        at("cancel_at"), flag("cancel_at_period_end", default=False), at("canceled_at"), at("ended_at"),
        word("cancellation_reason", "cancellation_details.reason"),
        word("cancellation_feedback", "cancellation_details.feedback"),
        word("pause_behavior", "pause_collection.behavior"),
        at("resumes_at", "pause_collection.resumes_at"), of("days_until_due", values.count), sealed("description"),
        METADATA, LIVEMODE, of("created", values.instant, "created", "start_date", "start"),
    ),
    deletable=False, known=("current_period_start", "current_period_end"),
    order=("incomplete", "trialing", "active", "past_due", "paused", "unpaid", "canceled", "incomplete_expired"),
)  # fmt: skip
SUBSCRIPTION_ITEM = Kind(
    "subscription_item", "subscription_items", (
        ref("subscription_id", "subscriptions", "subscription", "@subscription", sticky=True),
        ref("price_id", "prices", "price", "plan"), of("quantity", values.quantity),
        at("current_period_start", "current_period_start", "@current_period_start"),
        at("current_period_end", "current_period_end", "@current_period_end"), METADATA, CREATED,
    ),
)  # fmt: skip


_BILLED_FOR = ("subscription", "parent.subscription_details.subscription")


def _invoice(obj: Json, _context: Mapping[str, Any]) -> Json:
    """The state where old versions only had flags, and the taxes in either of their two forms."""
    found = obj.get("status")
    if found is None:
        found = "paid" if obj.get("paid") is True else "uncollectible" if obj.get("forgiven") is True else None
    who = {name: obj.get(f"customer_{name}") for name in ("name", "email", "phone", "address", "shipping")}
    taxes = []
    for old in _dicts(obj.get("total_tax_amounts")):
        taxes.append({name: old.get(name) for name in ("amount", "inclusive", "tax_rate", "taxable_amount")})
    for new in _dicts(obj.get("total_taxes")):
        details = new.get("tax_rate_details")
        taxes.append({"amount": new.get("amount"), "taxable_amount": new.get("taxable_amount"),
                      "inclusive": {"inclusive": True, "exclusive": False}.get(str(new.get("tax_behavior"))),
                      "tax_rate": details.get("tax_rate") if isinstance(details, dict) else None})  # fmt: skip
    return {"status": found, "customer": {k: v for k, v in who.items() if v is not None}, "taxes": taxes}


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


INVOICE = Kind(
    "invoice", "invoices", (
        ACCOUNT, ref("customer_id", "customers"),
        ref("subscription_id", "subscriptions", *_BILLED_FOR),
        text("number"), of("status", values.one_of("draft", "open", "paid", "uncollectible", "void"), "$status"),
        word("billing_reason"), word("collection_method", "collection_method", "billing"), currency("currency"),
        money("amount_due", signed=True), money("amount_paid", signed=True), money("amount_remaining", signed=True),
        money("amount_overpaid", signed=True), money("subtotal", signed=True), money("tax", signed=True),
        money("total", signed=True), money("starting_balance", signed=True), money("ending_balance", signed=True),
        of("attempt_count", values.count), flag("attempted"), flag("auto_advance"), at("next_payment_attempt"),
        at("due_date"), at("period_start"), at("period_end"),
        at("finalized_at", "status_transitions.finalized_at", "finalized_at"),
        at("paid_at", "status_transitions.paid_at"), at("voided_at", "status_transitions.voided_at"),
        at("marked_uncollectible_at", "status_transitions.marked_uncollectible_at"), sealed("customer", "$customer"),
        sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
    children=(
        Child("invoice_taxes", "invoice_id", (
            ref("tax_rate_id", "tax_rates"), money("amount", signed=True), flag("inclusive"),
            money("taxable_amount", signed=True),
        ), at="$taxes", each="list"),
    ),
    derive=_invoice, order=("draft", "open", "uncollectible", "void", "paid"), grows=("amount_paid", "attempt_count"),
    preview="invoice as preview",
    known=("status", "paid", "closed", "forgiven", "customer_name", "customer_email", "customer_phone",
           "customer_address", "customer_shipping", "total_tax_amounts", "total_taxes"),
)  # fmt: skip



def _preview_id(obj: Json, _context: Mapping[str, Any]) -> Any:
    """One bill is foreseen a subscription, or a payer without one; of several looks at it the newest shows."""
    details = _inside(_inside(obj.get("parent")).get("subscription_details"))
    whose = (values.ident(obj.get("subscription"), "subscription")
             or values.ident(details.get("subscription"), "subscription")
             or values.ident(obj.get("customer"), "customer"))  # fmt: skip
    return f"upcoming:{whose}" if whose else None


INVOICE_PREVIEW = Kind(
    INVOICE.preview, "invoice_previews", (
        ACCOUNT, ref("customer_id", "customers"), ref("subscription_id", "subscriptions", *_BILLED_FOR),
        currency("currency"), money("amount_due", signed=True), money("subtotal", signed=True),
        money("tax", signed=True), money("total", signed=True), money("starting_balance", signed=True),
        money("ending_balance", signed=True), at("next_payment_attempt"), at("period_start"), at("period_end"),
        LIVEMODE, CREATED,
    ),
    id=_preview_id, deletable=False,
)  # fmt: skip

_PRICED = ("price", "pricing.price_details.price", "plan")
INVOICE_ITEM = Kind(
    "invoiceitem", "invoice_items", (
        ref("customer_id", "customers"), ref("invoice_id", "invoices"),
        ref("subscription_id", "subscriptions", *_BILLED_FOR),
        ref("price_id", "prices", *_PRICED), money("amount", signed=True), currency("currency"),
        of("quantity", values.quantity), flag("proration"), at("period_start", "period.start"),
        at("period_end", "period.end"), sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
)  # fmt: skip


def _line_id(obj: Json, context: Mapping[str, Any]) -> Any:
    """Old lines bear the id of their item or subscription, on every bill anew: the bill makes it unique."""
    if obj.get("unique_id"):
        return obj["unique_id"]
    own = obj.get("id")
    invoice = values.ident(obj.get("invoice") or context.get("invoice"), "invoice")
    if own and invoice and own in (obj.get("subscription"), obj.get("invoice_item"), obj.get("subscription_item")):
        return f"{invoice}:{own}"
    return own


INVOICE_LINE = Kind(
    "line_item", "invoice_lines", (
        ref("invoice_id", "invoices", "invoice", "@invoice", sticky=True),
        ref("subscription_item_id", "subscription_items", "subscription_item",
            "parent.subscription_item_details.subscription_item"),
        ref("invoice_item_id", "invoice_items", "invoice_item", "parent.invoice_item_details.invoice_item"),
        ref("price_id", "prices", *_PRICED), word("type", "type", "parent.type"), money("amount", signed=True),
        money("subtotal", signed=True), currency("currency"), of("quantity", values.quantity),
        flag("proration", "proration", "parent.subscription_item_details.proration",
             "parent.invoice_item_details.proration"),
        flag("discountable"), at("period_start", "period.start"), at("period_end", "period.end"), sealed("description"),
        METADATA, LIVEMODE,
    ),
    id=_line_id, deletable=False, known=("subscription", "unique_id"),
)  # fmt: skip


def _invoice_payment(obj: Json, _context: Mapping[str, Any]) -> Json:
    payment = obj.get("payment")
    return {"payment": payment if isinstance(payment, dict) else {}}


INVOICE_PAYMENT = Kind(
    "invoice_payment", "invoice_payments", (
        ref("invoice_id", "invoices"), ref("payment_intent_id", "payment_intents", "payment.payment_intent"),
        ref("charge_id", "charges", "payment.charge"), ident("payment_record", "payment.payment_record"),
        word("type", "payment.type"), money("amount_requested"), money("amount_paid"), currency("currency"),
        flag("is_default"), word("status"), at("paid_at", "status_transitions.paid_at"),
        at("canceled_at", "status_transitions.canceled_at"), LIVEMODE, CREATED,
    ),
    deletable=False, order=("open", "canceled", "paid"),
)  # fmt: skip

TAX_RATE = Kind(
    "tax_rate", "tax_rates", (
        text("display_name"), of("percentage", values.percent), of("effective_percentage", values.percent),
        flag("inclusive"), flag("active"), word("country"), word("state"), text("jurisdiction"), word("tax_type"),
        METADATA, LIVEMODE, CREATED,
    ),
    deletable=False, known=("description",),
)  # fmt: skip


def _credit_note(obj: Json, _context: Mapping[str, Any]) -> Json:
    refunds = _dicts(obj.get("refunds"))
    return {"refund": obj.get("refund") or (refunds[0].get("refund") if refunds else None)}


CREDIT_NOTE = Kind(
    "credit_note", "credit_notes", (
        ref("invoice_id", "invoices"), ref("customer_id", "customers"), ref("refund_id", "refunds", "$refund"),
        text("number"), word("type"), word("reason"), state("status", "issued", "void"), money("amount", signed=True),
        money("subtotal", signed=True), money("total", signed=True), money("discount_amount", signed=True),
        money("out_of_band_amount", signed=True), currency("currency"), at("voided_at"), sealed("memo"), METADATA,
        LIVEMODE, CREATED,
    ),
    derive=_credit_note, known=("refund", "refunds"), deletable=False, order=("issued", "void"),
)  # fmt: skip
CREDIT_NOTE_LINE = Kind(
    "credit_note_line_item", "credit_note_lines", (
        ref("credit_note_id", "credit_notes", "credit_note", "@credit_note", sticky=True),
        ref("invoice_line_id", "invoice_lines", "invoice_line_item"), word("type"), money("amount", signed=True),
        money("discount_amount", signed=True), of("quantity", values.quantity), money("unit_amount", signed=True),
        sealed("description"), LIVEMODE,
    ),
    deletable=False,
)  # fmt: skip

TAX_ID = Kind(
    "tax_id", "tax_ids", (
        ref("customer_id", "customers", "customer", "owner.customer", "@customer", sticky=True), word("type"),
        word("country"), sealed("value"), word("verification_status", "verification.status"), LIVEMODE, CREATED,
    ),
)  # fmt: skip
CUSTOMER_BALANCE_TRANSACTION = Kind(
    "customer_balance_transaction", "customer_balance_transactions", (
        ref("customer_id", "customers"), ref("invoice_id", "invoices"), ref("credit_note_id", "credit_notes"),
        word("type"), money("amount", signed=True), money("ending_balance", signed=True), currency("currency"),
        sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
    deletable=False,
)  # fmt: skip

KINDS = (
    PRODUCT, PRICE, PLAN, COUPON, PROMOTION_CODE, DISCOUNT, SUBSCRIPTION, SUBSCRIPTION_ITEM, INVOICE, INVOICE_PREVIEW,
    INVOICE_ITEM, INVOICE_LINE, INVOICE_PAYMENT, TAX_RATE, CREDIT_NOTE, CREDIT_NOTE_LINE, TAX_ID,
    CUSTOMER_BALANCE_TRANSACTION,
)  # fmt: skip
