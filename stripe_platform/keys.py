"""Every name the rooms share: tables, collections, asset keys, owners and groups.

Asset keys are `layer/table`; the group is the layer, but for `oltp/fraud_assessments` (in `fraud`). A table is
declared once, here; its columns live in the migrations and are read from `oltp/schema.json`, which a test compares with
the live catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dagster as dg

PAYMENTS, PLATFORM, ANALYTICS, RISK = "team:payments", "team:data-platform", "team:analytics", "team:risk"
LAYERS = ("oltp", "cdc", "raw", "snapshots", "documents", "staging", "marts", "features", "fraud")

# Dagster's tags of a run's days. Not in `partitions`: who imports that fixes the calendar.
PARTITION, RANGE_START, RANGE_END = (
    "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end",
)

Growth = Literal["reference", "mutable", "growing"]


@dataclass(frozen=True)
class Table:
    """One OLTP table: its primary key, how it grows, and which columns are ciphertext."""

    name: str
    key: tuple[str, ...]
    growth: Growth
    description: str
    sensitive: tuple[str, ...] = ()
    owner: str = PAYMENTS


OLTP_TABLES: tuple[Table, ...] = (
    Table("currencies", ("code",), "reference", "Currencies with Stripe's exponent beside ISO's"),
    Table("countries", ("code",), "reference", "Countries and regions"),
    Table("exchange_rates", ("day", "from_currency", "to_currency"), "reference", "Daily exchange rates"),
    Table("accounts", ("id",), "mutable", "Merchants: Stripe's account"),
    Table("terminals", ("id",), "mutable", "Points of sale of a merchant, physical or online"),
    Table("customers", ("id",), "mutable", "Payers; names and e-mails are ciphertext",
          ("name_ciphertext", "email_ciphertext")),
    Table("payment_methods", ("id",), "mutable", "Cards on file, without the card number"),
    Table("payment_intents", ("id",), "growing", "Intent to collect a payment"),
    Table("charges", ("id",), "growing", "Attempts to move money"),
    Table("charge_outcomes", ("charge_id",), "growing", "What network and risk engine said of a charge"),
    Table("refunds", ("id",), "growing", "Money given back to the payer"),
    Table("disputes", ("id",), "growing", "Charges questioned by the card holder's bank"),
    Table("early_fraud_warnings", ("id",), "growing", "Issuers' earliest notice of a fraud"),
    Table("fraud_assessments", ("charge_id", "model_version"), "growing", "Scores written back by the fraud model",
          owner=RISK),
)
TABLES = {t.name: t for t in OLTP_TABLES}
COLLECTIONS = ("transactions", "sessions", "customer_feedback")


def key(layer: str, table: str) -> dg.AssetKey:
    """`layer/table`; an unknown layer is refused."""
    if layer not in LAYERS:
        raise ValueError(f"unknown layer {layer!r}: one of {', '.join(LAYERS)}")
    return dg.AssetKey([layer, table])
