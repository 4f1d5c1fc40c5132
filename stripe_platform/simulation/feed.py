"""The simulation as a feed: each day through the write API in one transaction, its landing files beside it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import psycopg

from stripe_platform.keyring import open_keyring
from stripe_platform.oltp.bulk import DayRows, is_loaded, load_day
from stripe_platform.oltp.feed import BusinessDays, DayLoad, observe
from stripe_platform.oltp.turns import Turn
from stripe_platform.reference.days import Door
from stripe_platform.settings import Settings
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.landing import land, landed
from stripe_platform.simulation.world import Options


class SimulatedFeed:
    """Business days of a seed, then a tail of dispute-only days; `extra` names later days that have charges too."""

    name = "simulated"

    def __init__(self, settings: Settings, options: Options, extra: tuple[dt.date, ...] = ()) -> None:
        self._settings = settings
        self.options = options
        self._extra = frozenset(extra)
        self._door = Door(settings)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="simulation")
        self._ahead: dict[dt.date, Future[DayRows]] = {}

    @property
    def digest(self) -> str:
        """Identity of the source: equal options bring equal days."""
        return hashlib.sha256(json.dumps({"simulated": self.options.as_json()}, sort_keys=True).encode()).hexdigest()

    def calendar(self) -> BusinessDays:
        return BusinessDays(self.options.first_day, self.options.days, tail=self.options.dispute_lag_days)

    @cached_property
    def days(self) -> Days:
        return Days(self.options, self.business)

    @cached_property
    def business(self) -> frozenset[dt.date]:
        """Days with charges."""
        first = self.options.first_day
        return self._extra | {first + dt.timedelta(days=i) for i in range(self.options.days)}

    def bring(self, day: dt.date, turn: Turn | None = None) -> DayLoad:
        """Simulate one day through the write API; a day outside the calendar is observed, not made."""
        with psycopg.connect(self._settings.need("oltp_dsn"), autocommit=True) as conn:
            if day not in self.calendar() and day not in self._extra:
                return observe(conn, day)
            files = landed(day, self._settings.landing, business=day in self.business)
            if not (files and is_loaded(conn, self.digest, day)):
                # Before the commit: a killed run repeats both, and a committed day always has its files.
                land(self.days, day, self._settings.landing)
            return load_day(conn, open_keyring(self._settings), self.digest, day, lambda: self._rows(day), turn,
                            reference=self._door)

    def _rows(self, day: dt.date) -> DayRows:
        """The day's rows; the next day's are made meanwhile, while the server checks its keys."""
        made = self._ahead.pop(day, None)
        rows = self.days.rows(day) if made is None else made.result()
        following = day + dt.timedelta(days=1)
        if following in self.calendar():
            self._ahead = {following: self._worker.submit(self.days.rows, following)}
        return rows

