"""Slot and log in figures, for sensors and dashboards: how far behind the reader is, what is kept and not sealed."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from dataclasses import dataclass

from resources.lake import Lake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.describe import connect
from stripe_platform.cdc.sealing import Failures
from stripe_platform.cdc.segments import Listing
from stripe_platform.cdc.source import Source
from stripe_platform.settings import Settings

_QUERY = """
select pg_wal_lsn_diff(e.lsn, s.confirmed_flush_lsn)::bigint, pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint,
       s.wal_status, s.safe_wal_size, s.active_pid is not null, clock_timestamp()
from pg_replication_slots s
cross join (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end) as e(lsn)
where s.slot_name = %s and s.database = current_database()
"""


@dataclass(frozen=True)
class SlotMetrics:
    """Bytes of log not acknowledged and kept for the slot; `wal_status`: reserved, extended, unreserved, lost, or
    missing where there is no slot. `safe_bytes`: what may still be written before the slot is lost, None = no limit.

    `seconds_behind`: age of the newest durable commit, 0 where nothing is unacknowledged: no delay is larger.
    """

    source: str
    slot: str
    unacknowledged_bytes: int
    kept_bytes: int
    wal_status: str
    safe_bytes: int | None
    active: bool
    seconds_behind: float | None

    @property
    def alarms(self) -> list[str]:
        """Sentences for who is paged; empty while all is well."""
        remedies = {
            "missing": "is missing: restore it, or re-snapshot the source",
            "lost": "is lost: re-snapshot the source, and raise max_slot_wal_keep_size",
            "unreserved": "loses its log at the next checkpoint: run `stripe-platform cdc capture` now",
        }
        remedy = remedies.get(self.wal_status)
        return [f"slot {self.slot} of source {self.source} {remedy}"] if remedy else []


def slot_metrics(settings: Settings, source: Source, lake: Lake | None = None) -> SlotMetrics:
    """The slot of a source as it stands; a slot that is missing is a figure too, not an error."""
    slot, newest = source.slot_name(settings), manifests.last(lake or source.lake(settings))
    with closing(connect(settings, source)) as connection:
        row = connection.execute(_QUERY, [slot]).fetchone()
    if row is None:
        return SlotMetrics(source.name, slot, 0, 0, "missing", None, False, None)
    behind, kept, status, safe, active, now = row
    last = dt.datetime.fromisoformat(newest.last_commit) if newest and newest.last_commit else None
    seconds = 0.0 if not behind else None if last is None else max(0.0, (now - last).total_seconds())
    return SlotMetrics(source.name, slot, behind or 0, kept or 0, status or "lost", safe, active, seconds)


@dataclass(frozen=True)
class SealingMetrics:
    """Manifests that no segment holds; sealings that failed, in all and since one went well, and when last (ISO)."""

    source: str
    single_manifests: int
    sealing_failures: int
    sealing_failures_in_a_row: int
    sealing_failed_at: str | None

    @property
    def alarms(self) -> list[str]:
        """A sentence while sealing fails; nothing is lost, but the log is read ever slower."""
        if not self.sealing_failures_in_a_row:
            return []
        times = f"{self.sealing_failures_in_a_row} times in a row, last at {self.sealing_failed_at}"
        return [(f"manifests of source {self.source} could not be sealed {times}: the capture's log says why,"
                 " `stripe-platform cdc verify --log-only` names manifests that do not follow")]


def sealing_metrics(settings: Settings, source: Source, lake: Lake | None = None) -> SealingMetrics:
    """How sealing of a source's manifests stands."""
    lake = lake or source.lake(settings)
    failures = Failures.load(lake)
    return SealingMetrics(source.name, len(Listing.of(lake).singles), failures.total, failures.in_a_row, failures.at)
