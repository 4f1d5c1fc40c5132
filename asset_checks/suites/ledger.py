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
        count(*) filter (where e.astray > 0) as in_accounts_of_another_currency
    from (
        select e.id, p.currency, sum(p.amount) as total, count(p.entry_id) as postings,
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
                where p.entry_id = m.ledger_entry_id and p.ledger_account_id like 'merchant\\_%%'
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


def _whole(query: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as connection:
        return counted(connection, query, whole=WHOLE)


CHECKS = [
    Check(
        key("oltp", "ledger_entries"), "entries_balance",
        "Debits equal credits per entry and currency, and every posting is in an account of its currency.",
        partial(_by_day, _ENTRIES, "le"),
        none_of("unbalanced", "without_postings", "in_accounts_of_another_currency"), FLOORS),
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
]
