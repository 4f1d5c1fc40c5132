"""What other rooms of the OLTP do with rows the importer wrote, in the same transaction.

A balance transaction is booked when all that its entry is made of stands: its merchant, and, where money was exchanged,
the object that moved it. Until then the ledger's completeness check shows it as unbooked.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def after_rows(conn: psycopg.Connection, table: str, ids: Sequence[str]) -> None:
    """Rows of this table were written, or found their merchant: the one place where the ledger hears of them."""
    if table == "balance_transactions":
        _book(conn, ids, ())
    elif table in _MOVERS:
        _book(conn, (), ids)


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
