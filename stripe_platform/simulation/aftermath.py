"""What becomes of charges after their day: refunds that may fail, disputes that are decided, warnings, reviews.

All of it is worked out from the charges of earlier days, which are made again from the seed; a day's docket is small
and kept, the charges behind it are not. Reasons for winning or failing are drawn from streams of their own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.ids import seeded, uuid7_ids
from stripe_platform.simulation.payments import Made, stamps
from stripe_platform.simulation.traffic import DAY_US

PENDING_REFUNDS, FAILED_REFUNDS = 0.10, 0.40  # of refunds; of the pending ones
REFUND_ENDS, DECIDED = 5, 60  # most days until a pending refund ends, a dispute is decided
REVIEW_SCORE, REVIEWED, REVIEW_CLOSED = 45, 0.6, 0.9
_QUARREL_REASONS = np.array(["product_not_received", "product_unacceptable", "duplicate", "subscription_canceled"])
_WON = {"fraudulent": 0.15, "product_not_received": 0.35, "product_unacceptable": 0.30, "duplicate": 0.50,
        "subscription_canceled": 0.25}  # fmt: skip
_CODES = {"fraudulent": "10.4", "product_not_received": "13.1", "product_unacceptable": "13.3", "duplicate": "12.6.1",
          "subscription_canceled": "13.2"}  # fmt: skip
_FRAUD_TYPES = np.array(["made_with_stolen_card", "made_with_lost_card", "unauthorized_use_of_card",
                         "made_with_counterfeit_card"])  # fmt: skip
_FAILURES = np.array(["lost_or_stolen_card", "expired_or_canceled_card", "declined"])
(NONE, NEEDS, REVIEW, WON, LOST, PREVENTED, INQUIRY, INQUIRY_REVIEW, INQUIRY_CLOSED) = range(9)
STATUSES = np.array(["", "needs_response", "under_review", "won", "lost", "prevented", "warning_needs_response",
                     "warning_under_review", "warning_closed"])  # fmt: skip


@dataclass(frozen=True)
class Fates:
    """Of a day's charges, those of which something becomes later."""

    ids: np.ndarray
    intents: np.ndarray
    account: np.ndarray
    currency: np.ndarray
    captured: np.ndarray
    settled: np.ndarray  # what the charge brought its merchant before fees, in the merchant's currency
    fraud: np.ndarray
    quarrel: np.ndarray
    refund_us: np.ndarray
    refund_minor: np.ndarray
    dispute_us: np.ndarray
    warning_us: np.ndarray

    @classmethod
    def of(cls, made: Made, settled: np.ndarray, seed: int, day: dt.date) -> Fates:
        """The rows of `made` that have a fate."""
        rows = np.nonzero((made.refund_us > 0) | (made.dispute_us > 0) | (made.warning_us > 0))[0]
        quarrel = seeded(seed, "quarrels", day.isoformat()).integers(0, len(_QUARREL_REASONS), len(rows))
        ids, intents = (np.array(a.take(pa.array(rows)).to_pylist(), dtype=object) for a in (made.ids, made.intents))
        return cls(ids, intents, made.account[rows], made.currency[rows], made.captured[rows], settled[rows],
                   made.charges.scenario[rows] > 0, quarrel, made.refund_us[rows], made.refund_minor[rows],
                   made.dispute_us[rows], made.warning_us[rows])

    def due(self, field: str, start: int) -> np.ndarray:
        """Rows whose `field` falls on the day that starts at `start`."""
        at = getattr(self, field)
        return np.nonzero((at >= start) & (at < start + DAY_US))[0]


@dataclass(frozen=True)
class Docket:
    """Refunds or disputes that begin on a day, in time order, with every status they will have and when."""

    ids: np.ndarray
    charge: np.ndarray
    intent: np.ndarray
    account: np.ndarray
    currency: np.ndarray
    amount: np.ndarray
    settled: np.ndarray
    reason: np.ndarray
    steps_us: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def moved(self, start: int, live: Callable[[int], bool]) -> list[tuple[int, int]]:
        """(row, step) of the changes that fall on the day that starts at `start`; the first step is the beginning.

        `live` says which instants are simulated: a row whose step before fell on another day does not go on.
        """
        later = self.steps_us[:, 1:]
        rows, steps = np.nonzero((later >= start) & (later < start + DAY_US))
        return [(int(row), int(step) + 1) for row, step in zip(rows, steps, strict=True)
                if all(live(int(us)) for us in self.steps_us[row, 1:step + 1])]


def docket(prefix: str, parts: list[tuple[Fates, np.ndarray]], seed: int, day: dt.date) -> Docket:
    """The day's refunds (`re`) or disputes (`dp`) of the charges that are due."""
    field = "refund_us" if prefix == "re" else "dispute_us"

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(fates, name)[rows] for fates, rows in parts]) if parts else np.empty(0, np.int64)

    us, charge = joined(field).astype(np.int64), joined("ids")
    order = np.lexsort((charge.astype(str), us)) if len(us) else np.empty(0, np.int64)
    us, captured, settled = us[order], joined("captured")[order], joined("settled")[order]
    rng = seeded(seed, prefix, day.isoformat())
    ids = np.array(uuid7_ids(prefix, us, rng), dtype=object)
    rng = seeded(seed, f"{prefix} life", day.isoformat())
    if prefix == "re":
        amount = joined("refund_minor")[order]
        steps_us, steps = _refund_steps(us, rng)
        # Half up, as the ledger takes a part; the whole is itself.
        whole = np.where(captured > 0, captured, 1)
        settled = np.where(settled == captured, amount, (2 * settled * amount + whole) // (2 * whole))
        reason = np.full(len(us), "requested_by_customer")
    else:
        amount = captured
        fraud = joined("fraud")[order].astype(bool)
        reason = np.where(fraud, "fraudulent", _QUARREL_REASONS[joined("quarrel")[order].astype(np.int64)])
        steps_us, steps = _dispute_steps(us, reason, rng)
    return Docket(ids, charge[order], joined("intents")[order], joined("account")[order], joined("currency")[order],
                  amount, settled, reason, steps_us, steps)


def _refund_steps(us: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Succeeded at once (1), or pending (2) and succeeded or failed (3) some days later."""
    n = len(us)
    pending = rng.random(n) < PENDING_REFUNDS
    failed = rng.random(n) < FAILED_REFUNDS
    ends = us + (rng.uniform(1, REFUND_ENDS, n) * DAY_US).astype(np.int64)
    steps = np.stack([np.where(pending, 2, 1), np.where(pending, np.where(failed, 3, 1), 0)], axis=1)
    return np.stack([us, np.where(pending, ends, 0)], axis=1), steps


REFUND_STATUSES = np.array(["", "succeeded", "pending", "failed"])


def _dispute_steps(us: np.ndarray, reason: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Up to four statuses: a chargeback is answered or not, then decided 5 to 60 days after it began."""
    n = len(us)
    u = rng.random((n, 8))
    odds = np.array([_WON[r] for r in reason]) if n else np.empty(0)
    inquiry = u[:, 0] < np.where(reason == "fraudulent", 0.01, 0.25)
    prevented = ~inquiry & (u[:, 0] > 0.97)
    answered, won, escalated = u[:, 1] < 0.7, u[:, 2] < odds, u[:, 3] < 0.3
    answer = us + ((1 + 3 * u[:, 4]) * DAY_US).astype(np.int64)
    end = us + ((5 + (DECIDED - 5) * u[:, 5] ** 2) * DAY_US).astype(np.int64)
    last = np.minimum(end + ((5 + 20 * u[:, 6]) * DAY_US).astype(np.int64), us + DECIDED * DAY_US)
    escalates = inquiry & answered & escalated & (last > end)
    verdict = np.where(won & answered, WON, LOST)
    first = np.select([inquiry, prevented], [INQUIRY, PREVENTED], NEEDS)
    second = np.select([prevented, inquiry & answered, inquiry, answered],
                       [NONE, INQUIRY_REVIEW, INQUIRY_CLOSED, REVIEW], LOST)
    third = np.select([prevented | ~answered, escalates, inquiry], [NONE, NEEDS, INQUIRY_CLOSED], verdict)
    fourth = np.where(escalates, verdict, NONE)
    steps = np.stack([first, second, third, fourth], axis=1)
    steps_us = np.stack([us, np.where(answered, answer, end), end, last], axis=1)
    return np.where(steps > NONE, steps_us, 0), steps


def refund_rows(found: Docket) -> pa.Table:
    """New refunds; each names the movement that took its money."""
    return pa.table({
        "id": found.ids, "charge_id": found.charge, "payment_intent_id": found.intent, "amount": found.amount,
        "currency": found.currency, "status": REFUND_STATUSES[found.steps[:, 0]], "reason": found.reason,
        "balance_transaction_id": [f"txn_{name[3:]}" for name in found.ids], "created": stamps(found.steps_us[:, 0]),
    }) if len(found) else pa.table({})  # fmt: skip


def refund_changes(found: Docket, moved: list[tuple[int, int]]) -> list[dict[str, object]]:
    """Pending refunds that ended."""
    return [
        {"id": found.ids[row], "at": int(found.steps_us[row, step]),
         "status": str(REFUND_STATUSES[found.steps[row, step]]),
         "failure_reason": str(_FAILURES[row % len(_FAILURES)]) if found.steps[row, step] == 3 else None}
        for row, step in moved
    ]  # fmt: skip


def dispute_rows(found: Docket) -> pa.Table:
    """New disputes: chargebacks, inquiries, and those prevented before money moved."""
    if not len(found):
        return pa.table({})
    begun, inquiry = found.steps_us[:, 0], found.steps[:, 0] == INQUIRY
    return pa.table({
        "id": found.ids, "charge_id": found.charge, "payment_intent_id": found.intent, "amount": found.amount,
        "currency": found.currency, "reason": found.reason, "status": STATUSES[found.steps[:, 0]],
        "case_type": np.where(inquiry, "inquiry", "chargeback"),
        "network_reason_code": [_CODES[r] for r in found.reason], "evidence_due_by": stamps(begun + 9 * DAY_US),
        "evidence_has": ["false"] * len(begun), "evidence_past_due": ["false"] * len(begun),
        "evidence_submissions": np.zeros(len(begun), np.int64),
        "is_charge_refundable": np.where(inquiry, "true", "false"), "created": stamps(begun),
    })  # fmt: skip


def dispute_changes(found: Docket, moved: list[tuple[int, int]]) -> list[dict[str, object]]:
    """Disputes that were answered, escalated, closed or decided."""
    rows: list[dict[str, object]] = []
    for row, step in moved:
        status = int(found.steps[row, step])
        answered = status in (REVIEW, INQUIRY_REVIEW)
        late = status in (LOST, INQUIRY_CLOSED) and step == 1
        rows.append({
            "id": found.ids[row], "at": int(found.steps_us[row, step]), "status": str(STATUSES[status]),
            "evidence_has": True if answered else None, "evidence_submissions": 1 if answered else None,
            "evidence_past_due": True if late else None,
        })  # fmt: skip
    return rows


def warning_rows(parts: list[tuple[Fates, np.ndarray]], seed: int, day: dt.date) -> pa.Table:
    """Early fraud warnings of the issuers."""
    if not parts:
        return pa.table({})
    us, charge, intent = (np.concatenate([getattr(fates, name)[rows] for fates, rows in parts])
                          for name in ("warning_us", "ids", "intents"))
    order = np.lexsort((charge.astype(str), us))
    rng = seeded(seed, "issfr", day.isoformat())
    ids = uuid7_ids("issfr", us[order], rng)
    return pa.table({
        "id": ids, "charge_id": charge[order], "payment_intent_id": intent[order],
        "fraud_type": _FRAUD_TYPES[rng.integers(0, len(_FRAUD_TYPES), len(ids))],
        "actionable": rng.random(len(ids)) < 0.8, "created": stamps(us[order]),
    })  # fmt: skip


def reviews(made: Made, seed: int, day: dt.date) -> tuple[pa.Table, list[dict[str, object]]]:
    """Reviews that a rule opened on risky charges of the day, and how they will close."""
    rng = seeded(seed, "reviews", day.isoformat())
    n = len(made.charges)
    rows = np.nonzero((made.score >= REVIEW_SCORE) & ~made.declined & (rng.random(n) < REVIEWED))[0]
    if not len(rows):
        return pa.table({}), []
    us, take = made.created_us[rows] + 2_000_000, pa.array(rows)
    ids = uuid7_ids("prv", us, rng)
    closes = us + rng.integers(3_600_000_000, 2 * DAY_US, len(rows))
    stays = rng.random(len(rows)) > REVIEW_CLOSED
    table = pa.table({
        "id": ids, "charge_id": made.ids.take(take), "payment_intent_id": made.intents.take(take),
        "open": ["true"] * len(rows), "opened_reason": ["rule"] * len(rows), "reason": ["rule"] * len(rows),
        "ip_country": made.ip[rows], "session_device": made.device[rows], "created": stamps(us),
    })  # fmt: skip
    return table, [
        {"id": name, "at": int(at), "open": False, "closed_reason": "approved", "reason": "approved"}
        for name, at, open_ in zip(ids, closes, stays, strict=True) if not open_
    ]

