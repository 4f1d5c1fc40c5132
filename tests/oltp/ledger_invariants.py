"""The ledger's invariants L1 to L23, each as one function from a connection to the violations it finds.

They read the tables themselves and share nothing with the code they judge. Connections are the owner's, in autocommit
mode. L13 to L16 and L21 also try what must be refused or change nothing, in transactions that are rolled back.
L24 reads other stores too: it is a check of marts and documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import LiteralString

import psycopg
from ledger_trials import MOVEMENTS, asked_again, balances, broken_seals, differing_orders, found_rows, one, undone

Invariant = Callable[[psycopg.Connection], list[str]]
JOURNAL = ("ledger_entries", "ledger_postings", "ledger_reversals", "ledger_seals", "ledger_balances")
EXPONENTS = {"eur": 2, "usd": 2, "huf": 2, "jpy": 0, "krw": 0, "kwd": 3, "bhd": 3, "tnd": 3, "isk": 2, "ugx": 2}
MULTIPLES = {"eur": 1, "usd": 1, "jpy": 1, "krw": 1, "kwd": 10, "bhd": 10, "tnd": 10, "huf": 100, "isk": 100,
             "ugx": 100}  # fmt: skip
THREE_DECIMALS = ("bhd", "jod", "kwd", "omr", "tnd")
NOT_MONEY = ("exchange_rates.rate", "balance_transactions.exchange_rate")  # exact decimals that are no amounts


def L1(conn: psycopg.Connection) -> list[str]:
    """Debits equal credits in every entry and currency, and no entry is without postings."""
    return found_rows(conn, """
        select e.id, p.currency, sum(p.amount) from oltp.ledger_entries e
        left join oltp.ledger_postings p on p.entry_id = e.id
        group by 1, 2 having sum(p.amount) is distinct from 0""")


def L2(conn: psycopg.Connection) -> list[str]:
    """Debits equal credits in every currency on every day."""
    return found_rows(conn, f"""
        select {DAY_OF_ENTRY} as day, p.currency, sum(p.amount) from oltp.ledger_postings p
        group by 1, 2 having sum(p.amount) <> 0""")


def L3(conn: psycopg.Connection) -> list[str]:
    """Money is `bigint` minor units: no column of an amount is anything else, no column of the ledger is a float."""
    return found_rows(conn, """
        select c.table_schema, c.table_name, c.column_name, c.data_type from information_schema.columns c
        where c.table_schema in ('oltp', 'ops') and (
            (c.data_type in ('double precision', 'real', 'money') and c.column_name !~ 'score')
            or (c.data_type = 'numeric' and c.table_name || '.' || c.column_name <> all (%s)
                and c.column_name ~ '(^|_)(amount|fee|net|balance|total|subtotal|price|fixed|minimum)($|_)'
                and c.column_name !~ '_decimal$'))
        union all
        select n.nspname, p.proname, t.typname, 'result' from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace and n.nspname in ('ledger', 'payments')
        join pg_type t on t.oid = p.prorettype and t.typname in ('float4', 'float8', 'money')""", list(NOT_MONEY))


def L4(conn: psycopg.Connection) -> list[str]:
    """A posting has its account's currency; an entry has one, or two that meet through their exchange accounts.

    Of two exchange legs the one that rounds to nothing is left out.
    """
    return found_rows(conn, """
        select e.* from (
            select p.entry_id, min(p.currency) as low, max(p.currency) as high, count(distinct p.currency) as n,
                bool_and(a.currency is not distinct from p.currency) as of_account,
                array_agg(distinct p.ledger_account_id) as accounts
            from oltp.ledger_postings p left join oltp.ledger_accounts a on a.id = p.ledger_account_id group by 1
        ) e
        where not e.of_account or e.n > 2 or (e.n = 2 and not e.accounts && array[
            'fx_clearing:' || e.low || ':' || e.high, 'fx_clearing:' || e.high || ':' || e.low])""")


def L5(conn: psycopg.Connection) -> list[str]:
    """Converted parts differ from the converted sum by a unit each at most, and trades book that much to rounding."""
    return found_rows(conn, """
        select 'charge', o.charge_id, sum(b.amount), sum(o.amount * b.exchange_rate * 10.0 ^ (s.stripe_exponent
            - c.stripe_exponent))
        from oltp.balance_transactions b
        join (
            select t.id, t.id as charge_id, t.currency, t.amount_captured as amount from oltp.charges t
            union all select r.id, r.charge_id, r.currency, r.amount from oltp.refunds r
            union all select d.id, d.charge_id, d.currency, d.amount from oltp.disputes d
        ) u on u.id = b.source_id
        cross join lateral (select u.charge_id, u.currency, case when b.reporting_category in ('refund', 'dispute')
            then -u.amount else u.amount end as amount) o
        join oltp.currencies s on s.code = b.currency
        join oltp.currencies c on c.code = o.currency
        where b.exchange_rate is not null group by o.charge_id, s.stripe_exponent
        having abs(sum(b.amount) - sum(o.amount * b.exchange_rate * 10.0 ^ (s.stripe_exponent - c.stripe_exponent)))
            > count(*) * case s.stripe_exponent when 3 then 10 else 1 end
        union all
        select 'pair', t.pair, t.rounded, n.movements from (
            select e.source_id as pair, sum(abs(p.amount)) as rounded from oltp.ledger_entries e
            join oltp.ledger_postings p on p.entry_id = e.id and p.ledger_account_id like 'rounding:%%'
            where e.kind = 'fx_trade' group by 1
        ) t
        cross join lateral (
            select count(distinct p.entry_id) as movements from oltp.ledger_postings p
            join oltp.ledger_entries e on e.id = p.entry_id and e.kind <> 'fx_trade'
            where p.ledger_account_id in ('fx_clearing:' || substr(t.pair, 7),
                'fx_clearing:' || split_part(t.pair, ':', 3) || ':' || split_part(t.pair, ':', 2))
        ) n
        where t.rounded > n.movements
        union all
        select 'rounding', p.entry_id, p.amount, null from oltp.ledger_postings p
        join oltp.ledger_entries e on e.id = p.entry_id and e.kind <> 'fx_trade'
        where p.ledger_account_id like 'rounding:%%'""")


def L6(conn: psycopg.Connection) -> list[str]:
    """Exponents are Stripe's; three-decimal amounts end with 0; payouts are whole multiples of what banks pay."""
    found = found_rows(conn, """
        select c.code, c.stripe_exponent, c.payout_multiple from oltp.currencies c
        join unnest(%s::text[], %s::int[], %s::int[]) as w (code, exponent, multiple) on w.code = c.code
        where c.stripe_exponent <> w.exponent or c.payout_multiple <> w.multiple
        union all
        select p.id, p.amount, w.multiple from oltp.payouts p
        join unnest(%s::text[], %s::int[]) as w (code, multiple) on w.code = p.currency
        where p.amount %% w.multiple <> 0""",
        list(EXPONENTS), list(EXPONENTS.values()), [MULTIPLES[code] for code in EXPONENTS],
        list(MULTIPLES), list(MULTIPLES.values()))  # fmt: skip
    return found + found_rows(conn, """
        select m.kind, m.id, m.amount from (
            select 'charge' as kind, id, currency, amount from oltp.charges
            union all select 'captured', id, currency, amount_captured from oltp.charges
            union all select 'refund', id, currency, amount from oltp.refunds
            union all select 'dispute', id, currency, amount from oltp.disputes
            union all select 'transfer', id, currency, amount from oltp.transfers
            union all select 'movement', id, currency, amount from oltp.balance_transactions
            union all select 'fee', id, currency, fee from oltp.balance_transactions
        ) m where m.currency = any(%s) and m.amount %% 10 <> 0""", list(THREE_DECIMALS))


def L7(conn: psycopg.Connection) -> list[str]:
    """A movement's net is its amount less its fee, and its fee is the sum of its details, in its currency."""
    return found_rows(conn, """
        select b.id, b.amount, b.fee, b.net, f.total from oltp.balance_transactions b
        left join (
            select d.balance_transaction_id as id, sum(d.amount) as total, count(distinct d.currency) as currencies,
                min(d.currency) as currency from oltp.fee_details d group by 1
        ) f on f.id = b.id
        where b.net <> b.amount - b.fee or b.fee <> coalesce(f.total, 0)
        or coalesce(f.currencies, 1) <> 1 or coalesce(f.currency, b.currency) <> b.currency""")


def L8(conn: psycopg.Connection) -> list[str]:
    """Captured is within authorised, and what succeeded refunds gave is `amount_refunded`, within captured."""
    return found_rows(conn, """
        select c.id, c.amount, c.amount_captured, c.amount_refunded, r.given from oltp.charges c
        left join (
            select charge_id, sum(amount) as given from oltp.refunds where status = 'succeeded' group by 1
        ) r on r.charge_id = c.id
        where c.amount_captured not between 0 and c.amount or c.amount_refunded not between 0 and c.amount_captured
        or c.amount_refunded <> coalesce(r.given, 0)""")


def L9(conn: psycopg.Connection) -> list[str]:
    """A dispute won nets to its fee as the policy says, lost stays away, prevented or an inquiry moves nothing."""
    return found_rows(conn, """
        select d.id, d.status, m.* from oltp.disputes d
        join oltp.charges c on c.id = d.charge_id
        left join oltp.accounts a on a.id = c.account_id
        cross join lateral (
            select count(*) as n, coalesce(sum(b.amount), 0) as amount, coalesce(sum(b.net), 0) as net,
                coalesce(sum(b.fee) filter (where b.reporting_category = 'dispute'), 0) as fee,
                coalesce(-sum(b.amount) filter (where b.reporting_category = 'dispute'), 0) as taken,
                min(b.currency) as currency
            from oltp.balance_transactions b where b.source_id = d.id
        ) m
        cross join lateral (
            select count(*) as standing from oltp.ledger_entries e where e.source_id = d.id and e.kind = 'dispute_lost'
            and not exists (select 1 from oltp.ledger_reversals r where e.id in (r.entry_id, r.reversal_id))
        ) l
        cross join lateral (
            select coalesce((select p.returned_when_won from oltp.fee_policies p where p.kind = 'dispute'
                and p.currency = m.currency and p.country in ('*', a.country) order by p.country desc limit 1), false)
                as returned
        ) f
        where d.amount > 0 and case d.status
            when 'won' then m.n <> 2 or m.amount <> 0 or m.net <> case when f.returned then 0 else -m.fee end
                or l.standing <> 0
            when 'lost' then m.n <> 1 or m.taken < 0 or m.net <> -m.taken - m.fee or l.standing <> 1
            when 'prevented' then m.n not in (0, 2) or m.amount <> 0 or m.net <> 0 or l.standing <> 0
            when 'charge_refunded' then m.n not in (0, 2) or m.amount <> 0 or m.net <> 0 or l.standing <> 0
            when 'needs_response' then m.n <> 1 or m.net <> -m.taken - m.fee or l.standing <> 0
            when 'under_review' then m.n <> 1 or m.net <> -m.taken - m.fee or l.standing <> 0
            when 'appeal_needs_response' then m.n <> 1 or m.net <> -m.taken - m.fee
            when 'appeal_under_review' then m.n <> 1 or m.net <> -m.taken - m.fee
            else m.n <> 0 end
        union all
        select d.id, 'taken', null, null, null, null, -b.amount, b.currency from oltp.disputes d
        join oltp.balance_transactions b on b.source_id = d.id and b.reporting_category = 'dispute'
        where b.currency = d.currency and b.amount <> -d.amount""")


def L10(conn: psycopg.Connection) -> list[str]:
    """A refund or payout that failed or was canceled, and a top-up reversed, gave back exactly what it took."""
    return found_rows(conn, """
        with undone as (
            select r.id, r.failure_balance_transaction_id as back, true as named from oltp.refunds r
            where r.status in ('failed', 'canceled') and r.balance_transaction_id is not null
            union all select p.id, p.failure_balance_transaction_id, true from oltp.payouts p
            where p.status in ('failed', 'canceled')
            union all select t.id, null, false from oltp.topups t where t.status = 'reversed'
        )
        select u.id, m.n, m.amount, m.net, a.astray from undone u
        cross join lateral (
            select count(*) as n, sum(b.amount) as amount, sum(b.net) as net,
                count(*) filter (where b.id = u.back) as named
            from oltp.balance_transactions b
            where b.source_id = u.id and b.reporting_category <> 'other_adjustment'
        ) m
        cross join lateral (
            select count(*) as astray from (
                select 1 from oltp.balance_transactions b
                join oltp.ledger_postings p on p.entry_id = b.ledger_entry_id
                where b.source_id = u.id and b.reporting_category <> 'other_adjustment'
                group by replace(p.ledger_account_id, 'merchant_pending:', 'merchant_available:')
                having sum(p.amount) <> 0) s
        ) a
        where m.n <> 2 or m.amount <> 0 or m.net <> 0 or a.astray > 0 or (u.named and m.named <> 1)
        union all
        select p.id, null, null, null, null from oltp.payouts p
        join oltp.ledger_entries e on e.source_id = p.id and e.kind = 'payout_paid'
        where p.status in ('failed', 'canceled')
        and not exists (select 1 from oltp.ledger_reversals r where e.id in (r.entry_id, r.reversal_id))""")


def L11(conn: psycopg.Connection) -> list[str]:
    """An automatic payout is the sum of its movements, its merchant's and available; its own is the opposite."""
    return found_rows(conn, """
        select p.id, p.amount, o.net, m.net, m.astray from oltp.payouts p
        left join oltp.balance_transactions o on o.id = p.balance_transaction_id
        cross join lateral (
            select coalesce(sum(b.net), 0) as net, count(*) filter (where b.account_id is distinct from p.account_id
                or b.currency <> o.currency or b.available_entry_id is null) as astray
            from oltp.payout_balance_transactions x join oltp.balance_transactions b on b.id = x.balance_transaction_id
            where x.payout_id = p.id
        ) m
        where p.automatic and p.status in ('pending', 'in_transit', 'paid')
        and (o.net is distinct from -m.net or m.astray > 0 or (o.currency = p.currency and p.amount <> m.net))
        union all
        select p.id, p.amount, o.net, null, null from oltp.payouts p
        left join oltp.balance_transactions o on o.id = p.balance_transaction_id
        where not p.automatic and (o.id is null or (o.currency = p.currency and o.net <> -p.amount))""")


def L12(conn: psycopg.Connection) -> list[str]:
    """A merchant's pending and available balances are the net of its movements, and none waits beyond its day."""
    return found_rows(conn, """
        select coalesce(l.account, m.account), l.balance, m.net from (
            select p.ledger_account_id as account, -sum(p.amount) as balance from oltp.ledger_postings p
            join oltp.ledger_entries e on e.id = p.entry_id and e.kind <> 'write_off'
            where p.ledger_account_id like 'merchant\\_pending:%%' or p.ledger_account_id like 'merchant\\_available:%%'
            group by 1
        ) l
        full join (
            select case when b.available_entry_id is null then 'merchant_pending:' else 'merchant_available:' end
                || b.currency || coalesce(':' || b.account_id, '') as account, sum(b.net) as net
            from oltp.balance_transactions b group by 1
        ) m on m.account = l.account
        where coalesce(l.balance, 0) <> coalesce(m.net, 0)
        union all
        select b.id, extract(epoch from b.available_on)::bigint, null from oltp.balance_transactions b
        cross join ops.ledger_calendar c
        where b.available_entry_id is null and b.ledger_entry_id is not null and b.net <> 0
        and b.available_on <= c.released_until - interval '1 day'""")


def L13(conn: psycopg.Connection) -> list[str]:
    """The same event or key twice makes one movement, one entry and the same answer."""
    found = found_rows(conn, """
        select b.source_id, b.reporting_category, count(*) from oltp.balance_transactions b
        where b.reporting_category in ('charge', 'refund', 'refund_failure', 'dispute', 'dispute_reversal', 'payout',
            'payout_reversal', 'topup', 'topup_reversal', 'platform_earning')
        group by 1, 2 having count(*) > 1
        union all
        select e.source_id, e.kind || ' ' || e.phase, count(*) from oltp.ledger_entries e
        where e.source_id is not null and e.kind <> 'fx_trade'
        and not exists (select 1 from oltp.ledger_reversals r where e.id in (r.entry_id, r.reversal_id))
        group by 1, 2 having count(*) > 1
        union all
        select e.idempotency_key, e.type, count(*) from oltp.events e where e.idempotency_key is not null
        group by e.account_id, 1, 2 having count(*) > 1""")
    with undone(conn):
        for key, answer, again, replayed in asked_again(conn, same=True):
            if not replayed or again != answer:
                found.append(f"key {key} asked again is answered otherwise")
    return found


def L14(conn: psycopg.Connection) -> list[str]:
    """A key that comes with other parameters is refused and moves nothing."""
    with undone(conn):
        before = one(conn, "select count(*) from oltp.balance_transactions")
        found = [f"key {key} took other parameters" for key, _, again, _ in asked_again(conn, same=False)
                 if "idempotency_key_reused" not in again]
        if one(conn, "select count(*) from oltp.balance_transactions") != before:
            found.append("a movement was made by a key with other parameters")
    return found


def L15(conn: psycopg.Connection) -> list[str]:
    """Movements booked in any order give the same books."""
    orders = [list(range(len(MOVEMENTS))) for _ in range(4)]
    for number, order in enumerate(orders[1:]):
        random.Random(number).shuffle(order)  # noqa: S311
    orders.append(orders[0][::-1])
    return differing_orders(conn, orders)


def L16(conn: psycopg.Connection) -> list[str]:
    """The journal refuses every change, and its hash chain is what its rows hash to."""
    found = []
    for table in JOURNAL:
        for statement in ("update oltp.{0} set {1} = {1} where ctid = (select ctid from oltp.{0} limit 1)",
                          "delete from oltp.{0} where ctid = (select ctid from oltp.{0} limit 1)",
                          "truncate oltp.{0} cascade"):  # fmt: skip
            column = one(conn, "select column_name from information_schema.columns where table_schema = 'oltp'"
                                " and table_name = %s order by ordinal_position limit 1", table)
            try:
                with undone(conn):
                    changed = conn.execute(statement.format(table, column).encode()).rowcount
            except (psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege):
                continue
            if changed != 0:
                found.append(f"{statement.split()[0]} of {table} went through")
    return found + broken_seals(conn)


def L17(conn: psycopg.Connection) -> list[str]:
    """A reversal names its original and is its exact opposite; an original is reversed once, a reversal never."""
    return found_rows(conn, """
        select r.entry_id, r.reversal_id, 'not opposite' from oltp.ledger_reversals r
        where exists (
            select 1 from oltp.ledger_postings p where p.entry_id in (r.entry_id, r.reversal_id)
            group by p.ledger_account_id, p.currency having sum(p.amount) <> 0)
        union all
        select r.entry_id, null, 'reversed twice' from oltp.ledger_reversals r group by 1 having count(*) > 1
        union all
        select r.entry_id, r.reversal_id, 'reversal reversed' from oltp.ledger_reversals r
        where exists (select 1 from oltp.ledger_reversals o where o.entry_id = r.reversal_id)
        union all
        select null, e.id, 'names no original' from oltp.ledger_entries e where e.phase in ('post', 'void')
        and not exists (select 1 from oltp.ledger_reversals r where r.reversal_id = e.id)""")


def L18(conn: psycopg.Connection) -> list[str]:
    """Clearing accounts hold what open objects explain, and nothing that has been open for more than ten days."""
    return found_rows(conn, f"""
        with balances as (
            select a.kind || ':' || a.currency as account, sum(p.amount) as balance from oltp.ledger_postings p
            join oltp.ledger_accounts a on a.id = p.ledger_account_id
            where a.kind in ('authorized_receivable', 'payout_in_transit', 'dispute_clearing', 'transfer_clearing',
                'application_fee_clearing')
            group by 1
        ), open as (
            select 'authorized_receivable:' || c.currency as account, sum(c.amount) as balance from oltp.charges c
            join oltp.payment_intents i on i.id = c.payment_intent_id and i.status = 'requires_capture'
            where c.status = 'succeeded' group by 1
            union all
            select 'payout_in_transit:' || p.currency, -sum(p.amount) from oltp.payouts p
            where p.status in ('pending', 'in_transit') group by 1
            union all
            select 'dispute_clearing:' || d.currency, -sum(d.amount) from oltp.disputes d
            where d.status in ('needs_response', 'under_review') or (d.status like 'appeal\\_%%' and not exists (
                select 1 from oltp.ledger_entries e where e.source_id = d.id and e.kind = 'dispute_lost'))
            group by 1
        )
        select coalesce(b.account, o.account), b.balance, o.balance from balances b
        full join open o on o.account = b.account where coalesce(b.balance, 0) <> coalesce(o.balance, 0)
        union all
        select s.account, s.then, s.since from (
            select p.ledger_account_id as account, sum(p.amount) filter (where t.old) as then,
                sum(p.amount) filter (where not t.old and p.amount > 0) as more,
                sum(p.amount) filter (where not t.old and p.amount < 0) as less,
                sum(p.amount) filter (where not t.old) as since
            from oltp.ledger_postings p
            join oltp.ledger_accounts a on a.id = p.ledger_account_id
            join oltp.ledger_account_kinds k on k.kind = a.kind and k.clearing
            cross join lateral (select {DAY_OF_ENTRY} < (now() at time zone 'UTC')::date - 10 as old) t
            where a.kind not in ('authorized_receivable', 'payout_in_transit', 'dispute_clearing') group by 1
        ) s
        where (s.then > 0 and s.then + coalesce(s.less, 0) > 0) or (s.then < 0 and s.then + coalesce(s.more, 0) < 0)""")


def L19(conn: psycopg.Connection) -> list[str]:
    """Every object that moved money has its movement and entry, and every entry has an object behind it."""
    return found_rows(conn, """
        with due as (
            select 'charge' as category, c.id, 1 as n from oltp.charges c where c.amount_captured > 0
            union all select 'refund', r.id, 1 from oltp.refunds r where r.balance_transaction_id is not null
            union all select 'payout', p.id, 1 from oltp.payouts p
            union all select 'transfer', t.id, 2 from oltp.transfers t
            union all select 'transfer_reversal', t.id, 2 from oltp.transfer_reversals t
            union all select 'topup', t.id, 1 from oltp.topups t where t.status in ('succeeded', 'reversed')
            union all select 'platform_earning', f.id, 1 from oltp.application_fees f
            union all select 'platform_earning_refund', f.id, 1 from oltp.fee_refunds f
            union all select 'fee', f.id, 1 from oltp.application_fees f
            union all select 'fee', f.id, 1 from oltp.fee_refunds f
            union all select 'risk_reserved_funds', h.id, 1 from oltp.reserve_holds h
            union all select 'risk_reserved_funds', r.id, 1 from oltp.reserve_releases r
        )
        select d.category, d.id, d.n, count(b.id) from due d
        left join oltp.balance_transactions b on b.source_id = d.id and b.reporting_category = d.category
        group by 1, 2, 3 having count(b.id) <> d.n
        union all
        select 'not booked', b.id, b.net, null from oltp.balance_transactions b
        where (b.amount <> 0 or b.fee <> 0)
        and not exists (select 1 from oltp.ledger_entries e where e.id = b.ledger_entry_id)
        union all
        select 'booked otherwise', m.entry, m.net, p.net from (
            select b.ledger_entry_id as entry, sum(b.net) as net from oltp.balance_transactions b
            where b.ledger_entry_id is not null group by 1
        ) m
        left join (
            select p.entry_id as entry, -sum(p.amount) as net from oltp.ledger_postings p
            where p.ledger_account_id like 'merchant\\_pending:%%' or p.ledger_account_id like 'merchant\\_available:%%'
            group by 1
        ) p on p.entry = m.entry
        where m.net <> coalesce(p.net, 0)
        union all
        select 'nothing behind', e.id, null, null from oltp.ledger_entries e
        left join (select distinct ledger_entry_id as id from oltp.balance_transactions) b on b.id = e.id
        where b.id is null and not case e.kind
            when 'authorization' then exists (select 1 from oltp.charges c where c.id = e.source_id)
            when 'dispute_lost' then exists (select 1 from oltp.disputes d where d.id = e.source_id)
            when 'payout_paid' then exists (select 1 from oltp.payouts p where p.id = e.source_id)
            when 'balance_release' then e.source_id like 'release:%%'
            when 'network_settlement' then e.source_id like 'settlement:%%'
            when 'refund_settlement' then e.source_id like 'settlement:%%'
            when 'issuing_settlement' then e.source_id like 'settlement:%%'
            when 'fx_trade' then e.source_id like 'trade:%%'
            when 'write_off' then e.source_id is not null
            else false end
        union all
        select 'other amount', b.id, b.amount, c.amount_captured from oltp.balance_transactions b
        join oltp.charges c on c.id = b.source_id and b.reporting_category = 'charge'
        where b.currency = c.currency and b.amount <> c.amount_captured""")


def L20(conn: psycopg.Connection) -> list[str]:
    """A closed day's balances are the sum of the postings up to its end, for good."""
    return found_rows(conn, f"""
        select k.ledger_account_id, k.day::text, k.balance, s.total from oltp.ledger_balances k
        cross join lateral (
            select coalesce(sum(p.amount), 0) as total from oltp.ledger_postings p
            where p.ledger_account_id = k.ledger_account_id and {DAY_OF_ENTRY} <= k.day
        ) s
        where k.balance <> s.total""")


def L21(conn: psycopg.Connection) -> list[str]:
    """Erasing a customer changes no balance and no movement."""
    with undone(conn):
        before = balances(conn)
        payer = one(conn, "select c.customer_id from oltp.charges c where c.customer_id is not null"
                           " group by 1 order by count(*) desc, 1 limit 1")
        conn.execute("delete from vault.subject_keys where subject = %s", [payer])
        conn.execute("update oltp.customers set name_ciphertext = null, email_ciphertext = null, deleted = true"
                     " where id = %s", [payer])
        after = balances(conn)
    return [f"{name} changed" for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def L22(conn: psycopg.Connection) -> list[str]:
    """Refunds given and under way never exceed what was captured."""
    return found_rows(conn, """
        select c.id, c.amount_captured, sum(r.amount) from oltp.charges c join oltp.refunds r on r.charge_id = c.id
        where r.status in ('succeeded', 'pending', 'requires_action') group by 1, 2
        having sum(r.amount) > c.amount_captured""")


def L23(conn: psycopg.Connection) -> list[str]:
    """Accounts stay on their normal side; merchants that may not go below zero never paid out more than came in."""
    return found_rows(conn, """
        select a.id, sum(p.amount), null from oltp.ledger_postings p
        join oltp.ledger_accounts a on a.id = p.ledger_account_id
        join oltp.ledger_account_kinds k on k.kind = a.kind
        where a.kind in ('merchant_reserve', 'merchant_authorized', 'authorized_receivable', 'payout_in_transit',
            'dispute_clearing', 'fee_revenue')
        group by a.id, k.normal_side having case k.normal_side when 'credit' then -1 else 1 end * sum(p.amount) < 0
        union all
        select a.id, o.given, o.came from oltp.ledger_accounts a
        cross join lateral (
            select sum(case when p.amount > 0 and e.kind in ('payout', 'transfer', 'transfer_reversal',
                    'topup_reversal', 'risk_reserved_funds') then p.amount end) as given,
                coalesce(sum(case when p.amount < 0 then -p.amount end), 0) as came
            from oltp.ledger_postings p join oltp.ledger_entries e on e.id = p.entry_id
            where p.ledger_account_id = a.id
        ) o
        where a.kind = 'merchant_available' and not a.allows_negative and o.given > o.came""")


# The instant stands in the id: twelve hexadecimal digits of milliseconds.
DAY_OF_ENTRY: LiteralString = (
    "(to_timestamp(('x' || lpad(substr(p.entry_id, 4, 12), 16, '0'))::bit(64)::bigint / 1000)"
    " at time zone 'UTC')::date")

INVARIANTS: dict[str, Invariant] = {f"L{number}": globals()[f"L{number}"] for number in range(1, 24)}
