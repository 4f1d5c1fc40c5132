"""Clickstream: visits to the shops' pages, from where they came to the cart and the receipt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np

from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.simulation.days import Days

SESSION_SHARE = 1 / 9.6  # of the day's charges
_DEVICES = (("desktop", "Windows", "Edge"), ("desktop", "macOS", "Safari"), ("desktop", "Linux", "Firefox"),
            ("mobile", "Android", "Chrome"), ("mobile", "iOS", "Safari"), ("tablet", "iPadOS", "Safari"))  # fmt: skip
_REFERRERS = (None, "https://search.example/", "https://social.example/feed", "https://mail.example/newsletter",
              "https://partner.example/offers")  # fmt: skip
# One way through a shop; a visit stops somewhere on it, some come back from the cart.
_WAY = (("open", "/"), ("view", "/catalogue"), ("search", "/search"), ("view", "/product"), ("add_to_cart", "/product"),
        ("view", "/cart"), ("begin_checkout", "/checkout"), ("purchase", "/receipt"))  # fmt: skip


def sessions(days: Days, day: dt.date) -> Iterable[dict[str, object]]:
    """The day's visits in time order."""
    world, made = days.world, days.made(day)
    rng = seeded(days.options.seed, "sessions", day.isoformat())
    n = round(len(made.ids) * SESSION_SHARE)
    started = day_us(day) + np.sort((rng.random(n) * 80_000_000_000).astype(np.int64))
    ids = uuid7_ids("ses", started, rng)
    payers, merchants = rng.integers(0, world.customers, n), rng.integers(0, len(world.cell_ids), n)
    devices, clicks, known = rng.integers(0, len(_DEVICES), n), rng.integers(1, 9, n), rng.random(n) < 0.8
    referrers, second_thought = rng.integers(0, len(_REFERRERS), n), rng.random(n) < 0.1
    gaps = rng.integers(500_000, 90_000_000, (n, 9))
    for i in range(n):
        kind, system, browser = _DEVICES[devices[i]]
        way = list(_WAY[: clicks[i]])
        if second_thought[i] and clicks[i] > 5:
            way.insert(6, ("remove_from_cart", "/cart"))
        at = started[i] + np.cumsum(gaps[i, : len(way)]) - 500_000
        item = f"item_{merchants[i] % 97:02d}"
        events = [
            {"at": iso(t), "type": what, "page": page, "item": item if page in ("/product", "/cart") else None}
            for t, (what, page) in zip(at, way, strict=True)
        ]
        yield {
            "id": ids[i], "customer": world.customer_tokens[payers[i]] if known[i] else None,
            "merchant": world.account_tokens[merchants[i]], "referrer": _REFERRERS[referrers[i]],
            "device": {"type": kind, "os": system, "browser": browser},
            "location": {"country": str(world.customer_country[payers[i]])},
            "started_at": iso(started[i]), "ended_at": events[-1]["at"], "events": events,
        }  # fmt: skip


def iso(us: int) -> str:
    """Unix microseconds as an ISO instant in UTC, to the millisecond."""
    seconds, micro = divmod(int(us), 1_000_000)
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds, milliseconds=micro // 1000)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
