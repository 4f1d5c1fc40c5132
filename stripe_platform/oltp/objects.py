"""Reading objects for whoever shows them: by id or page by page, one merchant's alone, sealed fields opened.

A kind is one declaration: its query, the expression that says whose a row is, what may be filtered by, and which
ciphertext columns are opened. Every query of this module carries the merchant.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from stripe_platform.keyring import Keyring
from stripe_platform.vault import open_values

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How one kind of object is read. Sealed columns are named `table.column` and come out without `_ciphertext`."""

    select: str
    owner: str
    filters: Mapping[str, str] = field(default_factory=dict)
    sealed: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)  # name: table, column, pk's name
    listed: str = "true"  # what lists leave out, ids still find
    id: str = "t.id"
    created: str = "t.created"


def _sealed(table: str, key: str, *names: str, prefix: str = "") -> dict[str, tuple[str, str, str]]:
    return {prefix + name: (f"oltp.{table}", f"{name}_ciphertext", key) for name in names}


# The text of queries below is this module's own; what callers send goes in as parameters.
_CARD = """pm.type as method_type, pm.card_brand, pm.card_last4, pm.card_exp_month, pm.card_exp_year, pm.card_funding,
    pm.card_country, pm.card_fingerprint"""

_CHARGE_OWNER = "c.account_id"
KINDS: dict[str, Kind] = {
    "customer": Kind(
        """select t.id, t.account_id, t.created, t.country, t.currency, t.balance, t.delinquent, t.deleted, t.livemode,
            t.tax_exempt, t.invoice_prefix, t.default_payment_method_id, t.name_ciphertext, t.email_ciphertext,
            t.phone_ciphertext, t.address_ciphertext, t.description_ciphertext, t.metadata_ciphertext
        from oltp.customers t""",
        "t.account_id", {},
        _sealed("customers", "id", "name", "email", "phone", "address", "description", "metadata"),
        listed="not t.deleted"),
    "payment_method": Kind(
        """select t.id, t.customer_id, t.type, t.card_brand, t.card_last4, t.card_exp_month, t.card_exp_year,
            t.card_funding, t.card_country, t.card_fingerprint, t.allow_redisplay, t.livemode, t.detached, t.created,
            t.name_ciphertext, t.email_ciphertext, t.phone_ciphertext, t.address_ciphertext, t.metadata_ciphertext,
            coalesce(k.account_id, v.account_id) as account_id, d.cvc_check,
            d.address_line1_check, d.address_postal_code_check, d.iin, d.issuer,
            d.three_d_secure_supported, d.wallet_type
        from oltp.payment_methods t left join oltp.customers k on k.id = t.customer_id
        left join vault.cards v on v.payment_method_id = t.id
        left join oltp.payment_method_cards d on d.payment_method_id = t.id""",
        "coalesce(k.account_id, v.account_id)", {"customer": "t.customer_id", "type": "t.type"},
        _sealed("payment_methods", "id", "name", "email", "phone", "address", "metadata"),
        listed="not t.detached"),
    "payment_intent": Kind(
        """select t.id, t.account_id, t.customer_id, t.payment_method_id, t.amount, t.amount_received, t.currency,
            t.status, t.capture_method, t.created, coalesce(d.livemode, false) as livemode, d.confirmation_method,
            d.setup_future_usage, d.cancellation_reason, d.canceled_at, d.next_action_type, d.on_behalf_of_id,
            d.transfer_group, d.application_fee_amount, d.review_id, d.receipt_email_ciphertext,
            d.description_ciphertext, d.metadata_ciphertext,
            coalesce(c.id, d.latest_charge_id) as latest_charge_id, c.amount as charge_amount,
            c.failure_code as charge_failure_code, c.payment_method_id as charge_method_id, o.type as outcome_type
        from oltp.payment_intents t
        left join oltp.payment_intent_details d on d.payment_intent_id = t.id
        left join lateral (select c.* from oltp.charges c where c.payment_intent_id = t.id
            order by c.created desc, c.id desc limit 1) c on true
        left join oltp.charge_outcomes o on o.charge_id = c.id""",
        "t.account_id", {"customer": "t.customer_id"},
        _sealed("payment_intent_details", "id", "receipt_email", "description", "metadata")),
    "charge": Kind(
        f"""select t.id, t.payment_intent_id, t.account_id, t.customer_id, t.payment_method_id, t.amount,
            t.amount_captured, t.amount_refunded, t.currency, t.status, t.disputed, t.failure_code, t.created,
            o.type as outcome_type, o.network_status, o.reason, o.risk_level, o.risk_score, coalesce(b.id,
            d.balance_transaction_id) as balance_transaction_id, d.failure_balance_transaction_id, d.captured, d.paid,
            d.application_fee_id, d.application_fee_amount, d.transfer_id, d.transfer_group, d.on_behalf_of_id,
            d.review_id, d.failure_message, d.statement_descriptor, coalesce(d.livemode, false) as livemode,
            d.receipt_email_ciphertext, d.description_ciphertext, d.metadata_ciphertext, {_CARD},
            pm.name_ciphertext as m_name_ciphertext, pm.email_ciphertext as m_email_ciphertext,
            pm.phone_ciphertext as m_phone_ciphertext, pm.address_ciphertext as m_address_ciphertext
        from oltp.charges t
        left join oltp.charge_outcomes o on o.charge_id = t.id
        left join oltp.charge_details d on d.charge_id = t.id
        left join oltp.payment_methods pm on pm.id = t.payment_method_id
        left join lateral (select b.id from oltp.balance_transactions b where b.source_id = t.id
            and b.reporting_category = 'charge' order by b.created limit 1) b on true""",
        "t.account_id", {"customer": "t.customer_id", "payment_intent": "t.payment_intent_id"},
        {**_sealed("charge_details", "id", "receipt_email", "description", "metadata"),
         **_sealed("payment_methods", "payment_method_id", "name", "email", "phone", "address", prefix="m_")}),
    "refund": Kind(
        """select t.id, t.charge_id, t.payment_intent_id, t.amount, t.currency, t.status, t.reason, t.created,
            t.balance_transaction_id, t.failure_balance_transaction_id, t.failure_reason, t.metadata_ciphertext,
            c.account_id
        from oltp.refunds t join oltp.charges c on c.id = t.charge_id""",
        _CHARGE_OWNER, {"charge": "t.charge_id", "payment_intent": "t.payment_intent_id"},
        _sealed("refunds", "id", "metadata")),
    "dispute": Kind(
        f"""select t.id, t.charge_id, t.payment_intent_id, t.amount, t.currency, t.status, t.reason, t.created,
            t.case_type, t.network_reason_code, t.evidence_due_by, t.evidence_has, t.evidence_past_due,
            t.evidence_submissions, t.is_charge_refundable, t.livemode, t.metadata_ciphertext, c.account_id,
            c.amount_captured = c.amount_refunded as charge_refunded, {_CARD},
            (select array_agg(b.id order by b.created, b.id) from oltp.balance_transactions b where b.source_id = t.id)
            as movements
        from oltp.disputes t join oltp.charges c on c.id = t.charge_id
        left join oltp.payment_methods pm on pm.id = c.payment_method_id""",
        _CHARGE_OWNER, {"charge": "t.charge_id", "payment_intent": "t.payment_intent_id"},
        _sealed("disputes", "id", "metadata")),
    "balance_transaction": Kind(
        """select t.id, t.account_id, t.source_id, t.type, t.reporting_category, t.amount, t.fee, t.net, t.currency,
            t.exchange_rate, t.status, t.balance_type, t.available_on, t.created,
            (select json_agg(json_build_object('type', f.type, 'amount', f.amount, 'currency', f.currency)
                order by f.position) from oltp.fee_details f where f.balance_transaction_id = t.id) as fee_details
        from oltp.balance_transactions t""",
        "t.account_id", {"type": "t.type", "source": "t.source_id", "currency": "t.currency"}),
    "event": Kind(
        """select t.id, t.type, t.account_id, t.api_version, t.object_kind, t.object_id, t.request_id,
            t.idempotency_key, t.livemode, t.created, (select count(*) from oltp.webhook_deliveries w
            where w.event_id = t.id and w.event_type = t.type and w.status = 'pending') as pending_webhooks
        from oltp.events t""",
        "t.account_id", {"type": "t.type"}),
    "webhook_endpoint": Kind(
        """select t.id, t.account_id, t.url, t.status, t.enabled_events, t.api_version, t.livemode, t.deleted,
            t.created, t.description_ciphertext, t.metadata_ciphertext
        from oltp.webhook_endpoints t""",
        "t.account_id", {}, _sealed("webhook_endpoints", "id", "description", "metadata"), listed="not t.deleted"),
    "product": Kind(
        """select t.id, t.account_id, t.name, t.type, t.active, t.tax_code, t.unit_label, t.shippable, t.url,
            t.statement_descriptor, t.default_price_id, t.livemode, t.deleted, t.created, t.metadata_ciphertext
        from oltp.products t""",
        "t.account_id", {"active": "t.active"}, _sealed("products", "id", "metadata"), listed="not t.deleted"),
    "price": Kind(
        """select t.id, t.product_id, t.active, t.currency, t.type, t.billing_scheme, t.unit_amount,
            t.unit_amount_decimal, t.recurring_interval, t.recurring_interval_count, t.usage_type, t.tiers_mode,
            t.tax_behavior, t.trial_period_days, t.nickname, t.lookup_key, t.livemode, t.deleted, t.created,
            t.metadata_ciphertext, p.account_id
        from oltp.prices t join oltp.products p on p.id = t.product_id""",
        "p.account_id", {"active": "t.active", "product": "t.product_id", "currency": "t.currency", "type": "t.type"},
        _sealed("prices", "id", "metadata"), listed="not t.deleted"),
    "subscription": Kind(
        """select t.*, (select min(i.current_period_end) from oltp.subscription_items i where i.subscription_id = t.id)
            as current_period_end
        from oltp.subscriptions t""",
        "t.account_id", {"customer": "t.customer_id", "status": "t.status"},
        _sealed("subscriptions", "id", "description", "metadata"), listed="t.status <> 'canceled'"),
    "subscription_item": Kind(
        """select t.id, t.subscription_id, t.price_id, t.quantity, t.current_period_start, t.current_period_end,
            t.deleted, t.created, t.metadata_ciphertext, s.account_id
        from oltp.subscription_items t join oltp.subscriptions s on s.id = t.subscription_id""",
        "s.account_id", {"subscription": "t.subscription_id"}, _sealed("subscription_items", "id", "metadata"),
        listed="not t.deleted"),
    "invoice": Kind(
        "select t.* from oltp.invoices t",
        "t.account_id", {"customer": "t.customer_id", "subscription": "t.subscription_id", "status": "t.status"},
        _sealed("invoices", "id", "description", "metadata"), listed="not t.deleted"),
    "line_item": Kind(
        """select t.id, t.invoice_id, t.subscription_item_id, t.invoice_item_id, t.price_id, t.type, t.amount,
            t.subtotal, t.currency, t.quantity, t.proration, t.discountable, t.period_start, t.period_end, t.livemode,
            t.description_ciphertext, t.metadata_ciphertext, i.account_id, i.created,
            s.subscription_id, p.product_id, p.unit_amount
        from oltp.invoice_lines t join oltp.invoices i on i.id = t.invoice_id
        left join oltp.subscription_items s on s.id = t.subscription_item_id
        left join oltp.prices p on p.id = t.price_id""",
        "i.account_id", {"invoice": "t.invoice_id"}, _sealed("invoice_lines", "id", "description", "metadata"),
        created="i.created"),
}
_CREATED = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True)
class Page:
    """Part of a list, newest first, and whether more follows in the direction asked for."""

    rows: list[Row]
    has_more: bool


class CursorError(LookupError):
    """The object a page is to start from or end before is not in this list."""


def find(conn: psycopg.Connection, ring: Keyring, kind: str, account_id: str, object_id: str) -> Row | None:
    """One object of a merchant; None when there is none, or it is another's."""
    return find_many(conn, ring, kind, account_id, [object_id]).get(object_id)


def find_many(
    conn: psycopg.Connection, ring: Keyring, kind: str, account_id: str, ids: Collection[str]
) -> dict[str, Row]:
    """Objects of a merchant by id; foreign and missing ones are left out."""
    spec = KINDS[kind]
    if not ids:
        return {}
    query = f"{spec.select} where {spec.owner} = %s and {spec.id} = any(%s)"
    rows = conn.cursor(row_factory=dict_row).execute(query, [account_id, list(ids)]).fetchall()
    return {row["id"]: row for row in _opened(conn, ring, spec, rows)}


def page(
    conn: psycopg.Connection, ring: Keyring, kind: str, account_id: str, *, limit: int,
    filters: Mapping[str, Any] | None = None, created: Mapping[str, dt.datetime] | None = None,
    starting_after: str | None = None, ending_before: str | None = None,
) -> Page:
    """Newest first. A cursor that is not the merchant's raises `CursorError`."""
    spec = KINDS[kind]
    terms, values = [f"{spec.owner} = %s", spec.listed], list[Any]([account_id])
    for name, value in (filters or {}).items():
        if name == "status" and value == "all":
            terms.remove(spec.listed)
            continue
        if name == "status":
            terms[1] = "true"
        terms.append(f"{spec.filters[name]} = {'any(%s)' if isinstance(value, list) else '%s'}")
        values.append(value)
    for name, instant in (created or {}).items():
        terms.append(f"{spec.created} {_CREATED[name]} %s")
        values.append(instant)
    cursor = starting_after or ending_before
    if cursor is not None:
        found = find(conn, ring, kind, account_id, cursor)
        if found is None:
            raise CursorError
        terms.append(f"({spec.created}, {spec.id}) {'<' if starting_after else '>'} (%s, %s)")
        values += [found["created"], cursor]
    direction = "asc" if ending_before and not starting_after else "desc"
    query = (f"{spec.select} where {' and '.join(terms)}"
             f" order by {spec.created} {direction}, {spec.id} {direction} limit {int(limit) + 1}")
    rows = conn.cursor(row_factory=dict_row).execute(query, values).fetchall()
    more, rows = len(rows) > limit, rows[:limit]
    if direction == "asc":
        rows.reverse()
    return Page(_opened(conn, ring, spec, rows), more)


def _opened(conn: psycopg.Connection, ring: Keyring, spec: Kind, rows: list[Row]) -> list[Row]:
    """Ciphertext columns replaced by their clear text, None where there is none or its key was erased."""
    places = []
    for row in rows:
        for name, (table, column, key) in spec.sealed.items():
            envelope = row.pop(f"{name}_ciphertext")
            row[name] = None
            if envelope is not None:
                places.append((row, name, (bytes(envelope), table, column, row[key])))
        for name in [name for name in row if name.endswith("_ciphertext")]:
            del row[name]
    for (row, name, _), value in zip(places, open_values(conn, ring, [p for *_, p in places]), strict=True):
        row[name] = None if value is None else value.decode("utf-8", "replace")
    return rows


def balance_of(conn: psycopg.Connection, account_id: str) -> dict[str, dict[str, int]]:
    """Minor units by state (`available`, `pending`) and currency, from the ledger."""
    rows = conn.execute(
        "select a.kind, a.currency, ledger.balance(a.id) from oltp.ledger_accounts a where a.account_id = %s"
        " and a.kind in ('merchant_available', 'merchant_pending') order by a.currency", [account_id])
    found: dict[str, dict[str, int]] = {"available": {}, "pending": {}}
    for kind, currency, amount in rows:
        found[kind.removeprefix("merchant_")][currency] = int(amount)
    return found
