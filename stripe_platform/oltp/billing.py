"""Subscriptions: begun, changed, paused, canceled, and billed when they are due. One function, one ACID transaction.

Amounts are minor units of the prices' currency. Invoices are finalised and collected, off session, in the step that
makes them. `declined` stands for the issuer's answer: its failure code, or None where it takes the money.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.oltp.idempotency import Idempotency, call

CollectionMethod = Literal["charge_automatically", "send_invoice"]


@dataclass(frozen=True)
class Item:
    """A recurring price and how many of it."""

    price_id: str
    quantity: int = 1


@dataclass(frozen=True)
class Subscription:
    """A subscription after a call, the invoice it made (else the latest), and what its collection brought."""

    subscription_id: str
    status: str
    invoice_id: str | None = None
    invoice_status: str | None = None
    payment_intent_id: str | None = None
    charge_id: str | None = None
    failure_code: str | None = None
    cancel_at_period_end: bool = False
    replayed: bool = False


def subscribe(
    conn: psycopg.Connection, *, account_id: str, customer_id: str, items: Sequence[Item],
    payment_method_id: str | None = None, collection_method: CollectionMethod = "charge_automatically",
    days_until_due: int | None = None, trial_end: dt.datetime | None = None, trial_days: int | None = None,
    coupon_id: str | None = None, tax_rate_ids: Sequence[str] = (), dunning_policy: str = "default",
    trial_without_method: Literal["cancel", "create_invoice", "pause"] = "create_invoice",
    cancel_at: dt.datetime | None = None, declined: str | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Subscription:
    """Begin a subscription and bill its first period; a trial is billed nothing.

    Declined, it is `incomplete` and expires after 23 hours unless the invoice is paid. Without `payment_method_id` the
    payer's default pays. Periods are counted from now, or from the trial's end.
    """
    return _call(
        conn, "subscribe",
        {"p_account": account_id, "p_customer": customer_id, "p_items": _items(items), "p_method": payment_method_id,
         "p_collection_method": collection_method, "p_days_until_due": days_until_due, "p_trial_end": trial_end,
         "p_trial_days": trial_days, "p_coupon": coupon_id, "p_tax_rates": list(tax_rate_ids),
         "p_dunning_policy": dunning_policy, "p_trial_without_method": trial_without_method, "p_cancel_at": cancel_at,
         "p_declined": declined}, idempotency, created)  # fmt: skip


def cancel(
    conn: psycopg.Connection, *, subscription_id: str, at_period_end: bool = False, prorate: bool = False,
    reason: str = "cancellation_requested", feedback: str | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Subscription:
    """End a subscription at once, or when its period ends. `prorate`: what is left of the period becomes credit."""
    return _call(
        conn, "cancel_subscription",
        {"p_subscription": subscription_id, "p_at_period_end": at_period_end, "p_prorate": prorate,
         "p_reason": reason, "p_feedback": feedback}, idempotency, created)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A change of one item; without `item_id` it is a new one. What is None stays as it is."""

    item_id: str | None = None
    price_id: str | None = None
    quantity: int | None = None
    deleted: bool = False


def update(
    conn: psycopg.Connection, *, subscription_id: str, changes: Sequence[Change] = (),
    proration: Literal["always_invoice", "create_prorations", "none"] = "create_prorations",
    anchor_now: bool = False, payment_method_id: str | None = None, keep: bool = False, declined: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Subscription:
    """Change items, payment method, or take back a cancellation that has not happened yet (`keep`).

    What is left of the period goes back at the old price and is charged at the new, on the next invoice or at once. A
    new interval, or `anchor_now`, begins a new period now and bills it at once.
    """
    items = [{name: value for name, value in
              (("id", c.item_id), ("price", c.price_id), ("quantity", c.quantity), ("deleted", c.deleted))
              if value is not None} for c in changes]  # fmt: skip
    return _call(
        conn, "update_subscription",
        {"p_subscription": subscription_id, "p_items": json.dumps(items), "p_proration": proration,
         "p_anchor_now": anchor_now, "p_method": payment_method_id, "p_keep": keep, "p_declined": declined},
        idempotency, created)  # fmt: skip


def pause(
    conn: psycopg.Connection, *, subscription_id: str,
    behavior: Literal["keep_as_draft", "mark_uncollectible", "void"] = "keep_as_draft",
    resumes_at: dt.datetime | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Subscription:
    """Rest the collection: periods go on, their invoices are kept as drafts, given up or voided."""
    return _call(conn, "pause_subscription",
                 {"p_subscription": subscription_id, "p_behavior": behavior, "p_resumes_at": resumes_at},
                 idempotency, created)  # fmt: skip


def resume(
    conn: psycopg.Connection, *, subscription_id: str, payment_method_id: str | None = None,
    declined: str | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Subscription:
    """End a rest of the collection; a subscription that a trial left `paused` begins a new period now."""
    return _call(conn, "resume_subscription",
                 {"p_subscription": subscription_id, "p_method": payment_method_id, "p_declined": declined},
                 idempotency, created)  # fmt: skip


def renew(
    conn: psycopg.Connection, *, subscription_id: str, until: dt.datetime, declined: str | None = None,
    idempotency: Idempotency | None = None,
) -> Subscription:
    """One step of one subscription that is due by `until`, dated when it was due; without one nothing happens.

    A step is a renewal, a trial's end, a retry, an expiry, a due cancellation or resumption.
    """
    return _call(conn, "bill_subscription",
                 {"p_subscription": subscription_id, "p_until": until, "p_declined": declined}, idempotency, None)


def _items(items: Sequence[Item]) -> str:
    return json.dumps([{"price": item.price_id, "quantity": item.quantity} for item in items])


def _call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Subscription:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Subscription(
        answer["subscription"], answer["status"], answer["invoice"], answer["invoice_status"],
        answer["payment_intent"], answer["charge"], answer["failure_code"], answer["cancel_at_period_end"], replayed,
    )  # fmt: skip
