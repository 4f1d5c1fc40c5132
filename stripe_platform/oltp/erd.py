"""Entity diagrams of the OLTP, drawn from the live catalogue in Mermaid: one per domain and one over all.

`python -m stripe_platform.oltp.erd` writes `docs/erd.mermaid` and `docs/erd-<domain>.mermaid` from a migrated
database; a test compares them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stripe_platform.oltp.schema import TableSchema, read_catalogue
from stripe_platform.settings import PROJECT_ROOT, load_settings

DOCS = PROJECT_ROOT / "docs"
DOMAINS: dict[str, tuple[str, ...]] = {
    "catalogue": (
        "currencies", "countries", "exchange_rates", "products", "prices", "price_tiers", "price_currency_options",
        "coupons", "promotion_codes", "tax_rates",
    ),
    "payments": (
        "customers", "payment_methods", "payment_method_cards", "mandates", "locations", "devices", "setup_intents",
        "payment_intents", "payment_intent_details", "charges", "charge_details", "charge_cards", "refunds",
    ),
    "risk": (
        "charge_outcomes", "charge_outcome_details", "disputes", "early_fraud_warnings", "reviews",
        "payment_evaluations", "payment_evaluation_signals", "value_lists", "value_list_items", "fraud_assessments",
    ),
    "billing": (
        "subscriptions", "subscription_items", "subscription_billing", "subscription_cycles", "subscription_tax_rates",
        "dunning_policies", "dunning_steps", "invoices", "invoice_previews", "invoice_items", "invoice_lines",
        "invoice_line_discounts", "invoice_payments", "invoice_taxes", "credit_notes", "credit_note_lines", "discounts",
        "tax_ids", "customer_balance_transactions",
    ),
    "connect": (
        "accounts", "capabilities", "terminals", "bank_accounts", "payout_schedules", "payouts",
        "payout_balance_transactions", "bank_statement_lines", "transfers", "transfer_reversals", "application_fees",
        "fee_refunds", "topups", "reserve_plans", "reserve_holds", "reserve_releases",
    ),
    "ledger": (
        "balance_transactions", "fee_details", "fee_policies", "posting_rules", "ledger_account_kinds",
        "ledger_accounts", "ledger_entries", "ledger_postings", "ledger_reversals", "ledger_balances", "ledger_seals",
    ),
    "events": ("events", "webhook_endpoints", "webhook_deliveries", "idempotency_keys", "status_history"),
}  # fmt: skip
# Nearly every table names one of these: lines to them would hide all others, the mark FK says enough.
_EVERYWHERE = frozenset({"currencies", "countries"})
_SHORT = {"timestamp with time zone": "timestamptz", "double precision": "float8"}
_KEYS = """
select conrelid::regclass::text, confrelid::regclass::text, (select array_agg(a.attname order by k.n)
    from unnest(conkey) with ordinality as k (num, n)
    join pg_attribute a on a.attrelid = conrelid and a.attnum = k.num),
    exists (select 1 from pg_index i where i.indrelid = conrelid and i.indisunique and i.indpred is null
        and i.indkey::int2[] <@ conkey)
from pg_constraint join pg_class t on t.oid = conrelid
where connamespace = 'oltp'::regnamespace and contype = 'f' and conparentid = 0 and not t.relispartition
order by 1, 3, 2
"""


@dataclass(frozen=True)
class Relation:
    """A foreign key, or a trigger in its place: columns of `child` that name a row of `parent`."""

    child: str
    parent: str
    columns: tuple[str, ...]
    single: bool = False  # at most one child of a parent
    by_trigger: bool = False


# The journal is checked by statement, which stands for keys; rows that are never deleted need no more.
_HELD_BY_TRIGGERS = (
    Relation("ledger_postings", "ledger_entries", ("entry_id",), by_trigger=True),
    Relation("ledger_postings", "ledger_accounts", ("ledger_account_id",), by_trigger=True),
)


def read_relations(conn: psycopg.Connection) -> list[Relation]:
    """Foreign keys of schema `oltp`, partitions left out, and what triggers hold in their place."""
    rows = conn.execute(_KEYS).fetchall()
    keys = [Relation(child.removeprefix("oltp."), parent.removeprefix("oltp."), tuple(columns), single)
            for child, parent, columns, single in rows]  # fmt: skip
    return [*keys, *_HELD_BY_TRIGGERS]


def domain_of(table: str) -> str:
    """The domain that holds a table; `LookupError` with the remedy when none does."""
    for domain, tables in DOMAINS.items():
        if table in tables:
            return domain
    raise LookupError(f"{table} is in no domain: add it to DOMAINS in oltp/erd.py")


def diagram(domain: str, schema: dict[str, TableSchema], relations: Iterable[Relation]) -> str:
    """Mermaid `erDiagram` of one domain: its tables with their columns, and by name those of others they point to."""
    tables, relations = DOMAINS[domain], list(relations)
    lines = [f"%% {domain}: made by `python -m stripe_platform.oltp.erd`",
             "%% lines to currencies and countries are left out; a dotted one is held by a trigger", "erDiagram"]
    for name in tables:
        named = {column for relation in relations if relation.child == name for column in relation.columns}
        lines.append(f"    {name} {{")
        for column in schema[name].columns:
            kind = column.type.partition("(")[0]
            marks = ["PK"] * (column.name in schema[name].key) + ["FK"] * (column.name in named)
            lines.append(f"        {_SHORT.get(kind, kind)} {column.name} {', '.join(marks)}".rstrip())
        lines.append("    }")
    for relation in relations:
        if relation.child in tables and (relation.parent not in _EVERYWHERE or relation.child in _EVERYWHERE):
            lines.append(f"    {relation.parent} {_cardinality(schema, relation)} {relation.child} : "
                         f'"{", ".join(relation.columns)}"')  # fmt: skip
    return "\n".join(lines) + "\n"


def overview(relations: Iterable[Relation]) -> str:
    """Mermaid flowchart of the domains: their tables, and how many foreign keys lead from one to another."""
    links = Counter((domain_of(r.child), domain_of(r.parent)) for r in relations)
    lines = ["%% made by `python -m stripe_platform.oltp.erd`; columns stand in erd-<domain>.mermaid", "flowchart LR"]
    for domain, tables in DOMAINS.items():
        lines.append(f'    {domain}["<b>{domain}</b><br/>{"<br/>".join(tables)}"]')
    for (child, parent), count in sorted(links.items()):
        if child != parent:
            lines.append(f"    {child} -->|{count} key{'s' * (count > 1)}| {parent}")
    return "\n".join(lines) + "\n"


def render(conn: psycopg.Connection) -> dict[str, str]:
    """Text of every diagram by file name."""
    schema, relations = read_catalogue(conn), read_relations(conn)
    for table in schema:
        domain_of(table)
    return {
        "erd.mermaid": overview(relations),
        **{f"erd-{domain}.mermaid": diagram(domain, schema, relations) for domain in DOMAINS},
    }


def generate(owner_dsn: str, folder: Path = DOCS) -> None:
    """Write every diagram of the database behind `owner_dsn` into `folder`."""
    with psycopg.connect(owner_dsn) as conn:
        for name, text in render(conn).items():
            (folder / name).write_text(text)


def _cardinality(schema: dict[str, TableSchema], relation: Relation) -> str:
    child = schema[relation.child]
    parent = "|o" if any(child.column(name).nullable for name in relation.columns) else "||"
    return f"{parent}{'..' if relation.by_trigger else '--'}{'o|' if relation.single else 'o{'}"


if __name__ == "__main__":
    generate(load_settings().need("oltp_owner_dsn"))
