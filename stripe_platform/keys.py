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
LAYERS = ("reference", "oltp", "cdc", "raw", "snapshots", "documents", "staging", "marts", "features", "fraud")

# Dagster's tags of a run's days. Not in `partitions`: who imports that fixes the calendar.
PARTITION, RANGE_START, RANGE_END = (
    "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end",
)

Growth = Literal["reference", "mutable", "growing"]


@dataclass(frozen=True)
class Table:
    """One OLTP table: its primary key, how it grows, whether Dagster cuts it by day."""

    name: str
    key: tuple[str, ...]
    growth: Growth
    description: str
    owner: str = PAYMENTS
    dated: bool = True


# Small or rarely changed: no partition per day, each would cost ~10 ms per layer and run.
_UNDATED: tuple[tuple[str, tuple[str, ...], Growth, str], ...] = (
    ("capabilities", ("account_id", "name"), "mutable", "What a merchant may do"),
    ("bank_accounts", ("id",), "mutable", "External accounts and legacy sources: where payouts go"),
    ("payment_method_cards", ("payment_method_id",), "mutable", "Checks, wallet and networks of a card on file"),
    ("mandates", ("id",), "mutable", "Payers' permissions to debit them"),
    ("locations", ("id",), "mutable", "Where a payer acted: region, not address"),
    ("devices", ("id",), "mutable", "What a payer acted with"),
    ("setup_intents", ("id",), "mutable", "Intents to save a payment method"),
    ("payment_intent_details", ("payment_intent_id",), "mutable", "Rare facts of an intent"),
    ("charge_details", ("charge_id",), "mutable", "Rare facts of a charge: place, device, tax, transfer"),
    ("charge_cards", ("charge_id",), "mutable", "The card as it was at the charge"),
    ("charge_outcome_details", ("charge_id",), "mutable", "Rare facts of an outcome"),
    ("reviews", ("id",), "mutable", "Charges an analyst looks at"),
    ("payment_evaluations", ("id",), "mutable", "Risk evaluations before a payment"),
    ("payment_evaluation_signals", ("payment_evaluation_id", "name"), "mutable", "Scores of a risk evaluation"),
    ("value_lists", ("id",), "mutable", "Block and allow lists"),
    ("value_list_items", ("id",), "mutable", "Entries of block and allow lists"),
    ("payouts", ("id",), "mutable", "Money sent to a merchant's bank"),
    ("payout_balance_transactions", ("balance_transaction_id",), "mutable", "Which payout paid a movement out"),
    ("payout_schedules", ("account_id", "currency"), "mutable", "When a merchant is paid out by itself"),
    ("bank_statement_lines", ("id",), "mutable", "What the platform's banks booked, and which payout it was"),
    ("transfers", ("id",), "mutable", "Money moved between merchants"),
    ("transfer_reversals", ("id",), "mutable", "Transfers taken back"),
    ("application_fees", ("id",), "mutable", "What a platform keeps of a charge"),
    ("fee_refunds", ("id",), "mutable", "Application fees given back"),
    ("topups", ("id",), "mutable", "Money added to a balance"),
    ("reserve_plans", ("id",), "mutable", "Rules that hold money back"),
    ("reserve_holds", ("id",), "mutable", "Money held back"),
    ("reserve_releases", ("id",), "mutable", "Held money let go"),
    ("products", ("id",), "mutable", "Catalogue: what is sold"),
    ("prices", ("id",), "mutable", "Catalogue: at which price and rhythm; plans among them"),
    ("price_tiers", ("price_id", "position"), "mutable", "Steps of a tiered price"),
    ("price_currency_options", ("price_id", "currency"), "mutable", "A price in further currencies"),
    ("coupons", ("id",), "mutable", "Reductions that can be given"),
    ("promotion_codes", ("id",), "mutable", "Codes that give a coupon"),
    ("subscriptions", ("id",), "mutable", "Standing orders of a payer"),
    ("subscription_items", ("id",), "mutable", "Prices and quantities of a subscription, with their period"),
    ("subscription_billing", ("subscription_id",), "mutable", "Subscriptions that we bill, and when next"),
    ("subscription_tax_rates", ("subscription_id", "position"), "mutable", "Taxes on a subscription's invoices"),
    ("subscription_cycles", ("subscription_id", "period_start"), "growing", "Which invoice billed a period"),
    ("dunning_policies", ("id",), "reference", "What becomes of a subscription that is not paid"),
    ("dunning_steps", ("policy_id", "attempt"), "reference", "When a failed payment is tried again"),
    ("invoices", ("id",), "mutable", "Bills"),
    ("invoice_previews", ("id",), "mutable", "Bills as they are foreseen: nobody owes them"),
    ("invoice_items", ("id",), "mutable", "What waits for the next bill"),
    ("invoice_lines", ("id",), "mutable", "Lines of bills with their service period"),
    ("invoice_line_discounts", ("invoice_line_id", "discount_id"), "mutable", "What a discount took off a line"),
    ("invoice_payments", ("id",), "mutable", "Which payments paid which bills"),
    ("tax_rates", ("id",), "mutable", "Tax rates"),
    ("invoice_taxes", ("invoice_id", "position"), "mutable", "Taxes of a bill"),
    ("credit_notes", ("id",), "mutable", "Bills reduced afterwards"),
    ("credit_note_lines", ("id",), "mutable", "Lines of credit notes"),
    ("discounts", ("id",), "mutable", "Coupons as they were given"),
    ("tax_ids", ("id",), "mutable", "Payers' tax numbers"),
    ("customer_balance_transactions", ("id",), "mutable", "Movements of a payer's credit"),
    ("events", ("id", "type"), "growing", "What happened, append only"),
    ("webhook_endpoints", ("id",), "mutable", "Where merchants hear of events"),
    ("webhook_deliveries", ("webhook_endpoint_id", "event_id", "event_type", "attempt"), "growing",
     "Attempts to deliver events"),
    ("idempotency_keys", ("account_id", "key"), "growing", "Requests that may come twice and act once"),
    ("status_history", ("object_id", "position"), "growing", "Every change of a status"),
    ("ledger_account_kinds", ("kind",), "reference", "Kinds of ledger accounts with their normal side"),
    ("ledger_accounts", ("id",), "mutable", "Accounts of the ledger: merchants' and the platform's"),
    ("ledger_reversals", ("entry_id",), "growing", "Which entry undid which"),
    ("ledger_balances", ("ledger_account_id", "day"), "growing", "Balances at the end of closed days"),
    ("ledger_seals", ("sequence",), "growing", "Hash chain over the closed journal"),
    ("posting_rules", ("category", "kind"), "reference", "What each category of movement books"),
    ("fee_policies", ("kind", "currency", "country"), "reference", "What charges and disputes cost"),
)
# In the order in which they are loaded: parents first.
_DATED: tuple[Table, ...] = (
    Table("currencies", ("code",), "reference", "Currencies with Stripe's exponent beside ISO's"),
    Table("countries", ("code",), "reference", "Countries and regions"),
    Table("exchange_rates", ("day", "from_currency", "to_currency"), "reference", "Daily exchange rates"),
    Table("accounts", ("id",), "mutable", "Merchants: Stripe's account"),
    Table("terminals", ("id",), "mutable", "Points of sale of a merchant, physical or online"),
    Table("customers", ("id",), "mutable", "Payers; names and e-mails are ciphertext"),
    Table("payment_methods", ("id",), "mutable", "Cards on file, without the card number"),
    Table("payment_intents", ("id",), "growing", "Intent to collect a payment"),
    Table("charges", ("id",), "growing", "Attempts to move money"),
    Table("charge_outcomes", ("charge_id",), "growing", "What network and risk engine said of a charge"),
    Table("refunds", ("id",), "growing", "Money given back to the payer"),
    Table("disputes", ("id",), "growing", "Charges questioned by the card holder's bank"),
    Table("early_fraud_warnings", ("id",), "growing", "Issuers' earliest notice of a fraud"),
    Table("fraud_assessments", ("charge_id", "model_version"), "growing", "Scores written back by the fraud model",
          owner=RISK),
    Table("balance_transactions", ("id",), "growing", "Every movement of a merchant's balance: money truth"),
    Table("fee_details", ("balance_transaction_id", "position"), "growing", "What a movement's fee is made of"),
    Table("ledger_entries", ("id",), "growing", "Double-entry journal: what was booked, never changed"),
    Table("ledger_postings", ("entry_id", "position"), "growing", "Debits and credits of entries, by currency"),
)
OLTP_TABLES = (*_DATED, *(Table(*row, dated=False) for row in _UNDATED))
TABLES = {t.name: t for t in OLTP_TABLES}
SCORES = "fraud_assessments"  # written by the fraud room, after the marts its model reads: ops of their own
DATED = tuple(t.name for t in _DATED if t.name != SCORES)
UNDATED = tuple(t.name for t in OLTP_TABLES if not t.dated)
# Tables of the reference database: source of truth, copied to the OLTP. Without days: a copy's change has one.
REFERENCE_TABLES = tuple(Table(name, key, "reference", text, PLATFORM, dated=False) for name, key, text in (
    ("regions", ("code",), "Regions of the world"),
    ("currencies", ("code",), "Currencies with Stripe's exponent beside ISO's"),
    ("countries", ("code",), "Countries with their region and currency"),
    ("exchange_rates", ("day", "from_currency", "to_currency"), "Daily exchange rates"),
    ("merchants", ("id",), "Merchant information: who a merchant is"),
    ("products", ("id",), "Product catalogue"),
))
SERVED = ("merchants", "products", "currency_exchange_rates", "country_region_codes")  # reference rows
COLLECTIONS = ("transactions", "sessions", "customer_feedback", *SERVED)


def key(layer: str, table: str) -> dg.AssetKey:
    """`layer/table`; an unknown layer is refused."""
    if layer not in LAYERS:
        raise ValueError(f"unknown layer {layer!r}: one of {', '.join(LAYERS)}")
    return dg.AssetKey([layer, table])
