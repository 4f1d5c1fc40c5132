"""Subscriptions of members, week by week or month by month: trials, renewals, dunning, pauses and endings.

Members are payers of their own and their renewals need no terminal: no window of another payer or terminal holds them,
so every fraud feature of every other charge stays what it is. A member's life is drawn once, in time order, from a
stream of its own; a day takes from it what falls on that day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np

from stripe_platform.oltp.ids import seeded
from stripe_platform.simulation.bills import HOUR, Bills, Book, new_id
from stripe_platform.simulation.members import Members
from stripe_platform.simulation.merchants import INTERVALS
from stripe_platform.simulation.traffic import DAY_US

TRIAL, TRIAL_DAYS = 0.3, 7  # of new members
FAILING, FAILING_FIRST, RECOVERED = 0.10, 0.2, 0.30  # of renewals, of first payments; of the retries
RETRIES = (1, 3, 5)  # days after the first attempt
LEAVING, PAUSING, AT_ONCE = 0.06, 0.04, 0.3  # of renewals; of those who leave
_FEEDBACK = ("too_expensive", "unused", "switched_service", "missing_features", "customer_service", "other")
class Subscriptions:
    """All lives until `last`, cut into days; days on which nothing is sold bring nothing."""

    def __init__(self, members: Members, sold: Callable[[dt.date], bool], last: dt.date) -> None:
        self.members = members
        self.book = Book(members.world.options.first_day, last, sold)
        self._bills = Bills(members, self.book)
        for member in range(members.count):
            if self.book.stands(members.start_us(member)):
                self._live(member)

    def _live(self, member: int) -> None:
        """One member's life."""
        members = self.members
        rng = seeded(members.world.options.seed, "member", member)
        start, interval = members.start_us(member), INTERVALS[members.interval[member]]
        known = member < members.known  # stands since the first day, billed from its own anchor on
        trial = not known and rng.random() < TRIAL
        anchor = start
        if known:
            anchor = start + int(rng.uniform(0, 7 if interval == "week" else 28) * DAY_US)
        elif trial:
            anchor = start + TRIAL_DAYS * DAY_US
        name, item = new_id("sub", start, rng), new_id("si", start, rng)
        account = members.account[member]
        first = _after(anchor, interval, 1)
        self.book.on(start).rows["subscriptions"].append({
            "id": name, "account_id": members.accounts[account], "customer_id": members.customers[member],
            "default_payment_method_id": members.methods[member], "collection_method": "charge_automatically",
            "status": "active" if known else "trialing" if trial else "incomplete",
            "currency": members.currency(member), "billing_cycle_anchor": anchor, "start_date": start,
            "trial_start": start if trial else None, "trial_end": anchor if trial else None, "created": start,
        })
        self.book.on(start).rows["subscription_items"].append({
            "id": item, "subscription_id": name, "price_id": members.price(member),
            "quantity": int(members.quantity[member]), "current_period_start": start,
            "current_period_end": anchor if known or trial else first, "created": start,
        })
        status, period, settled = "active" if known else "trialing" if trial else "incomplete", 0, start
        while True:
            begins, ends = _after(anchor, interval, period), _after(anchor, interval, period + 1)
            if begins >= self.book.end:
                return
            leaves, pauses, draws = rng.random() < LEAVING and period > 0, rng.random() < PAUSING, rng.random(8)
            if leaves:
                self._leave(name, begins, settled, draws)
                return
            if pauses and period > 0 and status == "active":
                self.book.change("subscriptions", begins, id=name, status="paused", pause_behavior="void",
                                 resumes_at=ends)
                self.book.change("subscriptions", ends - HOUR, id=name, status="active")
                settled = max(settled, ends - HOUR)
            else:
                fresh = period == 0 and not (known or trial)
                status, last = self._renew(member, name, item, (begins, ends), status, fresh, rng, draws)
                settled = max(settled, last)
                if status in ("canceled", "incomplete_expired", "unpaid"):
                    return
            period += 1

    def _leave(self, name: str, ends: int, settled: int, draws: np.ndarray) -> None:
        """The payer cancels before a period ends, but not before its last bill is settled or its pause has ended."""
        feedback = _FEEDBACK[int(draws[0] * len(_FEEDBACK))]
        ends = max(ends, settled + HOUR)
        asked = max(ends - int((0.2 + 3 * draws[1]) * DAY_US), settled + HOUR)
        if draws[2] >= AT_ONCE:
            self.book.change("subscriptions", asked, id=name, cancel_at_period_end=True, cancel_at=ends)
            asked = ends
        self.book.change("subscriptions", asked, id=name, status="canceled", canceled_at=asked, ended_at=asked,
                         cancellation_reason="cancellation_requested", cancellation_feedback=feedback)

    def _renew(
        self, member: int, subscription: str, item: str, period: tuple[int, int], status: str, begins: bool,
        rng: np.random.Generator, draws: np.ndarray,
    ) -> tuple[str, int]:
        """Bill one period and collect; the subscription's status after the last attempt, and when that was."""
        us, end = period
        if not self.book.stands(us):
            return status, us
        invoice, intent = new_id("in", us, rng), new_id("pi", us, rng)
        bill = self._bills.draft(member, subscription, item, invoice, period, begins, rng)
        if status == "trialing":
            self.book.change("subscriptions", us, id=subscription, status="active")
            status = "active"
        self.book.change("subscriptions", us + 1, id=subscription, latest_invoice_id=invoice)
        self.book.change("subscription_items", us, id=item, current_period_start=us, current_period_end=end)
        attempts, paid = [us + HOUR], bool(draws[3] >= (FAILING_FIRST if begins else FAILING))
        for i, days in enumerate(() if paid or begins else RETRIES):
            attempts.append(us + HOUR + days * DAY_US)
            paid = bool(draws[4 + i] < RECOVERED)
            if paid:
                break
        first = min(attempts[0], (us // DAY_US + 1) * DAY_US - 2)  # bill and first attempt share a day
        attempts[0] = first
        self._bills.intend(member, intent, bill, us)
        for number, at in enumerate(attempts, start=1):
            done = paid and number == len(attempts)
            if not self.book.stands(at):
                return "past_due", at  # collected on no day that is simulated: it stays open
            charge = self._bills.attempt(member, intent, bill, at, done, rng)
            upon = {"id": invoice, "attempt_count": number, "attempted": True}
            if number == 1:
                upon["finalized_at"] = at
            if done:
                self._bills.paid(invoice, intent, charge, bill, at, upon, rng)
                if status != "active":
                    self.book.change("subscriptions", at, id=subscription, status="active")
                return "active", at
            again = attempts[number] if number < len(attempts) else None
            self.book.change("invoices", at, **upon, status="open" if number == 1 else None, next_payment_attempt=again)
            if number == 1 and not begins:
                self.book.change("subscriptions", at, id=subscription, status="past_due")
                status = "past_due"
        return self._given_up(subscription, invoice, attempts[-1], begins, draws), attempts[-1]

    def _given_up(self, subscription: str, invoice: str, at: int, begins: bool, draws: np.ndarray) -> str:
        if begins:
            ends = at + 23 * HOUR
            self.book.change("subscriptions", ends, id=subscription, status="incomplete_expired", ended_at=ends)
            self.book.change("invoices", ends, id=invoice, status="void", voided_at=ends)
            return "incomplete_expired"
        self.book.change("invoices", at + 1, id=invoice, status="uncollectible", marked_uncollectible_at=at + 1)
        if draws[7] < 0.5:
            self.book.change("subscriptions", at + 1, id=subscription, status="unpaid")
            return "unpaid"
        self.book.change("subscriptions", at + 1, id=subscription, status="canceled", canceled_at=at + 1,
                         ended_at=at + 1, cancellation_reason="payment_failed")
        return "canceled"


def _after(anchor: int, interval: str, periods: int) -> int:
    """The end of a number of periods; months are counted from the anchor and keep its day where there is one."""
    if interval == "week":
        return anchor + 7 * DAY_US * periods
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    instant = epoch + dt.timedelta(microseconds=anchor)
    month = instant.month - 1 + periods
    year, month = instant.year + month // 12, month % 12 + 1
    last = (dt.date(year + month // 12, month % 12 + 1, 1) - dt.timedelta(days=1)).day
    moved = instant.replace(year=year, month=month, day=min(instant.day, last))
    return (moved - epoch) // dt.timedelta(microseconds=1)
