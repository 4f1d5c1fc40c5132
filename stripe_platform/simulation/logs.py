"""Access and error lines of the API front, one JSON object per line.

They hold no personal data but what a careless developer lets out: `CANARIES` error lines a day with a mail address, a
telephone number or a test card number.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np

from stripe_platform.oltp.ids import day_us, seeded, tokens, uuid7_ids
from stripe_platform.simulation.clickstream import iso
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.disguises import CARDS, DISGUISES, PHONES, hidden

LINE_SHARE, CANARIES = 1 / 12, 3
_CALLS = (
    ("POST", "/v1/payment_intents", 200, 0.42), ("GET", "/v1/payment_intents/{id}", 200, 0.22),
    ("POST", "/v1/refunds", 200, 0.05), ("GET", "/v1/charges", 200, 0.12), ("POST", "/v1/payment_intents", 402, 0.06),
    ("POST", "/v1/customers", 200, 0.05), ("GET", "/v1/payouts", 200, 0.03), ("POST", "/v1/payment_intents", 400, 0.02),
    ("GET", "/v1/charges/{id}", 404, 0.015), ("POST", "/v1/payment_intents", 429, 0.008),
    ("POST", "/v1/payment_intents", 500, 0.004), ("GET", "/v1/balance", 200, 0.003),
)  # fmt: skip
_KEYS = 40


def lines(days: Days, day: dt.date) -> Iterable[dict[str, object]]:
    """The day's lines in time order."""
    rng = seeded(days.options.seed, "logs", day.isoformat())
    n = max(CANARIES, round(len(days.made(day).ids) * LINE_SHARE))
    us = day_us(day) + np.sort(rng.integers(0, 86_400_000_000, n))
    share = np.array([call[3] for call in _CALLS])
    which = rng.choice(len(_CALLS), n, p=share / share.sum())
    latency = np.maximum(1, rng.lognormal(3.2, 0.7, n)).astype(np.int64)
    requests = uuid7_ids("req", us, rng)
    keys = tokens("ak", _KEYS, seeded(days.options.seed, "api keys"))
    key = rng.integers(0, _KEYS, n)
    canaries = set(rng.choice(n, CANARIES, replace=False).tolist())
    card, disguise = rng.integers(0, len(CARDS), n), rng.integers(0, len(DISGUISES), n)
    for i in range(n):
        method, path, status, _ = _CALLS[which[i]]
        status = 500 if i in canaries else status
        line: dict[str, object] = {
            "at": iso(us[i]), "level": "error" if status >= 500 else "info", "kind": "access", "method": method,
            "path": path, "status": status, "latency_ms": int(latency[i]), "request_id": requests[i],
            "api_key_id": keys[key[i]],
        }  # fmt: skip
        if status >= 500:
            line |= {"kind": "error", "message": "upstream did not answer in time"}
        if i in canaries:
            said = (f"number={hidden(int(card[i]), int(disguise[i]))}", f"email=guest.{i}@mail.example",
                    f"phone={PHONES[i % len(PHONES)]}")[i % 3]  # fmt: skip
            line["message"] = f"ValueError: cannot read form ({said})"
        yield line
