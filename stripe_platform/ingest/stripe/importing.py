"""Records in, rows out: batches, counts and the report of one import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg

from stripe_platform import progress
from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.kinds import ENTITIES, MODELLED
from stripe_platform.ingest.stripe.landing import Landing, landings
from stripe_platform.ingest.stripe.reading import Record, UnreadableError
from stripe_platform.ingest.stripe.store import leave_unchanged, store
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.reference import seed_books
from stripe_platform.oltp.world import COUNTRY_CODES, CURRENCY_CODES

BATCH = 400  # records a transaction
STATES = ("normalised", "quarantined", "unmodelled")
_SHOWN_AS = {"superseded": "normalised", "received": "quarantined"}


@dataclass
class Report:
    """What became of every record, counted in the database after it was written."""

    received: Counter[str] = field(default_factory=Counter)  # kind
    states: Counter[tuple[str, str]] = field(default_factory=Counter)  # kind, state
    expanded: Counter[str] = field(default_factory=Counter)  # state of objects that came inside of others
    waiting: list[tuple[bytes, str | None]] = field(default_factory=list)  # digest, and the kind where it is a record
    repeated: int = 0
    lost: int = 0

    def add(self, other: Report) -> None:
        """Count what another report counted."""
        self.received.update(other.received)
        self.states.update(other.states)
        self.expanded.update(other.expanded)
        self.waiting += other.waiting
        self.repeated += other.repeated
        self.lost += other.lost

    def close(self, conn: psycopg.Connection) -> None:
        """Look again at what waited for another object: it may have come later in the same import."""
        after = _states(conn, [digest for digest, _ in self.waiting])
        for digest, kind in self.waiting:
            state = after.get(digest, "received")
            counts, name = (self.expanded, "") if kind is None else (self.states, kind)
            before, now = _SHOWN_AS["received"], _SHOWN_AS.get(state, state)
            counts[before if kind is None else (name, before)] -= 1  # type: ignore[index]
            counts[now if kind is None else (name, now)] += 1  # type: ignore[index]
        self.waiting.clear()

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form; `lost` is what was received and is found in no state."""
        total = Counter[str]()
        for (_, state), n in self.states.items():
            total[state] += n
        entities = sum(n for kind, n in self.received.items() if kind in ENTITIES)
        good = sum(n for (kind, state), n in self.states.items() if kind in ENTITIES and state == "normalised")
        return {
            "received": sum(self.received.values()), "modelled": sorted(MODELLED), "normalised": total["normalised"],
            "quarantined": total["quarantined"], "unmodelled": total["unmodelled"], "lost": self.lost,
            "duplicates": self.repeated, "normalised_share": round(good / entities, 6) if entities else None,
            "expanded": dict(sorted(self.expanded.items())), "kinds": {row["kind"]: row for row in self.rows()},
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per kind received."""
        return [
            {"kind": kind, "received": n, **{s: self.states[kind, s] for s in STATES},
             "share": round(self.states[kind, "normalised"] / n, 6) if kind in MODELLED else None}
            for kind, n in sorted(self.received.items())]  # fmt: skip


class MissingReferenceError(RuntimeError):
    """The reference's copies are not there yet; one sentence with the remedy."""


class Importer:
    """Takes records in batches; the countries and currencies they may name are seeded once."""

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring
        self._seeded = False

    def take(self, conn: psycopg.Connection, batch: list[Record], delivery: Delivery) -> Report:
        """Land one batch in one transaction and count what became of it."""
        return self.store(conn, self.prepare(batch, delivery), delivery)

    def prepare(self, batch: list[Record], delivery: Delivery) -> list[Landing]:
        """The batch judged and mapped: no database is asked."""
        return list(landings(batch, delivery, self._ring))

    def store(self, conn: psycopg.Connection, found: list[Landing], delivery: Delivery) -> Report:
        """Write what was prepared, in one transaction, and count what became of it."""
        if not self._seeded:
            with conn.transaction():
                _need_world(conn)
                seed_books(conn)
            self._seeded = True
        report = Report()
        tops = [landing for landing in found if landing.top]
        known = _states(conn, [landing.digest for landing in tops])
        if delivery.as_of is not None:
            found = leave_unchanged(conn, self._ring, found)
        store(conn, self._ring, found, delivery.source)
        _count(conn, found, tops, known, report)
        return report


def _need_world(conn: psycopg.Connection) -> None:
    """Objects name currencies and countries, which the reference owns: without them all would be refused."""
    for table, codes in (("currencies", CURRENCY_CODES), ("countries", COUNTRY_CODES)):
        found = {code for (code,) in conn.execute(f"select code from oltp.{table}")}  # noqa: S608 - a fixed name
        if missing := sorted(codes - found):
            raise MissingReferenceError(f"oltp.{table} lacks {len(missing)} of {len(codes)} rows ({missing[0]} is the"
                                        " first): run `stripe-platform up`, which brings them from the reference")


def import_records(
    conn: psycopg.Connection, ring: Keyring, records: Iterable[Record], delivery: Delivery, report: Report | None = None
) -> Report:
    """Land and normalise every record, batch by batch; each batch commits whole."""
    report = report or Report()
    importer = Importer(ring)
    batches = _batches(iter(records))
    # While the database writes one batch, the next is made ready: both cores work.
    with progress.stage(f"ingest {delivery.source}") as advance, ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(_next, importer, batches, delivery)
        while (ready := following.result()) is not None:
            found, records_read = ready
            following = ahead.submit(_next, importer, batches, delivery)
            report.add(importer.store(conn, found, delivery))
            advance(records_read)
    report.close(conn)
    return report


def _next(
    importer: Importer, batches: Iterator[list[Record]], delivery: Delivery
) -> tuple[list[Landing], int] | None:
    batch = next(batches, None)
    return None if batch is None else (importer.prepare(batch, delivery), len(batch))


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Records by the batch; damage further on must not cost what was read before it."""
    batch: list[Record] = []
    try:
        for record in records:
            batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except UnreadableError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _count(
    conn: psycopg.Connection, found: list[Landing], tops: list[Landing], known: dict[bytes, str], report: Report
) -> None:
    after = _states(conn, [landing.digest for landing in found])
    seen = set(known)
    for landing in tops:
        report.received[landing.kind] += 1
        report.repeated += landing.digest in seen
        seen.add(landing.digest)
        state = after.get(landing.digest)
        if state == "received":
            report.waiting.append((landing.digest, landing.kind))
        if state is None:
            report.lost += 1
        else:
            report.states[landing.kind, _SHOWN_AS.get(state, state)] += 1
    for landing in found:
        if not landing.top:
            state = after.get(landing.digest, "lost")
            if state == "received":
                report.waiting.append((landing.digest, None))
            report.expanded[_SHOWN_AS.get(state, state)] += 1
            report.lost += state == "lost"


def _states(conn: psycopg.Connection, digests: list[bytes]) -> dict[bytes, str]:
    rows = conn.execute("select digest, state from ingest.objects where digest = any(%s)", [digests])
    return {bytes(digest): state for digest, state in rows}
