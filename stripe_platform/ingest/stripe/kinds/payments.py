"""Payments: charges and intents, what came back of them, and the balance they moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.spec import (
    ACCOUNT,
    CREATED,
    LIVEMODE,
    METADATA,
    Child,
    Json,
    Kind,
    Rule,
    at,
    country,
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

BRANDS = {"american express": "amex", "diners club": "diners", "visa": "visa", "mastercard": "mastercard",
          "discover": "discover", "jcb": "jcb", "unionpay": "unionpay", "unknown": None}  # fmt: skip


def _object(obj: Json, name: str) -> Json:
    found = obj.get(name)
    return found if isinstance(found, dict) else {}


def brand(value: Any, field: str) -> str | None:
    """Brands as they are named today; before 2019 they were written as on the card."""
    name = values.word(value, field)
    return BRANDS.get(name.lower(), name.lower()) if name else None


def address_of(obj: Json) -> Json:
    """The address of a card, which old versions spread over fields."""
    parts = {name: obj.get(f"address_{name}") for name in ("line1", "line2", "city", "state", "zip", "country")}
    return {name: value for name, value in parts.items() if value is not None}


CUSTOMER = Kind(
    "customer", "customers", (
        ACCOUNT, country("country", "address.country", "shipping.address.country"), currency("currency"),
        sealed("name", "name"), sealed("email"), sealed("phone"), sealed("address"), sealed("description"), METADATA,
        flag("delinquent", default=False), money("balance", "balance", "account_balance", signed=True, default=0),
        of("tax_exempt", values.one_of("exempt", "none", "reverse")), text("invoice_prefix"),
        ref("default_payment_method_id", "payment_methods", "invoice_settings.default_payment_method", "default_source",
            "default_card"),
        LIVEMODE, CREATED,
    ),
    rules=(Rule("only_deleted_lack_created", "it does not say when it was created",
                lambda row: row["created"] is not None),),
)  # fmt: skip


def _method(obj: Json, _context: Mapping[str, Any]) -> Json:
    kind = obj.get("type")
    return {"details": obj[kind] if isinstance(kind, str) and isinstance(obj.get(kind), dict) else {}}


def _card_columns(*prefixes: str) -> tuple[Any, ...]:
    def paths(*names: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{name}".lstrip(".") for prefix in prefixes for name in names)

    return (
        of("card_brand", brand, *paths("brand", "type") if "" in prefixes else paths("brand", "display_brand")),
        of("card_last4", values.digits(4, 4), *paths("last4")),
        of("card_exp_month", values.month, *paths("exp_month")), of("card_exp_year", values.year, *paths("exp_year")),
        word("card_funding", *paths("funding")), country("card_country", *paths("country")),
        text("card_fingerprint", *paths("fingerprint")),
    )


PAYMENT_METHOD = Kind(
    "payment_method", "payment_methods", (
        ref("customer_id", "customers", sticky=True), word("type"),
        *_card_columns("card", "card_present", "interac_present"),
        sealed("name", "billing_details.name"), sealed("email", "billing_details.email"),
        sealed("phone", "billing_details.phone"), sealed("address", "billing_details.address"), METADATA,
        word("allow_redisplay"), LIVEMODE, flag("detached", "@detached", default=False), CREATED,
    ),
    children=(
        Child("payment_method_cards", "payment_method_id", (
            of("iin", values.digits(6, 8), "card.iin"), text("issuer", "card.issuer"),
            word("network_preferred", "card.networks.preferred"), word("wallet_type", "card.wallet.type"),
            flag("three_d_secure_supported", "card.three_d_secure_usage.supported"),
            word("cvc_check", "card.checks.cvc_check"), word("address_line1_check", "card.checks.address_line1_check"),
            word("address_postal_code_check", "card.checks.address_postal_code_check"),
        )),
    ),
    deletable=False, preference=2,
)  # fmt: skip


def _source_of_card(obj: Json, _context: Mapping[str, Any]) -> Json:
    return {"address": address_of(obj), "type": "card" if obj.get("object") == "card" else "bank_account"}


_OLD_METHOD = (
    ref("customer_id", "customers", "customer", "@customer", sticky=True), word("type", "$type"),
    sealed("name", "name", "account_holder_name"), sealed("address", "$address"), METADATA,
    flag("detached", "deleted", "@deleted", default=False), of("created", values.instant, "created", "@as_of"),
)  # fmt: skip
CARD_AS_METHOD = Kind(
    "card as payment_method", "payment_methods", (*_OLD_METHOD, *_card_columns("")),
    children=(
        Child("payment_method_cards", "payment_method_id", (
            of("iin", values.digits(6, 8), "iin"), text("issuer"), word("wallet_type", "tokenization_method"),
            word("cvc_check"), word("address_line1_check"), word("address_postal_code_check", "address_zip_check"),
        )),
    ),
    derive=_source_of_card, deletable=False, preference=0,
)  # fmt: skip
BANK_AS_METHOD = Kind(
    "bank_account as payment_method", "payment_methods", _OLD_METHOD,
    derive=_source_of_card, deletable=False, preference=0,
)  # fmt: skip
SOURCE = Kind(
    "source", "payment_methods", (
        ref("customer_id", "customers", "customer", "@customer", sticky=True), word("type"),
        *_card_columns("card", "three_d_secure"), sealed("name", "owner.name"), sealed("email", "owner.email"),
        sealed("phone", "owner.phone"), sealed("address", "owner.address"), METADATA, word("allow_redisplay"), LIVEMODE,
        of("created", values.instant, "created", "@as_of"),
    ),
    deletable=False, preference=1, known=("amount", "currency", "status", "flow", "usage", "statement_descriptor"),
)  # fmt: skip

MANDATE = Kind(
    "mandate", "mandates", (
        ref("payment_method_id", "payment_methods"), word("type"), state("status", "active", "inactive", "pending"),
        word("acceptance_type", "customer_acceptance.type"), at("accepted_at", "customer_acceptance.accepted_at"),
        sealed("ip", "customer_acceptance.online.ip_address"),
        sealed("user_agent", "customer_acceptance.online.user_agent"), LIVEMODE,
    ),
    deletable=False, order=("pending", "active", "inactive"),
)  # fmt: skip

_INTENT_STATES = ("requires_payment_method", "requires_confirmation", "requires_action", "processing")


def _intent(obj: Json, _context: Mapping[str, Any]) -> Json:
    renamed = {"requires_source": "requires_payment_method", "requires_source_action": "requires_action"}
    found = obj.get("status")
    return {"status": renamed.get(found, found) if isinstance(found, str) else found}


SETUP_INTENT = Kind(
    "setup_intent", "setup_intents", (
        ACCOUNT, ref("customer_id", "customers"), ref("payment_method_id", "payment_methods"),
        ref("mandate_id", "mandates", "mandate", "single_use_mandate"),
        state("status", *_INTENT_STATES, "canceled", "succeeded", paths=("$status",)), word("usage"),
        word("cancellation_reason"), word("last_setup_error_code", "last_setup_error.code"), METADATA, LIVEMODE,
        CREATED,
    ),
    derive=_intent, known=("status",), deletable=False, order=(*_INTENT_STATES, "canceled", "succeeded"),
)  # fmt: skip

PAYMENT_INTENT = Kind(
    "payment_intent", "payment_intents", (
        ACCOUNT, ref("customer_id", "customers"),
        ref("payment_method_id", "payment_methods", "payment_method", "source"),
        money("amount"), money("amount_received", default=0), currency("currency"),
        state("status", *_INTENT_STATES, "requires_capture", "canceled", "succeeded", paths=("$status",)),
        of("capture_method", values.one_of("automatic", "automatic_async", "manual"), default="automatic"), CREATED,
    ),
    children=(
        Child("payment_intent_details", "payment_intent_id", (
            word("confirmation_method"), word("setup_future_usage"), word("cancellation_reason"), at("canceled_at"),
            word("last_payment_error_type", "last_payment_error.type"),
            word("last_payment_error_code", "last_payment_error.code"),
            word("last_payment_error_decline_code", "last_payment_error.decline_code"),
            word("next_action_type", "next_action.type", "next_source_action.type"),
            ref("on_behalf_of_id", "accounts"), ref("transfer_destination_id", "accounts", "transfer_data.destination"),
            text("transfer_group"), money("application_fee_amount"), ident("invoice_id", "invoice"),
            ident("review_id", "review"), ident("latest_charge_id", "latest_charge"), sealed("receipt_email"),
            sealed("description"), METADATA, LIVEMODE,
        )),
    ),
    rules=(Rule("received_within_amount", "more was received than the intent's amount",
                lambda row: 0 <= row["amount_received"] <= row["amount"]),),
    derive=_intent, known=("status",), deletable=False, grows=("amount_received",),
    order=(*_INTENT_STATES, "requires_capture", "canceled", "succeeded"),
)  # fmt: skip


def _code(value: Any) -> str | None:
    try:
        return values.text(value, "failure_code") if value is not None else None
    except values.InvalidError:
        return None


def _charge(obj: Json, _context: Mapping[str, Any]) -> Json:
    """What old versions left out: the state, what was captured, and why a charge failed."""
    found = obj.get("status")
    if found is None and isinstance(obj.get("paid"), bool):
        found = "succeeded" if obj["paid"] else "failed"
    found = "succeeded" if found == "paid" else found
    amount, captured, refunded = obj.get("amount"), obj.get("amount_captured"), obj.get("amount_refunded")
    if found in ("pending", "failed"):
        captured = 0  # money of a pending debit is asked for, not taken
    elif captured is None:
        captured = 0 if obj.get("captured") is False else amount
    if all(isinstance(n, int) for n in (amount, captured, refunded)) and refunded > captured:  # type: ignore[operator]
        refunded = max(0, refunded - (amount - captured))  # type: ignore[operator] # the rest is released, not refunded
    failure = None
    if found in ("failed", "pending"):
        said = (_code(obj.get("failure_code")), _code(_object(obj, "outcome").get("reason")))
        failure = next((code for code in said if code), "unknown" if found == "failed" else None)
    source = obj.get("source") or obj.get("card")
    banked = isinstance(source, dict) and source.get("object") in ("card", "bank_account")
    details = _object(obj, "payment_method_details")
    card: Json = next((details[name] for name in _CARD_METHODS if isinstance(details.get(name), dict)), {})
    if isinstance(source, dict) and isinstance(source.get("card"), dict):
        source = {**source, **source["card"]}
    return {"card": card, "source": source if isinstance(source, dict) else {},
            "status": found, "captured": captured, "refunded": refunded, "failure": failure,
            "disputed": obj.get("disputed", bool(obj.get("dispute"))), "bank": source if banked else None}  # fmt: skip


def _card(name: str, old: str | None = None) -> tuple[str, ...]:
    """A fact of the card: as the payment's details name it, and as the source did before 2019."""
    return (f"$card.{name}", f"$source.{old or name}")


_CARD_METHODS = ("card", "card_present", "interac_present")
_CARD_FACTS = (
    "brand", "country", "funding", "last4", "exp_month", "exp_year", "fingerprint", "network", "authorization_code",
    "checks.cvc_check", "checks.address_line1_check", "checks.address_postal_code_check", "three_d_secure.result",
    "three_d_secure.version", "three_d_secure.electronic_commerce_indicator", "three_d_secure.exemption_indicator",
    "wallet.type", "amount_authorized",
)  # fmt: skip

CHARGE = Kind(
    "charge", "charges", (
        ACCOUNT, ref("payment_intent_id", "payment_intents"), ref("customer_id", "customers"),
        ref("payment_method_id", "payment_methods", "payment_method", "source", "card"), money("amount"),
        money("amount_captured", "$captured"), money("amount_refunded", "$refunded", default=0), currency("currency"),
        state("status", "failed", "pending", "succeeded", paths=("$status",)),
        flag("disputed", "$disputed", default=False), text("failure_code", "$failure"), CREATED,
    ),
    children=(
        Child("charge_details", "charge_id", (
            ident("balance_transaction_id", "balance_transaction"),
            ident("failure_balance_transaction_id", "failure_balance_transaction"),
            ident("application_fee_id", "application_fee"), money("application_fee_amount"),
            ident("transfer_id", "transfer"), text("transfer_group"), ref("on_behalf_of_id", "accounts"),
            ident("review_id", "review"), ident("invoice_id", "invoice"),
            ref("bank_account_id", "bank_accounts", "$bank"), flag("captured"), flag("paid"), text("failure_message"),
            text("statement_descriptor"), sealed("receipt_email"), sealed("billing", "billing_details"),
            sealed("shipping"), sealed("description"), METADATA, LIVEMODE,
        )),
        Child("charge_cards", "charge_id", (
            of("brand", brand, *_card("brand"), "$source.type"), word("country", *_card("country")),
            word("funding", *_card("funding")), of("last4", values.digits(4, 4), *_card("last4")),
            of("exp_month", values.month, *_card("exp_month")), of("exp_year", values.year, *_card("exp_year")),
            text("fingerprint", *_card("fingerprint")), word("network", *_card("network")),
            sealed("authorization_code", "authorization_code", *_card("authorization_code")),
            word("cvc_check", *_card("checks.cvc_check", "cvc_check")),
            word("address_line1_check", *_card("checks.address_line1_check", "address_line1_check")),
            word("address_postal_code_check", *_card("checks.address_postal_code_check", "address_zip_check")),
            word("three_d_secure_result", "$card.three_d_secure.result"),
            text("three_d_secure_version", "$card.three_d_secure.version"),
            word("three_d_secure_eci", "$card.three_d_secure.electronic_commerce_indicator"),
            word("three_d_secure_exemption", "$card.three_d_secure.exemption_indicator"),
            word("wallet_type", *_card("wallet.type", "tokenization_method")),
            money("amount_authorized", *_card("amount_authorized")),
        ), needs=("brand", "last4", "fingerprint")),
        Child("charge_outcomes", "charge_id", (
            of("type", values.one_of("authorized", "blocked", "invalid", "issuer_declined", "manual_review")),
            of("network_status", values.one_of("approved_by_network", "declined_by_network", "not_sent_to_network",
                                               "reversed_after_approval")),
            word("reason"), of("risk_level", values.one_of("elevated", "highest", "normal", "not_assessed", "unknown")),
            of("risk_score", values.whole(0, 100)),
        ), at="outcome", needs=("type",)),
        Child("charge_outcome_details", "charge_id", (
            ident("rule_id", "rule"), word("advice_code"), word("network_decline_code"), word("network_advice_code"),
        ), at="outcome"),
    ),
    rules=(
        Rule("captured_within_amount", "more was captured than the charge's amount",
             lambda row: 0 <= row["amount_captured"] <= row["amount"]),
        Rule("refunded_within_captured", "more was refunded than was captured",
             lambda row: 0 <= row["amount_refunded"] <= row["amount_captured"]),
    ),
    derive=_charge, deletable=False, order=("pending", "failed", "succeeded"),
    grows=("amount_captured", "amount_refunded"),
    known=("amount_captured", "amount_refunded", "captured", "failure_code", "disputed", "dispute", "status",
           "refunded", "payment_method_details.type",
           *(f"payment_method_details.{method}.{fact}" for method in _CARD_METHODS for fact in _CARD_FACTS)),
)  # fmt: skip


def _refund(obj: Json, _context: Mapping[str, Any]) -> Json:
    return {"status": obj.get("status") or "succeeded"}  # before 2015 a refund had no state: it was done


REFUND = Kind(
    "refund", "refunds", (
        ref("charge_id", "charges", "charge", "@charge", sticky=True), ref("payment_intent_id", "payment_intents"),
        money("amount"), currency("currency"),
        state("status", "canceled", "failed", "pending", "requires_action", "succeeded", paths=("$status",)),
        of("reason", values.one_of("duplicate", "expired_uncaptured_charge", "fraudulent", "requested_by_customer")),
        ident("balance_transaction_id", "balance_transaction"),
        ident("failure_balance_transaction_id", "failure_balance_transaction"), word("failure_reason"), METADATA,
        CREATED,
    ),
    rules=(Rule("refund_above_zero", "a refund gives back more than nothing", lambda row: row["amount"] > 0),),
    derive=_refund, known=("status",), deletable=False,
    order=("pending", "requires_action", "succeeded", "failed", "canceled"),
)  # fmt: skip


def _payout(obj: Json, _context: Mapping[str, Any]) -> Json:
    to_bank = obj.get("type") in (None, "bank_account", "card")
    trace = obj.get("trace_id")
    return {"destination": (obj.get("destination") or obj.get("bank_account")) if to_bank else None,
            "trace": trace.get("value") if isinstance(trace, dict) else trace}  # fmt: skip


PAYOUT = Kind(
    "payout", "payouts", (
        ACCOUNT, ref("bank_account_id", "bank_accounts", "$destination"), money("amount", signed=True),
        currency("currency"), state("status", "canceled", "failed", "in_transit", "paid", "pending"),
        flag("automatic", default=True), word("method"), word("type"), word("source_type"),
        word("reconciliation_status"), at("arrival_date"), word("failure_code"), sealed("trace_id", "$trace"),
        ident("balance_transaction_id", "balance_transaction"),
        ident("failure_balance_transaction_id", "failure_balance_transaction"), ref("original_payout_id", "payouts"),
        ref("reversed_by_id", "payouts", "reversed_by"), sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
    derive=_payout, known=("destination", "bank_account", "trace_id"), deletable=False,
    order=("pending", "in_transit", "canceled", "paid", "failed"),
)  # fmt: skip


def _balance_transaction(obj: Json, _context: Mapping[str, Any]) -> Json:
    """Before 2019 a movement had a type only, which is the category but for a few."""
    by_type = {"payment": "charge", "payment_refund": "refund", "payment_failure_refund": "refund_failure",
               "application_fee": "platform_earning", "application_fee_refund": "platform_earning_refund",
               "stripe_fee": "fee", "adjustment": "other_adjustment", "transfer_refund": "transfer_reversal",
               "payout_failure": "payout_reversal", "payout_cancel": "payout_reversal"}  # fmt: skip
    kind = obj.get("type")
    category = by_type.get(kind, kind) if isinstance(kind, str) else None
    return {"category": obj.get("reporting_category") or category}


BALANCE_TRANSACTION = Kind(
    "balance_transaction", "balance_transactions", (
        ACCOUNT, ident("source_id", "source"), word("type"), word("reporting_category", "$category"),
        money("amount", signed=True), money("fee", signed=True), money("net", signed=True), currency("currency"),
        of("exchange_rate", values.rate), state("status", "available", "pending"),
        word("balance_type", default="payments"), at("available_on", "available_on", "created"), CREATED,
    ),
    children=(
        Child("fee_details", "balance_transaction_id", (
            word("type"), money("amount", signed=True), currency("currency"),
        ), at="fee_details", each="list"),
    ),
    rules=(Rule("net_is_amount_less_fee", "the net is not the amount less the fee",
                lambda row: row["net"] == row["amount"] - row["fee"]),),
    derive=_balance_transaction, known=("reporting_category", "description"), deletable=False,
    order=("pending", "available"),
)  # fmt: skip

TOPUP = Kind(
    "topup", "topups", (
        ACCOUNT, money("amount"), currency("currency"),
        state("status", "canceled", "failed", "pending", "reversed", "succeeded"),
        ident("balance_transaction_id", "balance_transaction"), word("failure_code"), at("expected_availability_date"),
        text("transfer_group"), sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
    deletable=False, order=("pending", "canceled", "failed", "succeeded", "reversed"),
)  # fmt: skip

KINDS = (
    CUSTOMER, PAYMENT_METHOD, CARD_AS_METHOD, BANK_AS_METHOD, SOURCE, MANDATE, SETUP_INTENT, PAYMENT_INTENT, CHARGE,
    REFUND, PAYOUT, BALANCE_TRANSACTION, TOPUP,
)  # fmt: skip
