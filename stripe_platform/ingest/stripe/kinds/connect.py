"""Connect: merchants, what they may do, and money moved between them; events and where they are heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.kinds.payments import brand
from stripe_platform.ingest.stripe.spec import (
    ACCOUNT,
    CREATED,
    LIVEMODE,
    METADATA,
    Field,
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


def _account(obj: Json, _context: Mapping[str, Any]) -> Json:
    legal = obj.get("legal_entity")
    form = legal.get("type") if isinstance(legal, dict) else None
    managed = obj.get("managed")
    old = {True: "custom", False: "standard"}.get(managed) if isinstance(managed, bool) else None
    return {"type": obj.get("type") or old, "form": obj.get("business_type") or form}


ACCOUNT_KIND = Kind(
    "account", "accounts", (
        of("type", values.one_of("custom", "express", "none", "standard"), "$type"), country("country"),
        currency("default_currency"),
        of("business_type", values.one_of("company", "government_entity", "individual", "non_profit"), "$form"),
        of("mcc", values.digits(4, 4), "business_profile.mcc", "mcc"),
        text("name", "business_profile.name", "business_name", "settings.dashboard.display_name", "display_name"),
        text("url", "business_profile.url", "business_url"), flag("charges_enabled", default=False),
        flag("payouts_enabled", "payouts_enabled", "transfers_enabled", default=False),
        flag("details_submitted", default=False), sealed("email"), METADATA,
        of("created", values.instant, "created", "@as_of"),
    ),
    derive=_account, known=("type", "business_type", "managed", "legal_entity.type", "capabilities"),
)  # fmt: skip

CAPABILITY = Kind(
    "capability", "capabilities", (
        state("status", "active", "disabled", "inactive", "pending", "unrequested"),
        of("requested", values.flag, sticky=True), of("requested_at", values.instant, sticky=True),
    ),
    id=lambda obj, context: (values.ident(obj.get("account") or context.get("account"), "account"), obj.get("id")),
    key_columns=("account_id", "name"), deletable=False, known=("account",),
)  # fmt: skip


def _external(obj: Json, _context: Mapping[str, Any]) -> Json:
    return {"kind": "card" if obj.get("object") == "card" else "bank_account"}


_EXTERNAL: tuple[Field, ...] = (
    ref("account_id", "accounts", "account", "@account_parent", sticky=True),
    ref("customer_id", "customers", "customer", "@customer", sticky=True), word("kind", "$kind"), text("bank_name"),
    country("country"), currency("currency"), of("last4", values.digits(1, 4, letters=True)),
    word("holder_type", "account_holder_type"), sealed("holder_name", "account_holder_name", "name"),
    text("fingerprint"), word("status"), flag("default_for_currency"), METADATA,
)  # fmt: skip
BANK_ACCOUNT = Kind("bank_account", "bank_accounts", _EXTERNAL, derive=_external,
                    also=("bank_account as payment_method",))  # fmt: skip
CARD = Kind(
    "card", "bank_accounts", (
        *_EXTERNAL, of("brand", brand, "brand", "type"), word("funding"), of("exp_month", values.month),
        of("exp_year", values.year),
    ),
    derive=_external, also=("card as payment_method",),
)  # fmt: skip


def _transfer(obj: Json, _context: Mapping[str, Any]) -> Json:
    """Until 2017 a transfer was also what a payout is now: then its destination is a bank."""
    to_bank = obj.get("type") in ("bank_account", "card")
    reversed_now = obj.get("amount_reversed")
    return {"destination": None if to_bank else (obj.get("destination") or obj.get("account")),
            "reversed": 0 if reversed_now is None else reversed_now}  # fmt: skip


TRANSFER = Kind(
    "transfer", "transfers", (
        ACCOUNT, ref("destination_id", "accounts", "$destination"),
        ref("source_charge_id", "charges", "source_transaction"), money("amount"),
        money("amount_reversed", "$reversed", default=0), currency("currency"),
        ident("balance_transaction_id", "balance_transaction"), ident("destination_payment_id", "destination_payment"),
        word("source_type"), text("transfer_group"), sealed("description"), METADATA, LIVEMODE, CREATED,
    ),
    rules=(Rule("reversed_within_transfer", "more was reversed than was transferred",
                lambda row: 0 <= row["amount_reversed"] <= row["amount"]),),
    derive=_transfer, deletable=False, grows=("amount_reversed",),
    known=("destination", "amount_reversed", "reversed", "type", "status", "account"),
)  # fmt: skip
TRANSFER_REVERSAL = Kind(
    "transfer_reversal", "transfer_reversals", (
        ref("transfer_id", "transfers", "transfer", "@transfer", sticky=True), money("amount"), currency("currency"),
        ident("balance_transaction_id", "balance_transaction"), ref("source_refund_id", "refunds"), METADATA, CREATED,
    ),
    deletable=False,
)  # fmt: skip
APPLICATION_FEE = Kind(
    "application_fee", "application_fees", (
        ref("account_id", "accounts", "account", "@account", sticky=True), ref("charge_id", "charges", "charge",
                                                                               "fee_source.charge"),
        ident("application"), money("amount"), money("amount_refunded", default=0), currency("currency"),
        ident("balance_transaction_id", "balance_transaction"), LIVEMODE, CREATED,
    ),
    rules=(Rule("fee_refunded_within_fee", "more of the fee was refunded than was taken",
                lambda row: 0 <= row["amount_refunded"] <= row["amount"]),),
    deletable=False, grows=("amount_refunded",), known=("refunded",),
)  # fmt: skip
FEE_REFUND = Kind(
    "fee_refund", "fee_refunds", (
        ref("application_fee_id", "application_fees", "fee", "@application_fee", sticky=True), money("amount"),
        currency("currency"), ident("balance_transaction_id", "balance_transaction"), METADATA, CREATED,
    ),
    deletable=False,
)  # fmt: skip

RESERVE_PLAN = Kind(
    "reserve.plan", "reserve_plans", (
        ACCOUNT, word("type"), word("status"), of("percent", values.percent), currency("currency"), word("created_by"),
        at("disabled_at"), LIVEMODE, CREATED,
    ),
    deletable=False, order=("active", "disabled", "expired"),
)  # fmt: skip
RESERVE_HOLD = Kind(
    "reserve.hold", "reserve_holds", (
        ACCOUNT, ref("reserve_plan_id", "reserve_plans"), ref("source_charge_id", "charges"), money("amount"),
        currency("currency"), word("reason"), word("source_type"), word("created_by"),
        at("release_after", "release_schedule.release_after"), LIVEMODE, CREATED,
    ),
    deletable=False,
)  # fmt: skip
RESERVE_RELEASE = Kind(
    "reserve.release", "reserve_releases", (
        ACCOUNT, ref("reserve_plan_id", "reserve_plans"), ref("reserve_hold_id", "reserve_holds"), money("amount"),
        currency("currency"), word("reason"), word("created_by"), at("released_at"), LIVEMODE, CREATED,
    ),
    deletable=False,
)  # fmt: skip


def _event(obj: Json, _context: Mapping[str, Any]) -> Json:
    data = obj.get("data")
    inner = data.get("object") if isinstance(data, dict) else None
    inner = inner if isinstance(inner, dict) else {}
    request = obj.get("request")
    request = request if isinstance(request, dict) else {"id": request}
    kind = inner.get("object")
    return {"kind": kind if values.safe_name(kind) else None, "object": inner.get("id"),
            "request": request.get("id"), "key": request.get("idempotency_key"),
            "account": obj.get("account") or obj.get("user_id")}  # fmt: skip


def event_type(value: Any, _field: str) -> str | None:
    """A type that is no short dotted name is no type."""
    if not values.safe_name(value):
        raise values.InvalidError
    return str(value)


EVENT = Kind(
    "event", "events", (
        ref("account_id", "accounts", "$account", "@account", sticky=True),
        of("api_version", lambda value, _field: values.api_version(value)), word("object_kind", "$kind"),
        ident("object_id", "$object"), ident("request_id", "$request"), text("idempotency_key", "$key"),
        of("pending_webhooks", values.count), LIVEMODE, CREATED,
    ),
    id=lambda obj, _context: (values.ident(obj.get("id"), "id"), event_type(obj.get("type"), "type")),
    key_columns=("id", "type"), derive=_event, deletable=False,
    known=("data", "request", "account", "user_id", "type", "created"),
)  # fmt: skip
WEBHOOK_ENDPOINT = Kind(
    "webhook_endpoint", "webhook_endpoints", (
        ACCOUNT, text("url"), of("status", values.one_of("disabled", "enabled")), of("enabled_events", values.names),
        of("api_version", lambda value, _field: values.api_version(value)), sealed("secret"), sealed("description"),
        METADATA, LIVEMODE, CREATED,
    ),
)  # fmt: skip

KINDS = (
    ACCOUNT_KIND, CAPABILITY, BANK_ACCOUNT, CARD, TRANSFER, TRANSFER_REVERSAL, APPLICATION_FEE, FEE_REFUND,
    RESERVE_PLAN, RESERVE_HOLD, RESERVE_RELEASE, EVENT, WEBHOOK_ENDPOINT,
)  # fmt: skip
