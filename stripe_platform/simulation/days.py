"""Rows of one simulated business day: payments, what falls due of earlier ones, subscriptions, payouts, rates.

What falls due on a day is worked out from the charges of earlier days, which are made again from the seed: every day is
a function of the seed and its date. Changes of rows that earlier days brought come as updates of this day.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection
from functools import cached_property, lru_cache
from threading import RLock
from typing import Any

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.bulk import DayRows
from stripe_platform.oltp.ids import day_us, seeded
from stripe_platform.oltp.reference import CURRENCIES, REPORTING
from stripe_platform.simulation import aftermath, payments
from stripe_platform.simulation.aftermath import Docket, Fates
from stripe_platform.simulation.bills import Day
from stripe_platform.simulation.members import Members
from stripe_platform.simulation.merchants import Merchants
from stripe_platform.simulation.payments import REFUND_DAYS, Made, stamps
from stripe_platform.simulation.payouts import Payouts
from stripe_platform.simulation.settlement import Settlement
from stripe_platform.simulation.subscriptions import Subscriptions
from stripe_platform.simulation.traffic import DAY_US, Traffic
from stripe_platform.simulation.world import Options, World

INSTANTS = frozenset({
    "at", "billing_cycle_anchor", "cancel_at", "canceled_at", "created", "current_period_end", "current_period_start",
    "ended_at", "finalized_at", "marked_uncollectible_at", "next_payment_attempt", "paid_at", "period_end",
    "period_start", "resumes_at", "start_date", "trial_end", "trial_start", "voided_at",
})  # fmt: skip


class Days:
    """All days of a simulation. `business` says which days have charges; other days bring disputes only."""

    def __init__(self, options: Options, business: Collection[dt.date]) -> None:
        self.options = options
        self.world = World(options)
        self.merchants, self.traffic = Merchants(self.world), Traffic(self.world)
        self.business = business
        self.settlement = Settlement(self.merchants, self.rate)
        self.payouts = Payouts(self.merchants, self.net, self.live)
        self.booked: dict[dt.date, dict[str, int]] = {}  # what bank statements booked, by day and currency
        self.made = self._once(6, self._made)
        self.fates = self._once(256, self._fates)
        self.refunds = self._once(256, lambda day: self._docket("re", day))
        self.disputes = self._once(256, lambda day: self._docket("dp", day))
        self.reviews = self._once(16, lambda day: aftermath.reviews(self.made(day), options.seed, day))

    def _once(self, most: int, make: Any) -> Any:
        """Made once and kept for a while, also when two threads ask."""
        cached, making = lru_cache(maxsize=most)(make), RLock()

        def get(day: dt.date) -> Any:
            with making:
                return cached(day)

        return get

    @cached_property
    def members(self) -> Members:
        return Members(self.merchants)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        return Subscriptions(self.members, lambda day: day in self.business, max(self.business))

    def live(self, day: dt.date) -> bool:
        """Whether a day is simulated: with charges, or in the tail of the calendar."""
        number = self.number(day)
        return day in self.business or 0 <= number < self.options.days + self.options.dispute_lag_days

    def rows(self, day: dt.date) -> DayRows:
        """Every row that comes into being on `day`, and every change of older ones."""
        content, seed = DayRows(), self.options.seed
        tables, start = content.tables, day_us(day)
        if day == self.options.first_day:
            tables.update(self.world.rows())
            for name, rows in self.members.rows().items():
                tables[name] = pa.concat_tables([tables[name], rows.cast(tables[name].schema)])
            tables.update(self.merchants.rows())
        tables["exchange_rates"] = self._rates(day)
        changes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        if day in self.business:
            tables.update(payments.rows(self.world, self.made(day), day))
            tables["reviews"] = self.reviews(day)[0]
            self._subscribe(self.subscriptions.book.day(day), content, changes)
        tables["refunds"] = aftermath.refund_rows(self.refunds(day))
        tables["disputes"] = aftermath.dispute_rows(self.disputes(day))
        tables["early_fraud_warnings"] = aftermath.warning_rows(
            self._due(day, "warning_us", self.options.dispute_lag_days), seed, day)
        tables["payouts"] = self.payouts.rows(self.number(day))
        for found, moved in self.moved(day, disputes=False):
            changes["refunds"] += aftermath.refund_changes(found, moved)
        for found, moved in self.moved(day, disputes=True):
            changes["disputes"] += aftermath.dispute_changes(found, moved)
        changes["payouts"] += self.payouts.changes(self.number(day))
        for back in (1, 2):
            self._close(day - dt.timedelta(days=back), start, changes, tables)
        content.updates = {name: as_table(rows) for name, rows in changes.items() if rows}
        return content

    def _subscribe(self, found: Day, content: DayRows, changes: defaultdict[str, list[dict[str, Any]]]) -> None:
        """Renewals may retry an intent of an earlier day: their payments come after the rest of the day."""
        for name, rows in found.rows.items():
            target = content.later if name in ("payment_intents", "charges", "charge_outcomes") else content.tables
            target[name] = as_table(rows)
        for name, rows in found.changes.items():
            changes[name] += rows

    def _close(
        self, day: dt.date, start: int, changes: defaultdict[str, list[dict[str, Any]]], tables: dict[str, pa.Table]
    ) -> None:
        """Reviews are closed and abandoned intents canceled within two days."""
        if day not in self.business:
            return
        changes["reviews"] += [row for row in self.reviews(day)[1] if start <= row["at"] < start + DAY_US]
        ids, _, _, canceled = payments.abandoned_ids(self.world, self.made(day), day)
        gone = [(ids[i], int(us)) for i, us in enumerate(canceled) if start <= us < start + DAY_US]
        changes["payment_intents"] += [{"id": name, "at": us, "status": "canceled", "amount_received": None}
                                       for name, us in gone]
        if gone:
            rows = pa.table({
                "payment_intent_id": [name for name, _ in gone], "cancellation_reason": ["abandoned"] * len(gone),
                "canceled_at": stamps(np.array([us for _, us in gone]))})
            held = tables.get("payment_intent_details")
            tables["payment_intent_details"] = rows if held is None else pa.concat_tables([held, rows])

    def moved(self, day: dt.date, *, disputes: bool) -> list[tuple[Docket, list[tuple[int, int]]]]:
        """Refunds or disputes of earlier days whose status changes on `day`."""
        start, most = day_us(day), aftermath.DECIDED if disputes else aftermath.REFUND_ENDS
        found = []
        for back in range(most, -1, -1):
            begun = day - dt.timedelta(days=back)
            if self.live(begun):
                docket = (self.disputes if disputes else self.refunds)(begun)
                if moved := docket.moved(start, self._lives_at):
                    found.append((docket, moved))
        return found

    def net(self, day: dt.date) -> np.ndarray:
        """By merchant: what the day's movements but payouts bring, after fees, in settlement currencies."""
        settle = self.settlement
        total = settle.taken(self.refunds(day), disputes=False) + settle.taken(self.disputes(day), disputes=True)
        for disputes in (False, True):
            for found, moved in self.moved(day, disputes=disputes):
                total = total + settle.changed(found, moved, disputes=disputes)
        if day in self.business:
            made = self.made(day)
            total = total + settle.earned(made.captured, made.account, day)
            total = total + settle.earned(*self.renewed(day), day)
        return total

    def renewed(self, day: dt.date) -> tuple[np.ndarray, np.ndarray]:
        """Amounts and merchants of the day's renewals that were paid."""
        paid = [row for row in self.subscriptions.book.day(day).rows["charges"] if row["amount_captured"] > 0]
        index = self.members.index
        return (np.array([row["amount_captured"] for row in paid], dtype=np.int64),
                np.array([index[row["account_id"]] for row in paid], dtype=np.int64))

    def rate(self, day: dt.date) -> dict[str, float]:
        """Euro for one major unit of each currency: the indicative rate and a slow random walk."""
        steps = max(0, self.number(day)) + 1
        rates = {}
        for currency, (_, _, _, base) in CURRENCIES.items():
            walk = seeded(self.options.seed, "rate", currency).normal(0, 0.003, steps).sum()
            rates[currency] = 1.0 if currency == REPORTING else round(float(base) * float(np.exp(walk)), 10)
        return rates

    def number(self, day: dt.date) -> int:
        """Days since the first one."""
        return (day - self.options.first_day).days

    def _made(self, day: dt.date) -> Made:
        return payments.make(self.world, self.traffic.day(self.number(day)), day, self.rate(day))

    def _fates(self, day: dt.date) -> Fates:
        made = self.made(day)
        settled = self.settlement.settled(made.captured, made.account, day)
        return Fates.of(made, settled, self.options.seed, day)

    def _docket(self, prefix: str, day: dt.date) -> Docket:
        field, most = ("refund_us", REFUND_DAYS) if prefix == "re" else ("dispute_us", self.options.dispute_lag_days)
        due = self._due(day, field, most) if prefix == "dp" or day in self.business else []
        return aftermath.docket(prefix, due, self.options.seed, day)

    def _due(self, day: dt.date, field: str, most: int) -> list[tuple[Fates, np.ndarray]]:
        """Charges of the business days before `day` whose `field` falls on it."""
        start, found = day_us(day), []
        for back in range(most, 0, -1):
            earlier = day - dt.timedelta(days=back)
            if earlier in self.business:
                fates = self.fates(earlier)
                if len(due := fates.due(field, start)):
                    found.append((fates, due))
        return found

    def _lives_at(self, us: int) -> bool:
        return self.live(dt.date(1970, 1, 1) + dt.timedelta(days=us // DAY_US))

    def _rates(self, day: dt.date) -> pa.Table:
        rates = {c: r for c, r in self.rate(day).items() if c != REPORTING}
        return pa.table({
            "day": [day] * len(rates), "from_currency": list(rates), "to_currency": [REPORTING] * len(rates),
            "rate": [f"{r:.10f}" for r in rates.values()],
        })  # fmt: skip


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as columns; instants are Unix microseconds, what a row lacks is null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({
        name: pa.array([row.get(name) for row in rows], pa.timestamp("us", "UTC") if name in INSTANTS else None)
        for name in names
    })
