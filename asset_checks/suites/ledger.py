"""The books: every entry balances, every movement is booked as it says, and the sealed past is as it was sealed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from asset_checks.judge import ROWS, WHOLE, Check
from asset_checks.rules import none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import counted
from stripe_platform.keys import key
from stripe_platform.oltp.calendar import SOURCE
from stripe_platform.oltp.ids import boundary_id

if TYPE_CHECKING:
    import pandas as pd

# A day may move no money: what shows that somebody looked is the closed day and a book that is not empty.
FLOORS = {"days_closed": 1, "table_filled": 1}

_DAYS = """
with days as (
    select * from unnest(%(days)s::date[], %(low)s::text[], %(high)s::text[], %(charge_low)s::text[],
        %(charge_high)s::text[]) as d (day, low, high, charge_low, charge_high)
)
select d.day::text as partition, t.*,
    (select count(*) from ops.day_ledger l where l.source = %(source)s and l.day = d.day) as days_closed,
    (select count(*) from (select 1 from oltp.ledger_entries limit 1) s) as table_filled
from days d
cross join lateral ({counts}) t
"""

_ENTRIES = """
    select count(distinct e.id) as rows_scanned,
        count(*) filter (where e.total <> 0) as unbalanced,
        count(*) filter (where e.postings = 0) as without_postings,
        count(*) filter (where e.astray > 0) as in_accounts_of_another_currency,
        count(distinct e.id) filter (where e.currencies > 1 and not e.exchanged) as mixed_currencies
    from (
        select e.id, p.currency, sum(p.amount) as total, count(p.entry_id) as postings,
            count(*) over (partition by e.id) as currencies,
            coalesce(bool_or(bool_or(p.ledger_account_id like 'fx\\_clearing:%%')) over (partition by e.id), false)
                as exchanged,
            count(*) filter (where p.entry_id is not null and a.currency is distinct from p.currency) as astray
        from oltp.ledger_entries e
        left join oltp.ledger_postings p on p.entry_id = e.id
        left join oltp.ledger_accounts a on a.id = p.ledger_account_id
        where e.id collate "C" >= d.low and e.id collate "C" < d.high
        group by 1, 2
    ) e
"""

_MOVEMENTS = """
    select count(*) as rows_scanned,
        count(*) filter (where b.net <> b.amount - b.fee) as net_astray,
        count(*) filter (where b.fee <> coalesce(f.total, 0)) as fees_not_explained,
        count(*) filter (where b.ledger_entry_id is null and (b.amount <> 0 or b.fee <> 0)) as not_booked,
        (
            select count(*) from (
                select m.ledger_entry_id, sum(m.net) as net from oltp.balance_transactions m
                where m.id collate "C" >= d.low and m.id collate "C" < d.high and m.ledger_entry_id is not null
                group by 1
            ) m
            left join lateral (
                select -sum(p.amount) as net from oltp.ledger_postings p
                where p.entry_id = m.ledger_entry_id and (p.ledger_account_id like 'merchant\\_available:%%'
                    or p.ledger_account_id like 'merchant\\_pending:%%')
            ) p on true
            where m.net <> coalesce(p.net, 0)
        ) as booked_otherwise,
        (
            select count(*) from oltp.charges c
            where c.id collate "C" >= d.charge_low and c.id collate "C" < d.charge_high and c.amount_captured > 0
            and not exists (select 1 from oltp.balance_transactions m where m.source_id = c.id)
        ) as captured_without_movement
    from oltp.balance_transactions b
    left join (
        select balance_transaction_id, sum(amount) as total from oltp.fee_details
        where balance_transaction_id collate "C" >= d.low and balance_transaction_id collate "C" < d.high group by 1
    ) f on f.balance_transaction_id = b.id
    where b.id collate "C" >= d.low and b.id collate "C" < d.high
"""


def _by_day(counts: str, prefix: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    following = [day + dt.timedelta(days=1) for day in days]
    with stores.oltp() as connection:
        return counted(
            connection, sql.SQL(_DAYS).format(counts=sql.SQL(counts)), days, source=SOURCE,
            low=[boundary_id(prefix, day) for day in days],
            high=[boundary_id(prefix, day) for day in following],
            charge_low=[boundary_id("ch", day) for day in days],
            charge_high=[boundary_id("ch", day) for day in following])


_SEALS = """
select %(whole)s as partition, (select count(*) from oltp.ledger_seals) as rows_scanned,
    (select count(*) from ledger.verify()) as broken_seals
"""
_BALANCES = """
select %(whole)s as partition, kept as rows_scanned, astray as not_the_postings from ledger.kept_balances_astray()
"""
_TRIAL = """
select %(whole)s as partition, count(*) as rows_scanned,
    count(*) filter (where debit <> credit) as unbalanced_currencies
from ledger.trial_balance()
"""

# Objects that Stripe owns are left out where their movements may be still to come.
_OBJECTS = """
with imported as materialized (select v.kind, v.object_id as id from ingest.versions v),
moved as materialized (
    select b.source_id as id, sum(b.amount) as amount, sum(b.net) as net, count(*) as n
    from oltp.balance_transactions b where b.source_id is not null and b.reporting_category <> 'charge' group by 1
)
select %(whole)s as partition, (select count(*) from oltp.ledger_entries) as rows_scanned,
    (
        select count(*) from oltp.charges c
        left join (select r.charge_id, sum(r.amount) filter (where r.status = 'succeeded') as given,
            sum(r.amount) as under_way from oltp.refunds r
            where r.status in ('pending', 'requires_action', 'succeeded') group by 1) r on r.charge_id = c.id
        where (c.amount_refunded <> coalesce(r.given, 0) or r.under_way > c.amount_captured)
        and not exists (select from imported i where i.kind = 'charge' and i.id = c.id)
    ) as refunds_astray,
    (
        select count(*) from oltp.disputes d left join moved m on m.id = d.id
        where not exists (select from imported i where i.kind = 'dispute' and i.id = d.id) and d.amount > 0
        and case when d.status = 'won' then coalesce(m.amount, 0) <> 0
            when d.status in ('prevented', 'charge_refunded') then coalesce(m.net, 0) <> 0
            when d.status like 'warning\\_%%' then m.n > 0
            else m.n is null or m.amount > 0 end
    ) as disputes_astray,
    (
        select count(*) from (
            select r.id from oltp.refunds r where r.status in ('failed', 'canceled')
            union all select p.id from oltp.payouts p where p.status in ('failed', 'canceled')
        ) u join moved m on m.id = u.id
        where m.net <> 0 and not exists (select from imported i where i.kind in ('payout', 'refund') and i.id = u.id)
    ) as undone_not_returned,
    (
        select count(*) from oltp.payouts p
        left join (select x.payout_id, sum(b.net) as net from oltp.payout_balance_transactions x
            join oltp.balance_transactions b on b.id = x.balance_transaction_id group by 1) s on s.payout_id = p.id
        left join (select b.source_id, sum(b.net) as net from oltp.balance_transactions b
            where b.reporting_category = 'payout' group by 1) o on o.source_id = p.id
        where p.automatic and p.status in ('in_transit', 'paid', 'pending')
        and coalesce(s.net, 0) <> coalesce(-o.net, 0)
        and not exists (select from imported i where i.kind = 'payout' and i.id = p.id)
    ) as payouts_not_their_movements,
    (
        select count(*) from oltp.ledger_reversals r where exists (
            select from oltp.ledger_postings p where p.entry_id in (r.entry_id, r.reversal_id)
            group by p.ledger_account_id having sum(p.amount) <> 0)
    ) as reversals_not_opposite,
    (
        select count(*) from (
            select r.id from oltp.refunds r where r.status in ('pending', 'requires_action', 'succeeded')
            union all select p.id from oltp.payouts p where p.status in ('in_transit', 'paid', 'pending')
            union all select t.id from oltp.transfers t
        ) o
        where not exists (select from moved m where m.id = o.id)
        and not exists (select from imported i where i.kind in ('payout', 'refund', 'transfer') and i.id = o.id)
    ) as without_movement,
    (
        select count(*) from oltp.ledger_entries e
        left join (select distinct b.ledger_entry_id as id from oltp.balance_transactions b) b on b.id = e.id
        where b.id is null and (e.source_id is null or (e.kind in ('authorization', 'dispute_lost', 'payout_paid')
            and not exists (select from oltp.charges c where c.id = e.source_id)
            and not exists (select from oltp.disputes d where d.id = e.source_id)
            and not exists (select from oltp.payouts p where p.id = e.source_id)))
    ) as without_object,
    (
        select count(*) from (
            select p.ledger_account_id as id, sum(p.amount) as balance from oltp.ledger_postings p group by 1
        ) s
        join oltp.ledger_accounts a on a.id = s.id
        join oltp.ledger_account_kinds k on k.kind = a.kind
        where k.kind in ('authorized_receivable', 'dispute_clearing', 'fee_revenue', 'merchant_authorized',
            'merchant_reserve', 'payout_in_transit')
        and s.balance * case k.normal_side when 'debit' then 1 else -1 end < 0
    ) as on_the_wrong_side
"""

# Days after which each kind of clearing account must have let go what it held: first in, first out.
_PATIENCE = {"transfer_clearing": 1, "application_fee_clearing": 1, "fx_clearing": 5, "network_receivable": 10,
             "refund_clearing": 10, "issuing_clearing": 10, "payout_in_transit": 15, "authorized_receivable": 31,
             "dispute_clearing": 180}  # fmt: skip
_CLEARING = """
with closed as (
    select max(l.day) + 1 as day from ops.day_ledger l where l.source = %(source)s
), held as (
    select a.id, w.times, sum(p.amount) filter (where t.old) as held,
        coalesce(sum(p.amount) filter (where not t.old and p.amount > 0), 0) as came,
        coalesce(sum(p.amount) filter (where not t.old and p.amount < 0), 0) as went
    from oltp.ledger_postings p
    join oltp.ledger_accounts a on a.id = p.ledger_account_id
    join unnest(%(kinds)s::text[], %(patience)s::int[]) as k (kind, patience) on k.kind = a.kind
    cross join closed c
    cross join (values (1), (3)) as w (times)
    cross join lateral (
        select p.entry_id < 'le_' || lpad(to_hex((extract(epoch from
            (c.day - w.times * k.patience)::timestamp at time zone 'UTC') * 1000)::bigint), 12, '0') as old
    ) t
    group by 1, 2
)
select %(whole)s as partition, count(*) filter (where h.times = 1) as rows_scanned,
    count(*) filter (where h.times = 1 and s.stands) as overdue,
    count(*) filter (where h.times = 3 and s.stands) as overdue_threefold
from held h
cross join lateral (select (h.held > 0 and h.held + h.went > 0) or (h.held < 0 and h.held + h.came < 0) as stands) s
"""


def _clearing(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as connection:
        return counted(connection, _CLEARING, whole=WHOLE, source=SOURCE, kinds=list(_PATIENCE),
                       patience=list(_PATIENCE.values()))


def _whole(query: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as connection:
        return counted(connection, query, whole=WHOLE)


CHECKS = [
    Check(
        key("oltp", "ledger_entries"), "entries_balance",
        "Debits equal credits per entry and currency; a second currency is there by exchange only.",
        partial(_by_day, _ENTRIES, "le"),
        none_of("unbalanced", "without_postings", "in_accounts_of_another_currency", "mixed_currencies"), FLOORS),
    Check(
        key("oltp", "balance_transactions"), "movements_are_booked",
        "Net is amount less fee, fees are explained, entries book what their movements say, captures have one.",
        partial(_by_day, _MOVEMENTS, "txn"),
        none_of("net_astray", "fees_not_explained", "not_booked", "booked_otherwise", "captured_without_movement"),
        FLOORS),
    Check(
        key("oltp", "ledger_postings"), "trial_balance_is_zero",
        "Over the whole journal debits equal credits in every currency.",
        partial(_whole, _TRIAL), none_of("unbalanced_currencies"), {ROWS: 1}, partitioned=False),
    Check(
        key("oltp", "ledger_balances"), "kept_balances_are_the_postings",
        "The newest kept balance of every account is the sum of its postings up to that day.",
        partial(_whole, _BALANCES), none_of("not_the_postings"), {ROWS: 1}, partitioned=False),
    Check(
        key("oltp", "ledger_seals"), "sealed_entries_are_unaltered",
        "The hash chain over closed entries verifies: nothing was altered, added or taken away.",
        partial(_whole, _SEALS), none_of("broken_seals"), {ROWS: 1}, partitioned=False),
    Check(
        key("oltp", "ledger_entries"), "books_and_objects_agree",
        "Refunds, disputes, payouts and reversals add up, each has its movement, and each entry an object behind it.",
        partial(_whole, _OBJECTS),
        none_of("refunds_astray", "disputes_astray", "undone_not_returned", "payouts_not_their_movements",
                "reversals_not_opposite", "without_movement", "without_object", "on_the_wrong_side"),
        {ROWS: 1}, partitioned=False),
    Check(
        key("oltp", "ledger_accounts"), "clearing_accounts_return_to_zero",
        "What a clearing account held has left it within its kind's days (threefold: it is long overdue).",
        _clearing, none_of("overdue", "overdue_threefold"), {ROWS: 1}, blocking=False, partitioned=False),
]
