"""Which input this data folder lives on: remembered in `<home>/feed.json`, so that a repeated run brings the same.

`FeedSpec` is what a command asks for; `current_feed` is what the assets use. Without a remembered feed the platform
observes what others write (production).
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import psycopg

from stripe_platform.cdc.capture import CaptureBusyError, capture
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.source import OLTP
from stripe_platform.oltp.calendar import last_closed_day
from stripe_platform.oltp.feed import BusinessDays, DayLoad, Feed, ObservedFeed
from stripe_platform.settings import FIRST_DAY, Settings, load_settings

UNLIMITED = 32 << 30  # bytes of log that may wait where the slot has no limit: the disk has one


class FeedError(RuntimeError):
    """The input asked for does not fit this data folder; the message names both and the remedy."""


@dataclass(frozen=True)
class FeedSpec:
    """An input and its options, as kept in `feed.json`."""

    kind: Literal["simulated", "file"]
    options: dict[str, Any]
    extra: tuple[str, ...] = ()  # simulated days beyond the calendar, brought one by one

    @classmethod
    def simulated(
        cls, *, seed: int = 0, first_day: dt.date = FIRST_DAY, days: int = 28, per_day: int = 9_000,
        dispute_lag_days: int = 14,
    ) -> FeedSpec:
        """A fixed past calendar of simulated payments."""
        return cls("simulated", {
            "seed": seed, "first_day": first_day.isoformat(), "days": days, "per_day": per_day,
            "dispute_lag_days": dispute_lag_days,
        })  # fmt: skip

    @classmethod
    def file(
        cls, files: Sequence[Path], *, start: dt.date | None = None, days: int | None = None, currency: str = "eur",
        country: str = "FR",
    ) -> FeedSpec:
        """Transactions from Parquet or CSV files; `start` and `days` cut a window (default: all the file holds)."""
        return cls("file", {
            "files": [str(f.resolve()) for f in files], "start": start.isoformat() if start else None, "days": days,
            "currency": currency.lower(), "country": country,
        })  # fmt: skip

    def calendar(self, settings: Settings) -> BusinessDays:
        """The days this feed brings; refuses what cannot be brought, before anything is started or written."""
        calendar = build(self, settings).calendar()
        if calendar is None:
            raise FeedError(f"the {self.kind} feed has no calendar of its own")
        today = dt.datetime.now(dt.UTC).date()
        if calendar.last_with_tail >= today:
            raise FeedError(
                f"the calendar ends on {calendar.last_with_tail}, the last day on which its disputes arrive, and a day "
                f"closes when it is over (today is {today}): choose an earlier --start or fewer --days")
        return calendar

    def remember(self, settings: Settings) -> BusinessDays:
        """Make this the data folder's feed and its first day the first partition; the feed's calendar.

        A folder that lives on another feed refuses: days close once, and the two calendars would mix. The feed of a
        run that failed before its first day binds nobody.
        """
        calendar, before = self.calendar(settings), remembered(settings)
        if before is not None and (before.kind, before.options) != (self.kind, self.options):
            if _any_day_closed(settings):
                raise FeedError(
                    f"{settings.home} already lives on another {before.kind} feed: repeat its options (feed.json), or "
                    "set STRIPE_PLATFORM_HOME to a new folder")
            before = None
        settings.home.mkdir(parents=True, exist_ok=True)
        _put(settings.home / "calendar.env", f"STRIPE_PLATFORM_FIRST_DAY={calendar.first.isoformat()}\n")
        _save(settings, before or self)
        return calendar


def _any_day_closed(settings: Settings) -> bool:
    with psycopg.connect(settings.need("oltp_dsn")) as conn:
        return last_closed_day(conn) is not None


def remembered(settings: Settings) -> FeedSpec | None:
    """The data folder's feed, or None."""
    file = settings.home / "feed.json"
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    return FeedSpec(content["kind"], content["options"], tuple(content["extra"]))


def simulate(settings: Settings, day: dt.date | None = None, **options: Any) -> DayLoad:
    """Bring one simulated day with charges: `day`, by default the one after the last closed (or the calendar's first).

    `options` as for `FeedSpec.simulated`; they must repeat those of a folder that is simulated already.
    """
    spec = remembered(settings)
    if spec is None:
        spec = FeedSpec.simulated(**options)
        spec.remember(settings)
    if spec.kind != "simulated":
        raise FeedError(f"{settings.home} lives on files: set STRIPE_PLATFORM_HOME to a new folder to simulate")
    if options:
        FeedSpec.simulated(**{**_typed(spec), **options}).remember(settings)  # refuses what differs
    calendar = build(spec, settings).calendar()
    assert calendar is not None  # noqa: S101 - a simulation has a calendar
    if day is None:
        with psycopg.connect(settings.need("oltp_dsn")) as conn:
            last = last_closed_day(conn)
        day = calendar.first if last is None else last + dt.timedelta(days=1)
    if day < calendar.first:
        raise FeedError(f"{day} lies before {calendar.first}, the first day of this calendar: pick a later day")
    if day > dt.datetime.now(dt.UTC).date():
        raise FeedError(f"{day} lies in the future: days close in order, and none before it could be closed any more")
    if day > calendar.last and day.isoformat() not in spec.extra:
        spec = replace(spec, extra=(*spec.extra, day.isoformat()))
        _save(settings, spec)
    return build(spec, settings).bring(day)


def current_feed(settings: Settings) -> Feed:
    """The feed that brings days into this deployment."""
    spec = remembered(settings)
    if spec is not None:
        return build(spec, settings)
    from stripe_platform.reference.sync import sync

    return ObservedFeed(settings, lambda: sync(settings))


def build(spec: FeedSpec, settings: Settings) -> Feed:
    """The feed a spec names; `FeedError` for an unknown kind."""
    options = dict(spec.options)
    if spec.kind == "simulated":
        from stripe_platform.simulation.feed import SimulatedFeed
        from stripe_platform.simulation.world import Options

        return SimulatedFeed(settings, Options(**_typed(spec)), tuple(dt.date.fromisoformat(d) for d in spec.extra))
    if spec.kind == "file":
        from stripe_platform.ingest.transactions_file import FileFeed

        return FileFeed(
            settings, [Path(f) for f in options["files"]], currency=options["currency"], country=options["country"],
            start=dt.date.fromisoformat(options["start"]) if options["start"] else None, days=options["days"],
        )
    raise FeedError(f"feed.json names an unknown kind of feed, {spec.kind!r}: simulated or file")


def relieve(settings: Settings, part: float = 0.25) -> None:
    """Land the log where more waits than this part of what the slot may keep; nothing where another one reads it, or
    this deployment knows of no slot (Debezium reads for it).

    A range is loaded before its run captures it: three days of ten million changes were 36 GB, and the slot was lost.
    """
    if not OLTP.configured(settings):
        return
    slot = slot_metrics(settings, OLTP)
    room = UNLIMITED if slot.safe_bytes is None else slot.kept_bytes + slot.safe_bytes
    if slot.wal_status not in ("missing", "lost") and slot.unacknowledged_bytes > room * part:
        with suppress(CaptureBusyError):
            capture(settings, wait_seconds=0)


class FeedResource(dg.ConfigurableResource):
    """The data folder's feed, built when it is asked for."""

    def feed(self) -> Feed:
        return current_feed(load_settings())

    def relieve(self) -> None:
        """What is due behind every loaded day."""
        relieve(load_settings())


def _typed(spec: FeedSpec) -> dict[str, Any]:
    return {**spec.options, "first_day": dt.date.fromisoformat(spec.options["first_day"])}


def _save(settings: Settings, spec: FeedSpec) -> None:
    content = {"kind": spec.kind, "options": spec.options, "extra": list(spec.extra)}
    _put(settings.home / "feed.json", json.dumps(content, indent=1) + "\n")


def _put(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)
