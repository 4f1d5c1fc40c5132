"""What one transaction of landings works on: who claims to show where, and in which order tables are written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import psycopg

from stripe_platform.ingest.stripe.kinds import ALL
from stripe_platform.ingest.stripe.landing import Landing
from stripe_platform.ingest.stripe.mapping import Main
from stripe_platform.keyring import Keyring
from stripe_platform.vault import SubjectKey, open_value

PLACE = ("ingest.objects", "payload_ciphertext")

# Parents first; a relation that points backwards is queued and settled within the same batch.
ORDER = (
    "accounts", "capabilities", "customers", "bank_accounts", "products", "prices", "coupons", "promotion_codes",
    "tax_rates", "payment_methods", "mandates", "setup_intents", "payment_intents", "charges", "refunds", "disputes",
    "early_fraud_warnings", "reviews", "payment_evaluations", "value_lists", "value_list_items",
    "balance_transactions", "payouts", "transfers", "transfer_reversals", "application_fees", "fee_refunds", "topups",
    "reserve_plans", "reserve_holds", "reserve_releases", "subscriptions", "subscription_items", "invoices",
    "invoice_previews", "invoice_items", "invoice_lines", "invoice_payments", "credit_notes", "credit_note_lines",
    "discounts", "tax_ids", "customer_balance_transactions", "webhook_endpoints", "events",
)  # fmt: skip
# The object a table's rows are, where several kinds share it.
SLOT = {kind.table: kind.name for kind in ALL.values() if kind.preference and " as " not in kind.name} | {
    "payment_methods": "payment_method", "bank_accounts": "bank_account", "prices": "price",
    "invoice_previews": "invoice_preview"}  # fmt: skip

Slot = tuple[str, str]
Order = tuple[int, str]


@dataclass
class Claim:
    """A state that may show in a slot."""

    order: Order
    landing: Landing
    main: Main
    value: Any = None


@dataclass
class Batch:
    """What one transaction works on."""

    conn: psycopg.Connection
    ring: Keyring
    keys: dict[str, SubjectKey] = field(default_factory=dict)
    rows: dict[str, dict[str, Claim]] = field(default_factory=lambda: defaultdict(dict))
    sticky: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))
    deletions: dict[str, dict[str, Claim]] = field(default_factory=lambda: defaultdict(dict))
    stood: set[Slot] = field(default_factory=set)  # slots that had a version before
    affected: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    orders: dict[Slot, Order] = field(default_factory=dict)
    waiting: list[bytes] = field(default_factory=list)

    def payload(self, digest: bytes) -> bytes:
        """A landed object's content, opened."""
        row = self.conn.execute(
            "select payload_ciphertext, subject from ingest.objects where digest = %s", [digest]).fetchone()
        assert row is not None  # noqa: S101 - versions refer to objects
        return open_value(self.conn, self.ring, bytes(row[0]), *PLACE, digest.hex(), row[1])
