"""Rows that payments ask for again and again, kept in process for as long as the database does not say otherwise.

Triggers announce changed tables (`notify lookup_changed`) after commit; a listener forgets what was read from them.
While nobody listens, nothing is remembered: a stale answer is never the price of a lost connection.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg

CHANNEL = "lookup_changed"
LARGEST = 50_000  # entries of one cache; the least lately used goes first
_PATIENCE = 2.0  # seconds between tries to listen again, and the longest a stop waits

V = TypeVar("V")
Load = Callable[[psycopg.Connection, Any], V | None]


class Lookup(Generic[V]):
    """One cache: how a value is read, and from which tables it comes."""

    def __init__(self, name: str, tables: frozenset[str], load: Load[V]) -> None:
        self.name, self.tables = name, tables
        self._load = load
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()
        self._generation = 0
        self.remembers = False
        self.hits = self.misses = 0

    def get(self, conn: psycopg.Connection, key: Hashable) -> V | None:
        """The value for a key, None where there is none (which is asked anew each time)."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                return found
            self.misses += 1
            generation = self._generation
        loaded = self._load(conn, key)
        if loaded is not None:
            with self._lock:
                # A change told of meanwhile may be newer than what was read.
                if self.remembers and generation == self._generation:
                    self._kept[key] = loaded
                    if len(self._kept) > LARGEST:
                        self._kept.popitem(last=False)
        return loaded

    def read(self, conn: psycopg.Connection, key: Hashable) -> V | None:
        """The value as this connection sees it, past the cache."""
        return self._load(conn, key)

    def forget(self, remembers: bool | None = None) -> None:
        """Read everything anew from here on; with `remembers`, also whether values are kept at all."""
        with self._lock:
            self._kept.clear()
            self._generation += 1
            if remembers is not None:
                self.remembers = remembers


@dataclass(frozen=True)
class Method:
    """Whose a payment method is, and the keyed hash of its card number where the vault has one."""

    id: str
    account_id: str | None
    customer_id: str | None
    detached: bool
    number_mac: bytes | None


def _currency(conn: psycopg.Connection, code: Any) -> int | None:
    row = conn.execute("select stripe_exponent from oltp.currencies where code = %s", [code]).fetchone()
    return None if row is None else int(row[0])


def _country(conn: psycopg.Connection, code: Any) -> str | None:
    row = conn.execute("select currency from oltp.countries where code = %s", [code]).fetchone()
    return None if row is None else str(row[0])


def _charged_in(conn: psycopg.Connection, currency: Any) -> bool | None:
    row = conn.execute(
        "select 1 from oltp.fee_policies where kind = 'charge' and currency = %s limit 1", [currency]).fetchone()
    return None if row is None else True


def _method(conn: psycopg.Connection, method_id: Any) -> Method | None:
    row = conn.execute(
        "select m.id, coalesce(k.account_id, v.account_id), m.customer_id, m.detached, v.number_mac"
        " from oltp.payment_methods m left join oltp.customers k on k.id = m.customer_id"
        " left join vault.cards v on v.payment_method_id = m.id where m.id = %s", [method_id]).fetchone()
    return None if row is None else Method(row[0], row[1], row[2], row[3], row[4] and bytes(row[4]))


def _payer(conn: psycopg.Connection, customer_id: Any) -> str | None:
    row = conn.execute(
        "select account_id from oltp.customers where id = %s and not deleted", [customer_id]).fetchone()
    return None if row is None else row[0]


def _account(conn: psycopg.Connection, account_id: Any) -> dict[str, Any] | None:
    row = conn.execute(
        "select default_currency, country, name from oltp.accounts where id = %s", [account_id]).fetchone()
    return None if row is None else {"default_currency": row[0], "country": row[1], "name": row[2]}


class Lookups:
    """The caches of one process and the connection that keeps them true. Start it, and stop it at the end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.currencies = Lookup("currencies", frozenset({"currencies"}), _currency)
        self.countries = Lookup("countries", frozenset({"countries"}), _country)
        self.charged = Lookup("fee_policies", frozenset({"fee_policies"}), _charged_in)
        self.methods = Lookup("payment_methods", frozenset({"payment_methods", "customers"}), _method)
        self.payers = Lookup("customers", frozenset({"customers"}), _payer)
        self.accounts = Lookup("accounts", frozenset({"accounts"}), _account)
        self.all: list[Lookup[Any]] = [self.currencies, self.countries, self.charged, self.methods, self.payers,
                                       self.accounts]

    def add(self, lookup: Lookup[Any]) -> None:
        """One more cache under the same rule."""
        self.all.append(lookup)

    def start(self) -> None:
        """Listen in the background."""
        self._thread = threading.Thread(target=self._listen, name="lookups", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(2 * _PATIENCE)

    def changed(self, *tables: str) -> None:
        """Forget what came from these tables: for the process that changed them, sooner than the notice."""
        for lookup in self.all:
            if lookup.tables.intersection(tables):
                lookup.forget()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, application_name="lookups") as conn:
                    conn.execute(f"listen {CHANNEL}")
                    self._set(remembers=True)
                    while not self._stopping.is_set():
                        for notice in conn.notifies(timeout=_PATIENCE / 4):
                            self.changed(notice.payload)
            except psycopg.Error:
                self._set(remembers=False)
                self._stopping.wait(_PATIENCE)

    def _set(self, *, remembers: bool) -> None:
        for lookup in self.all:
            lookup.forget(remembers)
