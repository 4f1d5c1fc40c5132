"""Customer feedback: reviews and survey answers in several languages.

`CARD_SHARE` of the texts hide a test card number in one of the disguises, `PERSONAL_SHARE` a mail address and a
telephone number: people write such things, and whoever stores texts must find them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np

from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.simulation import names
from stripe_platform.simulation.clickstream import iso
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.disguises import CARDS, DISGUISES, PHONES, hidden

FEEDBACK_SHARE = 1 / 96  # of the day's charges
CARD_SHARE, PERSONAL_SHARE, SURVEYS = 0.04, 0.03, 0.35  # of the texts, of the texts, of the feedback
_CHANNELS = ("app", "email", "web")
_LANGUAGES = {"FR": "fr", "DE": "de", "ES": "es", "IT": "it", "CH": "de", "BE": "fr"}


def feedback(days: Days, day: dt.date) -> Iterable[dict[str, object]]:
    """The day's reviews and answers, each of a charge of the day."""
    world, made = days.world, days.made(day)
    rng = seeded(days.options.seed, "feedback", day.isoformat())
    n = min(len(made.ids), round(len(made.ids) * FEEDBACK_SHARE))
    rows = np.sort(rng.choice(len(made.ids), n, replace=False))
    latest = day_us(day) + 86_399_000_000
    created = np.minimum(made.created_us[rows] + rng.integers(60_000_000, 7_200_000_000, n), latest)
    ids = uuid7_ids("fb", created, rng)
    ratings = rng.choice(5, n, p=(0.08, 0.10, 0.17, 0.30, 0.35)) + 1
    picks, channels = rng.random(n), rng.integers(0, len(_CHANNELS), n)
    rng = seeded(days.options.seed, "feedback leaks", day.isoformat())
    cards, disguises = rng.integers(0, len(CARDS), n), rng.integers(0, len(DISGUISES), n)
    leaks, surveys, persons = rng.random(n), rng.random(n) < SURVEYS, rng.integers(0, len(PHONES), n)
    for i, row in enumerate(rows):
        country = str(world.customer_country[made.charges.customer[row]])
        language = _LANGUAGES.get(country, "en")
        text = names.text(int(ratings[i]), float(picks[i]), language)
        if leaks[i] < CARD_SHARE:
            text += f" My card is {hidden(int(cards[i]), int(disguises[i]))}, please look."
        elif leaks[i] < CARD_SHARE + PERSONAL_SHARE:
            text += f" Call {PHONES[persons[i]]} or write to guest.{i}@mail.example."
        yield {
            "id": ids[i], "customer": world.customer_tokens[made.charges.customer[row]],
            "merchant": world.account_tokens[made.account[row]], "charge": made.ids[int(row)].as_py(),
            "rating": int(ratings[i]), "channel": _CHANNELS[channels[i]], "kind": "survey" if surveys[i] else "review",
            "language": language, "text": text, "created": iso(created[i]),
        }  # fmt: skip
