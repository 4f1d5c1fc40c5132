"""Replay lag, measured at both ends: how long until a standby shows what the primary had on disk.

Not `pg_stat_replication.replay_lag`: that is the standby's own report, at its own times. Here one clock reads both
ends, and both readings err against us: the clock starts before the primary is asked and stops after the standby told.
"""

from __future__ import annotations

import threading
import time

import psycopg

PAUSE_SECONDS = 0.01
POLL_SECONDS = 0.001


class ReplayLag(threading.Thread):
    """Samples in the background until stopped or until a server is gone; `samples` are seconds."""

    def __init__(self, primary: str, standby: str) -> None:
        super().__init__(daemon=True)
        self._primary, self._standby = primary, standby
        self._stopped = threading.Event()
        self.samples: list[float] = []

    def run(self) -> None:
        try:
            with (psycopg.connect(self._primary, autocommit=True) as primary,
                  psycopg.connect(self._standby, autocommit=True) as standby):
                while not self._stopped.wait(PAUSE_SECONDS):
                    self._sample(primary, standby)
        except psycopg.OperationalError:  # the drill kills servers
            return

    def stop(self) -> list[float]:
        """The samples, in order of time."""
        self._stopped.set()
        self.join()
        return self.samples

    def _sample(self, primary: psycopg.Connection, standby: psycopg.Connection) -> None:
        begun = time.monotonic()
        row = primary.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        replayed = False
        while not replayed and not self._stopped.is_set():  # stopped while waiting: so long at least
            seen = standby.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone()
            replayed = bool(seen and seen[0])
            if not replayed:
                time.sleep(POLL_SECONDS)
        self.samples.append(time.monotonic() - begun)


def percentile(samples: list[float], share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]
