"""The checks of the books pass on loaded days and fail on the violation each was made for."""

from __future__ import annotations

import dataclasses
import datetime as dt

import psycopg
import pytest
from uncommitted import Uncommitted

from asset_checks.judge import WHOLE, Check, Verdict, judge
from asset_checks.stores import Stores
from asset_checks.suites.ledger import CHECKS
from stripe_platform.oltp.assets import bring
from stripe_platform.settings import Settings
from stripe_platform.simulation.feed import SimulatedFeed
from stripe_platform.simulation.world import Options

pytestmark = pytest.mark.servers
FIRST = dt.date(2026, 6, 1)
NAMED = {check.name: check for check in CHECKS}

# Names of the rules, and what breaks them once the guards of the database are out of the way.
TAMPERED = [
    ("entries_balance", "unbalanced", "update oltp.ledger_postings set amount = amount + 1 where {one_posting}"),
    ("entries_balance", "without_postings", "delete from oltp.ledger_postings where entry_id = {one_entry}"),
    ("entries_balance", "in_accounts_of_another_currency",
     "update oltp.ledger_postings set currency = 'bhd' where entry_id = {one_entry}"),
    ("entries_balance", "mixed_currencies",
     ("insert into oltp.ledger_postings select {one_entry}, p.position, p.account, 'usd', p.amount"
      " from (values (90, 'cash:usd', 5), (91, 'rounding:usd', -5)) as p (position, account, amount)")),
    ("movements_are_booked", "net_astray", "update oltp.balance_transactions set net = net + 1 where id = {one}"),
    ("movements_are_booked", "fees_not_explained",
     "update oltp.fee_details set amount = amount + 1 where balance_transaction_id = {one}"),
    ("movements_are_booked", "not_booked",
     "update oltp.balance_transactions set ledger_entry_id = null where id = {one}"),
    ("movements_are_booked", "booked_otherwise",
     "update oltp.balance_transactions set amount = amount + 1, net = net + 1 where id = {one}"),
    ("movements_are_booked", "captured_without_movement", "delete from oltp.balance_transactions where id = {one}"),
    ("trial_balance_is_zero", "unbalanced_currencies",
     "update oltp.ledger_postings set amount = amount + 1 where {one_posting}"),
    ("kept_balances_are_the_postings", "not_the_postings",
     "update oltp.ledger_balances set balance = balance + 1 where ledger_account_id = {one_account}"),
    ("sealed_entries_are_unaltered", "broken_seals",
     "update oltp.ledger_entries set effective_at = effective_at + interval '1 microsecond' where id = {one_entry}"),
    ("sealed_entries_are_unaltered", "broken_seals",
     "update oltp.ledger_postings set amount = -amount where entry_id = {one_entry}"),
    ("books_and_objects_agree", "refunds_astray",
     "update oltp.charges set amount_refunded = amount_refunded + 1 where id = {one_charge}"),
    ("books_and_objects_agree", "refunds_astray",
     ("insert into oltp.refunds (id, charge_id, amount, currency, status, created) select 're_x', id, amount + 1,"
      " currency, 'pending', created from oltp.charges where id = {one_charge}")),
    ("books_and_objects_agree", "disputes_astray",
     "update oltp.disputes set status = case when status = 'won' then 'lost' else 'won' end where id = {one_dispute}"),
    ("books_and_objects_agree", "undone_not_returned",
     ("insert into oltp.refunds (id, charge_id, amount, currency, status, created) select 're_x', id, 5, currency,"
      " 'failed', created from oltp.charges where id = {one_charge};"
      "update oltp.balance_transactions set source_id = 're_x', reporting_category = 'refund' where id = {one}")),
    ("books_and_objects_agree", "payouts_not_their_movements",
     ("insert into oltp.payouts (id, account_id, amount, currency, status, created) select 'po_x', b.account_id, 5,"
     " b.currency, 'paid', b.created from oltp.balance_transactions b where b.id = {one};"
     "insert into oltp.payout_balance_transactions values ({one}, 'po_x')")),
    ("books_and_objects_agree", "reversals_not_opposite",
     "insert into oltp.ledger_reversals select min(id), max(id) from oltp.ledger_entries"),
    ("books_and_objects_agree", "without_movement",
     "insert into oltp.transfers (id, amount, currency, created) values ('tr_x', 5, 'eur', now())"),
    ("books_and_objects_agree", "without_object",
     "insert into oltp.ledger_entries (id, kind, effective_at) values ('le_' || ops.id_body(now()), 'charge', now())"),
    ("books_and_objects_agree", "without_object",
     ("insert into oltp.ledger_entries (id, kind, source_id, effective_at) values ('le_' || ops.id_body(now()),"
     " 'dispute_lost', 'dp_x', now())")),
    ("books_and_objects_agree", "on_the_wrong_side",
     ("insert into oltp.ledger_postings select {one_entry}, 90 + row_number() over (), id, currency, 1000000000000"
     " from oltp.ledger_accounts where kind = 'fee_revenue'")),
    ("clearing_accounts_return_to_zero", "overdue",
     ("insert into oltp.ledger_postings select {one_entry}, 90 + row_number() over (), id, currency, 5"
     " from oltp.ledger_accounts where kind = 'transfer_clearing'")),
    ("clearing_accounts_return_to_zero", "overdue_threefold",
     ("insert into oltp.ledger_postings select {one_entry}, 90 + row_number() over (), id, currency, 5"
     " from oltp.ledger_accounts where kind = 'transfer_clearing'")),
]
PLACES = {
    "one": "(select min(b.id) from oltp.balance_transactions b where b.fee > 0 and b.reporting_category = 'charge')",
    "one_entry": "(select min(e.id) from oltp.ledger_entries e)",
    "one_charge": "(select min(c.id) from oltp.charges c where c.amount_captured > 0)",
    "one_dispute": "(select min(d.id) from oltp.disputes d join oltp.balance_transactions b on b.source_id = d.id)",
    "one_account": "(select min(b.ledger_account_id) from oltp.ledger_balances b)",
    "one_posting": "entry_id = (select min(e.id) from oltp.ledger_entries e) and position = 1",
}
UNGUARDED = """
do $$ declare t record; begin
    for t in select oid::regclass as name from pg_class
        where relnamespace = 'oltp'::regnamespace and relkind in ('r', 'p')
        and (relname like 'ledger\\_%%' or relname like 'balance\\_transactions%%' or relname like 'fee\\_details%%')
    loop execute format('alter table %s disable trigger all', t.name); end loop;
end $$
"""


@pytest.fixture
def books(both: Settings) -> Stores:
    """Two loaded days and a tail."""
    feed = SimulatedFeed(both, Options(first_day=FIRST, days=2, per_day=150, dispute_lag_days=2))
    bring(feed, list(feed.calendar()))
    return Stores.of_settings()


def verdicts(check: Check, stores: Stores) -> list[Verdict]:
    days = [(FIRST + dt.timedelta(days=i)).isoformat() for i in range(4)]
    return judge(check, stores, days if check.partitioned else [WHOLE])


def test_loaded_days_pass_every_check_of_the_books(books: Stores):
    for check in CHECKS:
        found = verdicts(check, books)
        assert [v.outcome for v in found] == ["passed"] * len(found), (check.name, found)
        assert sum(v.rows_scanned for v in found) > 0


def test_each_tampering_turns_its_check_red(books: Stores, servers, both: Settings):
    """One load for all of them: each is planted in a transaction of its own that is rolled back."""
    database = both.need("oltp_owner_dsn").rsplit("/", 1)[1]
    found = []
    for name, rule, statement in TAMPERED:
        with psycopg.connect(servers.superuser("oltp", database)) as conn:
            conn.execute("alter table oltp.balance_transactions drop constraint net_is_amount_less_fee")
            conn.execute(UNGUARDED)
            conn.execute("set session_replication_role = replica")
            assert conn.execute(statement.format(**PLACES)).rowcount > 0
            stores = dataclasses.replace(books, oltp_resource=Uncommitted(conn))
            failed = [v for v in verdicts(NAMED[name], stores) if v.outcome == "failed"]
            found.append((name, rule, len(failed), any(f"no_{rule}" in v.reasons for v in failed)))
            conn.rollback()
    assert found == [(name, rule, 1, True) for name, rule, _ in TAMPERED]


def test_empty_books_are_not_evaluated(both: Settings):
    for check in CHECKS:
        assert {v.outcome for v in verdicts(check, Stores.of_settings())} == {"not_evaluated"}, check.name
