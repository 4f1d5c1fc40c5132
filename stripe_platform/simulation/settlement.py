"""What charges and what becomes of them bring merchants, in the currency they are paid in: as the ledger computes it.

The ledger is the judge: a payout that is not the sum of its movements is refused with its day. Here the same whole
numbers are needed before the day is written, for payouts and for the banks' statements.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

import numpy as np

from stripe_platform.money import exponent
from stripe_platform.oltp.reference import REPORTING
from stripe_platform.simulation.aftermath import LOST, NEEDS, WON, Docket
from stripe_platform.simulation.merchants import Merchants

_RATE_DIGITS = 10


class Settlement:
    """Amounts in merchants' settlement currencies."""

    def __init__(self, merchants: Merchants, rate: Callable[[dt.date], dict[str, float]]) -> None:
        self.merchants, self._rate = merchants, rate
        self._rates = lru_cache(maxsize=256)(self._rates_of)

    def _rates_of(self, day: dt.date) -> dict[tuple[str, str], int]:
        """Rates of the pairs in use, times ten to the tenth: from the rows of `exchange_rates`, rounded half up."""
        found = {}
        rates = {c: Decimal(f"{r:.{_RATE_DIGITS}f}") for c, r in self._rate(day).items()}
        own = self.merchants.world.account_currency
        for pair in set(zip(own[self.merchants.exchanged], self.merchants.settlement[self.merchants.exchanged],
                            strict=True)):  # fmt: skip
            sold, bought = map(str, pair)
            rate = rates[sold] if bought == REPORTING else rates[sold] / rates[bought]
            kept = rate.quantize(Decimal(1).scaleb(-_RATE_DIGITS), ROUND_HALF_UP)
            found[sold, bought] = int(kept.scaleb(_RATE_DIGITS))
        return found

    def settled(self, amount: np.ndarray, account: np.ndarray, day: dt.date) -> np.ndarray:
        """Amounts as they reach the merchants, before fees; exchanged where they are paid in another currency."""
        merchants = self.merchants
        result = amount.astype(np.int64).copy()
        for (sold, bought), rate in self._rates(day).items():
            mine = ((merchants.world.account_currency[account] == sold) & (merchants.settlement[account] == bought)
                    & merchants.exchanged[account])  # fmt: skip
            times, per = ratio(rate, sold, bought)
            result[mine] = (2 * amount[mine] * times + per) // (2 * per)
        return result

    def _fee(self, settled: np.ndarray, account: np.ndarray) -> np.ndarray:
        merchants = self.merchants
        multiple = merchants.multiple[account]
        units = settled // multiple
        return (units * merchants.basis_points[account] + 5000) // 10_000 * multiple + merchants.fixed[account]

    def earned(self, captured: np.ndarray, account: np.ndarray, day: dt.date) -> np.ndarray:
        """By merchant: what a day's charges bring after fees. Four öre are no cent, and still cost their fee."""
        taken = captured > 0
        settled = self.settled(captured[taken], account[taken], day)
        return self._sums(settled - self._fee(settled, account[taken]), account[taken])

    def taken(self, begun: Docket, *, disputes: bool) -> np.ndarray:
        """By merchant: what refunds or disputes take on the day they begin."""
        if disputes:
            mine = begun.steps[:, 0] == NEEDS
            account = begun.account[mine]
            return -self._sums(begun.settled[mine] + self.merchants.dispute_fee[account], account)
        return -self._sums(begun.settled, begun.account)

    def changed(self, found: Docket, moved: list[tuple[int, int]], *, disputes: bool) -> np.ndarray:
        """By merchant: what refunds or disputes give back, or take late, on the day their status changes."""
        total = np.zeros(self.merchants.count, np.int64)
        for row, step in moved:
            account, status = found.account[row], found.steps[row, step]
            if not disputes:
                total[account] += found.settled[row] if status == 3 else 0
            elif status == WON:
                total[account] += found.settled[row]
            elif status == NEEDS:
                total[account] -= found.settled[row] + self.merchants.dispute_fee[account]
        return total

    def _sums(self, values: np.ndarray, account: np.ndarray) -> np.ndarray:
        total = np.zeros(self.merchants.count, np.int64)
        np.add.at(total, account.astype(np.int64), values.astype(np.int64))
        return total


def ratio(rate: int, sold: str, bought: str) -> tuple[int, int]:
    """A rate between minor units as a fraction of whole numbers."""
    shift = exponent(bought) - exponent(sold)
    return rate * 10 ** max(0, shift), 10 ** (_RATE_DIGITS + max(0, -shift))


def lost(found: Docket, moved: list[tuple[int, int]]) -> list[int]:
    """Rows of chargebacks that were lost: the networks keep the money."""
    return [row for row, step in moved if found.steps[row, step] == LOST]
