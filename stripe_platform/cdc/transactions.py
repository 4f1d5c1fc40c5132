"""Whole transactions from events that arrive in any interleaving of their topics.

Within one partition the connector keeps commit order; across partitions nothing does. The transaction topic has it: a
transaction is handed on when its END has come and every event that END counts is there, in the order of the ENDs.
What a restarted connector delivers again is recognised by its END, which lies behind one already seen.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from stripe_platform.cdc.debezium import Boundary, Change, Record, Stamp

REMEMBERED = 100_000  # transactions whose late duplicates are still recognised by number


class GapError(RuntimeError):
    """Transactions are missing between two that are there, or the log went back; the message says what to deliver."""


@dataclass
class Refused:
    """A record that could not be landed."""

    record: Record
    rule: str


@dataclass
class Transaction:
    """All of one transaction: its changes in order; `lsn`: where its commit ends; `commit_lsn`: where it begins."""

    xid: int
    lsn: int
    ts_us: int
    changes: list[Change]
    refused: list[Refused]

    @property
    def commit_lsn(self) -> int:
        own = next((c.commit_lsn for c in self.changes if c.commit_lsn is not None), None)
        # An END tells where the commit record ends; its last byte stands for it, between this commit and the next.
        return self.lsn - 1 if own is None else own


@dataclass
class _Open:
    changes: dict[int, Change] = field(default_factory=dict)
    refused: dict[int, Refused] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)  # first offset by place
    previous: int | None = None

    def __len__(self) -> int:
        return len(self.changes) + len(self.refused)


class Assembler:
    """Takes records in, gives whole transactions out. `durable_lsn`, `last_ts_us`: the last commit landed before."""

    def __init__(self, durable_lsn: int = 0, last_ts_us: int = 0) -> None:
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
        self._next[record.place] = record.offset + 1
        if end.begins:
            return
        if end.lsn <= self._seen:
            if end.ts_us > self.last_ts_us + 1_000_000 and end.lsn <= self.last_lsn:
                raise GapError(f"{record.place} at {record.offset}: a commit is younger than the last one landed and"
                               " lies before it in the log: the source was restored; begin a lake of its own for it")
            self.duplicates += len(self._open.pop(end.xid, ()))
            self._done[end.xid] = end.lsn
            return
        self._seen = end.lsn
        self._ends.append((end, record.place, record.offset))

    def event(self, record: Record, stamp: Stamp, change: Change | Refused) -> None:
        """A change, or one that was refused and is still counted as there."""
        self._next[record.place] = record.offset + 1
        if stamp.lsn <= self._done.get(stamp.xid, -1):
            self.duplicates += 1
            return
        if stamp.order is None:
            raise GapError(f"{record.place} at {record.offset}: an event without its place in a transaction among"
                           " others that have one: set provide.transaction.metadata=true, or read its topic alone")
        entry = self._open.setdefault(stamp.xid, _Open())
        if stamp.order in entry.changes or stamp.order in entry.refused:
            self.duplicates += 1
            return
        entry.places.setdefault(record.place, record.offset)
        entry.previous = stamp.previous if entry.previous is None else entry.previous
        if isinstance(change, Refused):
            entry.refused[stamp.order] = change
        else:
            entry.changes[stamp.order] = change

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
        changes = [entry.changes[n] for n in sorted(entry.changes)]
        ts_us = changes[0].stamp.ts_us if changes else end.ts_us
        return Transaction(end.xid, end.lsn, ts_us, changes, [*entry.refused.values(), *lost])

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
