"""What the ledger's invariants try on a connection and undo again: orders, seals, keys sent once more.

Connections are the owner's, in autocommit mode; nothing of a trial stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg

# category, type, amount, fee: movements of one payer's story, as they may arrive in any order.
MOVEMENTS = [("charge", "charge", 10_000, 175), ("charge", "charge", 5000, 100), ("refund", "refund", -3000, 0),
             ("dispute", "adjustment", -5000, 2000), ("dispute_reversal", "adjustment", 5000, 0),
             ("refund_failure", "refund_failure", 3000, 0), ("payout", "payout", -9000, 0)]


def differing_orders(conn: psycopg.Connection, orders: Sequence[Sequence[int]]) -> list[str]:
    """Orders of MOVEMENTS that give other books than the first of them."""
    books, found = [], []
    for order in orders:
        with undone(conn):
            conn.execute(_PROBE)
            conn.execute("select ledger.allow_negative('acct_order', 'eur', true)")
            try:
                for place in order:
                    _arrive(conn, f"txn_order_{place}", *MOVEMENTS[place])
            except psycopg.Error as error:
                found.append(f"order {list(order)} is refused: {error.diag.message_primary}")
                continue
            books.append((order, balances(conn)))
    return found + [f"order {list(order)} gives other books" for order, book in books if book != books[0][1]]


_PROBE: LiteralString = """
insert into oltp.accounts (id, type, country, default_currency, business_type, mcc, name, token, created)
values ('acct_order', 'standard', 'FR', 'eur', 'company', '5411', 'x', 'tok_order', now())
"""


def _arrive(conn: psycopg.Connection, key: str, category: str, kind: str, amount: int, fee: int) -> None:
    conn.execute(
        "insert into oltp.balance_transactions (id, account_id, type, reporting_category, amount, fee, net, currency,"
        " status, available_on, created)"
        " values (%s, 'acct_order', %s, %s, %s, %s, %s, 'eur', 'available', now(), now())",
        [key, kind, category, amount, fee, amount - fee])
    if fee:
        conn.execute("insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)"
                     " values (%s, 0, 'stripe_fee', %s, 'eur')", [key, fee])
    conn.execute("select ledger.book(%s)", [[key]])


def broken_seals(conn: psycopg.Connection) -> list[str]:
    """The hash chain computed anew, row by row, from the journal."""
    found, root, last = [], "0" * 64, "le_"
    for number, first, end, previous, sealed in conn.execute(
            "select sequence, first_entry_id, last_entry_id, previous_root, root from oltp.ledger_seals order by 1"):
        leaves = []
        for *entry, postings in conn.execute(
                "select e.id, e.kind, e.phase, coalesce(e.account_id, '-'), coalesce(e.source_id, '-'),"
                " (extract(epoch from e.effective_at) * 1000000)::bigint,"
                " (extract(epoch from e.created) * 1000000)::bigint,"
                " (select array_agg(array[p.position::text, p.ledger_account_id, p.currency, p.amount::text]"
                " order by p.position) from oltp.ledger_postings p where p.entry_id = e.id)"
                " from oltp.ledger_entries e where e.id > %s and e.id <= %s order by e.id", [last, end]):
            text = "|".join([*map(str, entry), *("|".join(posting) for posting in postings or [])])
            leaves.append((entry[0], hashlib.sha256(text.encode()).digest()))
        computed = hashlib.sha256(bytes.fromhex(root) + b"".join(leaf for _, leaf in leaves)).hexdigest()
        if previous != root or computed != sealed or not leaves or leaves[0][0] != first:
            found.append(f"seal {number} does not hold")
        root, last = sealed, end
    return found


def balances(conn: psycopg.Connection) -> dict[str, int]:
    """Every ledger account's sum, and every merchant's net by currency."""
    rows = conn.execute("""
        select p.ledger_account_id, sum(p.amount)::bigint from oltp.ledger_postings p group by 1
        union all select 'net ' || b.currency || ' ' || coalesce(b.account_id, ''), sum(b.net)::bigint
        from oltp.balance_transactions b group by b.currency, b.account_id""").fetchall()
    return dict(rows)


def asked_again(conn: psycopg.Connection, *, same: bool) -> Iterator[tuple[str, str, str, bool]]:
    """Stored keys of payments, sent once more: with the digest they came with, or with another."""
    rows = conn.execute(
        "select k.account_id, k.key, k.params_hash, k.answer from oltp.idempotency_keys k"
        " where k.operation = 'create_payment' and k.answer is not null and k.expires_at > now() order by 1, 2 limit 5",
    ).fetchall()
    for account, key, digest, answer in rows:
        again, replayed = conn.execute(
            "select answer, replayed from payments.create_payment(%s, null, null, 1234::bigint, 'eur', p_key => %s,"
            " p_hash => %s)", [account, key, digest if same else bytes(32)]).fetchone() or ("", False)
        yield key, answer, again, replayed


@contextmanager
def undone(conn: psycopg.Connection) -> Iterator[None]:
    with conn.transaction(force_rollback=True):
        yield


def one(conn: psycopg.Connection, query: LiteralString, *values: Any) -> Any:
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None


def found_rows(conn: psycopg.Connection, query: LiteralString, *values: Any) -> list[str]:
    return [" ".join(map(str, row)) for row in conn.execute(query, values)]
