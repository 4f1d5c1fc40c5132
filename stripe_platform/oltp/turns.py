"""Days loaded side by side: their rows go in together, their boundaries one after the other.

Three quarters of a day's load is the server looking up foreign keys, in one process; two connections on neighbouring
days keep two cores busy (1.3 to 1.4 times). What depends on an earlier day waits until that day is committed.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class EarlierDayFailedError(RuntimeError):
    """A day was given up because one before it failed; that one's error says why."""


class Turns:
    """The order of some days: `parents` stand once a day's merchants and payers do, `closed` once it is committed."""

    def __init__(self, days: Sequence[dt.date]) -> None:
        self._days = list(days)
        self._changed = threading.Condition()
        self._parents: set[dt.date] = set()
        self._closed: set[dt.date] = set()
        self._failed = False

    @contextmanager
    def of(self, day: dt.date) -> Iterator[Turn]:
        """The turn of one day; the block ends after the day's commit, or raises and stops those that wait for it."""
        try:
            yield Turn(self, day)
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise
        with self._changed:
            self._closed.add(day)
            self._parents.add(day)
            self._changed.notify_all()

    def no_parents(self, day: dt.date) -> None:
        """Nothing of this day is a parent of a later one's rows."""
        with self._changed:
            self._parents.add(day)
            self._changed.notify_all()

    def wait(self, day: dt.date, *, closed: bool) -> None:
        """Until all earlier days are closed, or their parents stand; `EarlierDayFailedError` when one failed."""
        earlier = self._days[:self._days.index(day)]
        with self._changed:
            done = self._closed if closed else self._parents
            self._changed.wait_for(lambda: self._failed or all(d in done for d in earlier))
            if self._failed:
                raise EarlierDayFailedError(f"day {day} was not loaded: one before it failed")


class Turn:
    """One day's place in the order."""

    def __init__(self, turns: Turns, day: dt.date) -> None:
        self._turns, self._day = turns, day

    @classmethod
    def alone(cls, day: dt.date) -> Turn:
        """A day that shares the calendar with no other: it never waits."""
        return cls(Turns([day]), day)

    def wait_for_parents(self) -> None:
        """Until every earlier day's merchants, payers and cards are committed, or it is known to bring none."""
        self._turns.wait(self._day, closed=False)

    def no_parents_here(self) -> None:
        """This day brings no row that a later day's charges could name."""
        self._turns.no_parents(self._day)

    def wait_for_close(self) -> None:
        """Until every earlier day is committed: what follows may name its charges, and closes this day."""
        self._turns.wait(self._day, closed=True)
