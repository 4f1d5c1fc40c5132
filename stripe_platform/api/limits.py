"""How much one key may ask of one process: a bucket of tokens that fills with time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Buckets:
    """`rate` requests a second per key, `burst` at once."""

    def __init__(self, rate: float, burst: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst or 2 * rate, clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """Whether one more request of a key fits."""
        now = self._clock()
        with self._lock:
            left, since = self._left.get(key, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._rate)
            self._left[key] = (left - 1 if left >= 1 else left, now)
            return left >= 1
