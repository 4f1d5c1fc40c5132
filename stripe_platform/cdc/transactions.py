"""Whole transactions from events that arrive in any interleaving of their topics.

Within one partition the connector keeps commit order; across partitions nothing does. The transaction topic has it: a
transaction is handed on when its END has come and every event that END counts is there, in the order of the ENDs.
What a restarted connector delivers again is recognised by its END, which lies behind one already seen.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from stripe_platform.cdc import pgwire
from stripe_platform.cdc.debezium import Boundary, Change, Record, RefusedError, Stamp
from stripe_platform.cdc.spool import Held, Orders, Spool, Told

REMEMBERED = 100_000  # transactions whose late duplicates are still recognised by number


class GapError(RuntimeError):
    """Transactions are missing between two that are there, or the log went back; the message says what to deliver."""


@dataclass
class Refused:
    """A record that could not be landed."""

    record: Record
    rule: str

    def __post_init__(self) -> None:
        """Only its place is told; a value may be large."""
        self.record = dataclasses.replace(self.record, key=None, value=None)


@dataclass
class Transaction:
    """All of one transaction: its changes in order, to be gone through once; `lsn`: where its commit ends.

    `begins`: where the commit begins, as far as an event told; `unlanded`: events that are no change of a row.
    """

    xid: int
    lsn: int
    ts_us: int
    changes: Iterable[Told]
    refused: list[Refused]
    begins: int | None = None
    unlanded: int = 0

    @property
    def commit_lsn(self) -> int:
        # An END tells where the commit record ends; its last byte stands for it, between this commit and the next.
        return self.lsn - 1 if self.begins is None else self.begins

    @classmethod
    def of_one(cls, change: Change, message: bytes | None) -> Transaction:
        """A change that nothing ties to others."""
        told = [] if message is None or change.version is None else [(change.version, message)]
        return cls(change.stamp.xid, 0, change.stamp.ts_us, told, [], change.commit_lsn, 1 - len(told))


def message_of(change: Change) -> bytes | None:
    """A row's change as the server's stream has it, None for what is no row; `RefusedError` for text that is none."""
    if change.version is None:
        return None
    if change.op == "t":
        return pgwire.truncate(change.version.oid)
    try:
        return pgwire.change(change.op, change.version.oid, change.cells, change.old)
    except UnicodeEncodeError:
        refused = RefusedError(f"an event of {change.version.qualified} holds half a character (a lone surrogate): the"
                               " source cannot have written it, look at the converter")
        refused.stamp = change.stamp
        raise refused from None


@dataclass(slots=True)
class _Open:
    held: Held = field(default_factory=Held)
    orders: Orders = field(default_factory=Orders)
    refused: dict[int, Refused] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)  # first offset by place
    previous: int | None = None
    ts_us: tuple[int, int] | None = None  # of the first change: (order, time)
    begins: tuple[int, int] | None = None  # of the first that told: (order, where the commit begins)
    unlanded: int = 0

    def __len__(self) -> int:
        return self.orders.count

    def add(self, order: int, change: Change, message: bytes | None, spool: Spool) -> None:
        self.ts_us = min(self.ts_us or (order, change.stamp.ts_us), (order, change.stamp.ts_us))
        if change.commit_lsn is not None:
            self.begins = min(self.begins or (order, change.commit_lsn), (order, change.commit_lsn))
        if message is None or change.version is None:
            self.unlanded += 1
        else:
            spool.add(self.held, order, change.version, message)


class Assembler:
    """Takes records in, gives whole transactions out. `durable_lsn`, `last_ts_us`: the last commit landed before.

    `spool`: keeps the changes of those that are not whole, in bounded memory.
    """

    def __init__(self, spool: Spool, durable_lsn: int = 0, last_ts_us: int = 0) -> None:
        self._spool = spool
        self.last_lsn, self.last_ts_us = durable_lsn, last_ts_us
        self._seen = durable_lsn  # of the newest END
        self.duplicates = 0
        self.unplaced: list[Refused] = []
        self._open: dict[int, _Open] = {}
        self._ends: deque[tuple[Boundary, str, int]] = deque()
        self._done: OrderedDict[int, int] = OrderedDict()
        self._next: dict[str, int] = {}  # offset behind the newest record of each place

    @property
    def buffered(self) -> int:
        return sum(map(len, self._open.values()))

    def boundary(self, record: Record, end: Boundary) -> None:
        """A BEGIN or END; `GapError` where the log went back."""
        self._next[record.place] = record.offset + 1
        if end.begins:
            return
        if end.lsn <= self._seen:
            if end.ts_us > self.last_ts_us + 1_000_000 and end.lsn <= self.last_lsn:
                raise GapError(f"{record.place} at {record.offset}: a commit is younger than the last one landed and"
                               " lies before it in the log: the source was restored; begin a lake of its own for it")
            if (again := self._open.pop(end.xid, None)) is not None:
                self.duplicates += len(again)
                self._spool.drop(again.held)
            self._done[end.xid] = end.lsn
            return
        self._seen = end.lsn
        self._ends.append((end, record.place, record.offset))

    def event(self, record: Record, stamp: Stamp, change: Change | Refused, message: bytes | None = None) -> None:
        """A change with its message, or one that was refused and is still counted as there."""
        self._next[record.place] = record.offset + 1
        if stamp.lsn <= self._done.get(stamp.xid, -1):
            self.duplicates += 1
            return
        if stamp.order is None:
            raise GapError(f"{record.place} at {record.offset}: an event without its place in a transaction among"
                           " others that have one: set provide.transaction.metadata=true, or read its topic alone")
        entry = self._open.setdefault(stamp.xid, _Open())
        if not entry.orders.add(stamp.order):
            self.duplicates += 1
            return
        entry.places.setdefault(record.place, record.offset)
        entry.previous = stamp.previous if entry.previous is None else entry.previous
        if isinstance(change, Refused):
            entry.refused[stamp.order] = change
        else:
            entry.add(stamp.order, change, message, self._spool)

    def skip(self, record: Record, refused: Refused | None = None) -> None:
        """A record that is no event; `refused`: one that cannot be read so far that its transaction is known."""
        self._next[record.place] = record.offset + 1
        if refused is not None:
            self.unplaced.append(refused)

    def take(self, *, exhausted: bool = False) -> Transaction | None:
        """The next whole transaction, None while it is not complete.

        `exhausted`: nothing more arrives now, so records that could not be read at all are what it lacks.
        """
        if not self._ends:
            return None
        end, _place, _offset = self._ends[0]
        entry = self._open.get(end.xid, _Open())
        lacking = end.events - len(entry)
        if lacking > 0 and not (exhausted and lacking <= len(self.unplaced)):
            return None
        if lacking < 0:
            raise GapError(f"the transaction that ends at {end.lsn} has more events than its END counts: the topics"
                           " hold two connectors' events; read one connector's topics alone")
        if entry.previous is not None and self.last_lsn and entry.previous > self.last_lsn:
            raise GapError(f"transactions that end between {self.last_lsn} and {entry.previous} are missing from what"
                           " was delivered: deliver them first, nothing behind them is landed")
        self._ends.popleft()
        self._open.pop(end.xid, None)
        self._done[end.xid] = end.lsn
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        self.last_lsn, self.last_ts_us = end.lsn, max(self.last_ts_us, end.ts_us)
        lost, self.unplaced = self.unplaced[:max(lacking, 0)], self.unplaced[max(lacking, 0):]
        return Transaction(
            end.xid, end.lsn, entry.ts_us[1] if entry.ts_us else end.ts_us, self._spool.take(entry.held),
            [*entry.refused.values(), *lost], entry.begins[1] if entry.begins else None, entry.unlanded)

    def positions(self) -> dict[str, int]:
        """Where to read on, by place, so that nothing not handed on is lost."""
        found = dict(self._next)
        for entry in self._open.values():
            for place, offset in entry.places.items():
                found[place] = min(found[place], offset)
        for _end, place, offset in self._ends:
            found[place] = min(found[place], offset)
        for refused in self.unplaced:
            found[refused.record.place] = min(found[refused.record.place], refused.record.offset)
        return found

    def strays(self) -> list[Refused]:
        """Unreadable records that no transaction lacks; to be called when nothing more arrives."""
        if self._ends:
            return []
        found, self.unplaced = self.unplaced, []
        return found

    def waiting(self) -> tuple[int, int]:
        """(transactions begun and not handed on, events of theirs that are here)."""
        return max(len(self._open), len(self._ends)), self.buffered
