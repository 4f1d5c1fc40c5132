"""What a payment's guards cost: `bench oltp --guards` takes them away one kind after the other.

Each rung runs beside pgbench at eight clients, on the scratch database of the bench, which is dropped afterwards. The
last rung is the physical floor: one function that only writes a payment's rows into bare tables.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from stripe_platform import progress
from stripe_platform.bench import Report

_TRIGGERS = """
select distinct format('alter table %s disable trigger user', t.tgrelid::regclass) from pg_trigger t
join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'oltp'::regnamespace and not t.tgisinternal
and t.tgparentid = 0
"""
_CONSTRAINTS = """
select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) from pg_constraint c
where c.connamespace = 'oltp'::regnamespace and c.conrelid <> 0 and c.contype = '{kind}' and c.conparentid = 0
and c.coninhcount = 0
"""
_INDEXES = """
select format('drop index %s', i.indexrelid::regclass) from pg_index i
join pg_class c on c.oid = i.indexrelid where c.relnamespace = 'oltp'::regnamespace and not i.indisunique
and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)
"""
RUNGS = (
    ("no triggers", _TRIGGERS),
    ("nor foreign keys", _CONSTRAINTS.format(kind="f")),
    ("nor checks", _CONSTRAINTS.format(kind="c")),
    ("nor further indexes", _INDEXES),
)
FLAT = "only written by one flat function"
_FLAT = """
create function payments.flat_payment(p_account text, p_customer text, p_method text, p_amount bigint, p_key text)
returns text language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    body text := ops.id_body(at);
begin
    insert into oltp.idempotency_keys (account_id, key, params_hash, operation, object_id, answer)
    values (p_account, p_key, decode(repeat('00', 32), 'hex'), 'create_payment', 'pi_' || body, '{}');
    insert into oltp.payment_intents (id, account_id, customer_id, payment_method_id, amount, amount_received, currency,
        status, capture_method, created)
    values ('pi_' || body, p_account, p_customer, p_method, p_amount, p_amount, 'eur', 'succeeded', 'automatic', at);
    insert into oltp.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, amount,
        amount_captured, currency, status, device_type, created)
    values ('ch_' || body, 'pi_' || body, p_account, p_customer, p_method, p_amount, p_amount, 'eur', 'succeeded',
        'desktop', at);
    insert into oltp.charge_outcomes (charge_id, type, network_status, risk_level)
    values ('ch_' || body, 'authorized', 'approved_by_network', 'not_assessed');
    insert into oltp.ledger_entries (id, kind, account_id, effective_at)
    values ('le_' || body, 'charge', p_account, at);
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
        currency, status, available_on, created, ledger_entry_id)
    values ('txn_' || body, p_account, 'ch_' || body, 'charge', 'charge', p_amount, 30, p_amount - 30, 'eur', 'pending',
        at + interval '2 days', at, 'le_' || body);
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    values ('txn_' || body, 0, 'stripe_fee', 30, 'eur');
    insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
    values ('le_' || body, 1, 'network_receivable:eur', 'eur', p_amount),
        ('le_' || body, 2, 'merchant_pending:eur:' || p_account, 'eur', 30 - p_amount),
        ('le_' || body, 3, 'fee_revenue:eur', 'eur', -30);
    insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)
    values ('evt_' || ops.id_body(at), 'payment_intent.created', p_account, 'payment_intent', 'pi_' || body, p_key, at),
        ('evt_' || ops.id_body(at), 'payment_intent.succeeded', p_account, 'payment_intent', 'pi_' || body, p_key, at),
        ('evt_' || ops.id_body(at), 'charge.succeeded', p_account, 'charge', 'ch_' || body, p_key, at);
    return body;
end $$
"""
FLAT_PAYMENT = r"""\set merchant random(1, {merchants})
\set payer random(1, {payers})
\set amount random(100, 100000)
\set key random(1, 1000000000000000)
select payments.flat_payment('acct_' || :merchant, 'cus_' || :payer, 'pm_' || :payer, :amount, 'k' || :key);
"""


def measure(report: Report, owner: psycopg.Connection, pair: Callable[[str, bool], float]) -> None:
    """Add a ratio per rung. `pair`: runs both sides under a name, flat or not, and gives ours to pgbench's.

    The guards are gone afterwards: `owner` is a connection to a scratch database.
    """
    rungs = (("all guards", None), *RUNGS, (FLAT, None))
    with progress.stage("guards", len(rungs)) as advance:
        for name, guards in rungs:
            if guards is not None:
                for (statement,) in owner.execute(guards).fetchall():
                    owner.execute(statement)
            if name == FLAT:
                owner.execute(_FLAT)
            report.ratio(f"ours/pgbench@8, {name}", pair(name, name == FLAT))
            advance(1)
