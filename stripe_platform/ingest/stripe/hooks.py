"""What other rooms of the OLTP do with rows the importer wrote, in the same transaction.

A balance transaction is booked when all that its entry is made of stands: its merchant, and, where money was exchanged,
the object that moved it. Until then the ledger's completeness check shows it as unbooked. Where a state that arrives
changes what its entry was made of, the entry is reversed and booked anew: the books follow the rows, not the order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from stripe_platform.oltp import ledger

_MOVERS = frozenset({"charges", "refunds", "disputes"})
_READY = """
select b.id, b.account_id, b.currency from oltp.balance_transactions b
where (b.id = any(%(movements)s) or (b.source_id = any(%(sources)s) and b.exchange_rate is not null))
and b.ledger_entry_id is null
and exists (select from oltp.posting_rules r where r.category = b.reporting_category)
and not exists (select from ingest.pending_references p where p.table_name = 'balance_transactions'
    and p.row_key = b.id and p.column_name = 'account_id')
and (b.exchange_rate is null or b.reporting_category not in
    ('charge', 'charge_failure', 'refund', 'refund_failure', 'dispute', 'dispute_reversal')
    or exists (select from oltp.charges c where c.id = b.source_id)
    or exists (select from oltp.refunds f where f.id = b.source_id)
    or exists (select from oltp.disputes d where d.id = b.source_id))
"""


_BOOKED = """
select b.id, b.ledger_entry_id, e.effective_at, b.account_id, b.currency,
    case when b.available_entry_id <> b.ledger_entry_id then b.net else 0 end,
    row(b.account_id, b.reporting_category, b.currency, b.amount, b.fee,
    b.net, b.available_on, b.created, f.parts, o.currency, o.amount, exists (select from ingest.pending_references p
        where p.table_name = 'balance_transactions' and p.row_key = b.id and p.column_name = 'account_id'))::text
from oltp.balance_transactions b join oltp.ledger_entries e on e.id = b.ledger_entry_id
cross join lateral (select array_agg((d.type, d.amount)::text order by d.type, d.amount) as parts
    from oltp.fee_details d where d.balance_transaction_id = b.id) f
left join lateral (
    select c.currency, c.amount_captured as amount from oltp.charges c where c.id = b.source_id
    union all select r.currency, r.amount from oltp.refunds r where r.id = b.source_id
    union all select d.currency, d.amount from oltp.disputes d where d.id = b.source_id
    limit 1
) o on b.exchange_rate is not null
where b.id = any(%(movements)s) or (b.source_id = any(%(sources)s) and b.exchange_rate is not null)
"""


class _Entry(NamedTuple):
    """What a movement is booked as. `released`: the part of its merchant's release that it was, minor units."""

    id: str
    at: dt.datetime
    account: str | None
    currency: str
    released: int
    made_of: str


Booked = dict[str, _Entry]


def booked(conn: psycopg.Connection, table: str, ids: Sequence[str]) -> Booked:
    """The entries of these rows' movements as they stand."""
    if not ids or (table != "balance_transactions" and table not in _MOVERS):
        return {}
    movements, sources = (ids, ()) if table == "balance_transactions" else ((), ids)
    found = conn.execute(_BOOKED, {"movements": list(movements), "sources": list(sources)})
    return {key: _Entry(*entry) for key, *entry in found}


def after_rows(conn: psycopg.Connection, table: str, ids: Sequence[str], before: Booked | None = None) -> None:
    """Rows of this table were written, or found their merchant: the one place where the ledger hears of them."""
    if before:
        _take_back(conn, booked(conn, table, ids), before)
    if table == "balance_transactions":
        _book(conn, ids, ())
    elif table in _MOVERS:
        _book(conn, (), ids)


def _take_back(conn: psycopg.Connection, now: Booked, before: Booked) -> None:
    stale = [key for key, found in now.items() if key in before and found != before[key]]
    for key in stale:
        was = before[key]
        ledger.reverse(conn, was.id, was.at)
        if was.released:  # its release stands, summed with others: the movement's own part goes back to pending
            ledger.book_event(conn, category="balance_release", source_id=f"release:undone:{was.id}",
                              account_id=was.account, currency=was.currency, amount=-was.released, at=was.at)
    if stale:
        conn.execute("update oltp.balance_transactions set ledger_entry_id = null, available_entry_id = null"
                     " where id = any(%s)", [stale])


def _book(conn: psycopg.Connection, movements: Sequence[str], sources: Sequence[str]) -> None:
    if not movements and not sources:
        return
    ready = conn.execute(_READY, {"movements": list(movements), "sources": list(sources)}).fetchall()
    if not ready:
        return
    try:
        with conn.transaction():
            # Movements arrive in any order, a payout before the charges that paid for it: Stripe let it happen.
            for account, currency in sorted({(row[1], row[2]) for row in ready}, key=str):
                ledger.open_accounts(conn, account_id=account, currency=currency)
                ledger.allow_negative(conn, account_id=account, currency=currency)
            ledger.book(conn, [row[0] for row in ready])
    except (psycopg.errors.IntegrityError, psycopg.errors.DataError, psycopg.errors.RaiseException):
        if len(ready) > 1:  # one movement that the ledger refuses must not keep the others out of the books
            for row in ready:
                _book(conn, [row[0]], ())
