"""The double-entry ledger: what may be asked of it and how its books are booked, released, settled, closed and sealed.

Amounts are minor units. A balance is given on its account's normal side: what we owe a merchant is above zero.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from stripe_platform.oltp.errors import rule_of

_WAIT = "5s"  # how long a close waits for the payments being written; those that come meanwhile wait behind it


@dataclass(frozen=True)
class TrialBalance:
    """Sums of one currency; the books are right when debit equals credit."""

    currency: str
    debit: int
    credit: int


@dataclass(frozen=True)
class BrokenSeal:
    """A seal that does not hold: the entries it covers, and what is wrong with them."""

    sequence: int
    first_entry_id: str
    last_entry_id: str
    problem: str


@dataclass(frozen=True)
class Seal:
    """The end of the hash chain, to be kept outside the database: only a copy shows that the tail was cut."""

    sequence: int
    root: str


def account_name(kind: str, currency: str, account_id: str | None = None) -> str:
    """Id of a ledger account, e.g. `merchant_available:eur:acct_...` or `cash:eur`."""
    return ":".join((kind, currency) if account_id is None else (kind, currency, account_id))


def balance(conn: psycopg.Connection, ledger_account: str, at: dt.datetime | None = None) -> int:
    """Balance by what is effective before `at` (default: all); 0 for an account never used."""
    return int(_one(conn, "select ledger.balance(%s, %s)", [ledger_account, at]))


def book(conn: psycopg.Connection, balance_transaction_ids: Sequence[str]) -> int:
    """One entry per balance transaction not booked yet, in one transaction; how many were booked now.

    Refused (`balance_insufficient`): payouts, transfers and reserves that the merchant's available balance lacks.
    """
    return int(_one(conn, "select ledger.book(%s)", [list(balance_transaction_ids)]))


def book_event(
    conn: psycopg.Connection, *, category: str, source_id: str, account_id: str | None, currency: str, amount: int,
    at: dt.datetime | None = None,
) -> str | None:
    """Book an event that is no balance transaction (`payout_paid`, `write_off`, ...); its entry's id.

    Asked again for the same source it names the entry that stands; None for an amount of zero.
    """
    found = _one(conn, "select ledger.book_event(%s, %s, %s, %s, %s::bigint, %s)",
                 [category, source_id, account_id, currency, amount, at])  # fmt: skip
    return None if found is None else str(found)


def reverse(conn: psycopg.Connection, entry_id: str, at: dt.datetime | None = None) -> str:
    """Undo an entry by its exact opposite, once; the reversal's id."""
    return str(_one(conn, "select ledger.reverse(%s, %s)", [entry_id, at]))


def release(conn: psycopg.Connection, until: dt.datetime | None = None) -> int:
    """Make available what is due by `until` (default: now); how many balance transactions."""
    return int(_one(conn, "select ledger.release(%s)", [until or dt.datetime.now(dt.UTC)]))


def settle_network(conn: psycopg.Connection, until: dt.datetime | None = None) -> int:
    """Turn what networks owe, less refunds under way, into cash; how many accounts were cleared."""
    return int(_one(conn, "select ledger.settle_network(%s)", [until or dt.datetime.now(dt.UTC)]))


def trade(
    conn: psycopg.Connection, *, sold: str, bought: str, proceeds: int, at: dt.datetime | None = None
) -> str | None:
    """Clear the exchange position of a pair of currencies with what a trade brought; the entry, None without position.

    A difference of at most one minor unit per payment goes to rounding; a larger one is refused.
    """
    found = _one(conn, "select ledger.trade(%s, %s, %s::bigint, %s)", [sold, bought, proceeds, at])
    return None if found is None else str(found)


def allow_negative(conn: psycopg.Connection, *, account_id: str | None, currency: str, allowed: bool = True) -> None:
    """Let payouts, transfers and reserves take a merchant's available balance below zero, or no longer."""
    _one(conn, "select ledger.allow_negative(%s, %s, %s)", [account_id, currency, allowed])


def open_accounts(conn: psycopg.Connection, *, account_id: str | None, currency: str) -> None:
    """Open a merchant's and the platform's accounts in a currency; twice is harmless, booking does it by itself."""
    _one(conn, "select ledger.open_accounts(%s, %s)", [account_id, currency])


def close(conn: psycopg.Connection, until: dt.datetime) -> dt.datetime:
    """Close the books before `until`: later bookings dated before it are dated from it on. Where they are open now.

    Waits for payments being written; `psycopg.errors.LockNotAvailable` when one takes more than five seconds.
    """
    with conn.transaction():
        conn.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(_WAIT)))
        opened = _one(conn, "select ledger.close(%s)", [until])
    assert isinstance(opened, dt.datetime)  # noqa: S101 - a scalar function of that type
    return opened


def close_day(conn: psycopg.Connection, day: dt.date) -> int:
    """Close a UTC day, seal it and keep its balances, each in a transaction of its own; seals made."""
    close(conn, dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) + dt.timedelta(days=1))
    made = seal(conn)
    keep_balances(conn, day)
    return made


def seal(conn: psycopg.Connection) -> int:
    """Chain the closed entries that no seal covers, 1,000 to a seal; seals made."""
    return int(_one(conn, "select ledger.seal()", []))


def keep_balances(conn: psycopg.Connection, day: dt.date) -> int:
    """Keep the balances at the end of a closed day, for the accounts that moved since the last; how many."""
    return int(_one(conn, "select ledger.keep_balances(%s)", [day]))


def last_seal(conn: psycopg.Connection) -> Seal | None:
    """The newest seal, for an anchor outside the database."""
    row = conn.execute("select sequence, root from oltp.ledger_seals order by sequence desc limit 1").fetchone()
    return Seal(*row) if row else None


def verify(conn: psycopg.Connection, anchor: Seal | None = None) -> list[BrokenSeal]:
    """Seals that do not hold, none when the sealed journal is untouched. `anchor`: a copy kept outside."""
    broken = [BrokenSeal(*row) for row in conn.execute("select * from ledger.verify()")]
    if anchor is not None:
        row = conn.execute("select root from oltp.ledger_seals where sequence = %s", [anchor.sequence]).fetchone()
        if row is None or row[0] != anchor.root:
            broken.append(BrokenSeal(anchor.sequence, "", "", "the chain is not the one that the anchor saw"))
    return broken


def trial_balance(conn: psycopg.Connection, at: dt.datetime | None = None) -> list[TrialBalance]:
    """Debits and credits by currency of what is effective before `at` (default: all)."""
    return [TrialBalance(currency, int(debit or 0), int(credit or 0))
            for currency, debit, credit in conn.execute("select * from ledger.trial_balance(%s)", [at])]


def open_clearing(
    conn: psycopg.Connection, older_than: dt.timedelta = dt.timedelta(days=10), at: dt.datetime | None = None
) -> dict[str, int]:
    """Clearing accounts that were open that long ago and still are, with their balance of then."""
    return {row[0]: int(row[1]) for row in conn.execute("select * from ledger.open_clearing(%s, %s)", [older_than, at])}


def _one(conn: psycopg.Connection, query: LiteralString, values: list[Any]) -> Any:
    try:
        with conn.transaction():
            row = conn.execute(query, values).fetchone()
    except psycopg.Error as error:
        known = rule_of(error)
        if known is None:
            raise
        raise known from None
    return row[0] if row else None
