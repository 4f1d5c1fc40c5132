"""What the quarantines of all stores share: how many, which names may be shown, and what to do."""

from __future__ import annotations

import re

MOST = 1_000  # keys that one call puts aside; a rule that refuses more is wrong itself, and stops its table
REMEDY = "mend the rule or the row's cause, then run `stripe-platform cdc quarantine --retry`"
_RANDOM_ID = re.compile(r"[A-Za-z]{2,8}_[A-Za-z0-9_]{1,64}")


def shown(name: str | None) -> str | None:
    """A key that says nothing of who it names, as our ids and Stripe's; None for any other."""
    return name if name and _RANDOM_ID.fullmatch(name) else None
