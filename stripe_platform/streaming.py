"""Following the log: what is committed is landed at once, then carried to raw and to the documents.

Landing never waits for the stores: the slot is acknowledged behind durable batches, and a store that is away is caught
up later, in order, from the lake. Each store keeps its own position behind its own fence.
"""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from resources.lake import Lake, open_lake
from stripe_platform import keys
from stripe_platform.cdc import manifest
from stripe_platform.cdc.canary import emit
from stripe_platform.cdc.capture import CaptureBusyError, CaptureReport, Following, capture
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.cdc.quarantined import in_documents
from stripe_platform.cdc.source import OLTP
from stripe_platform.reference.copies import copy
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import Settings

if TYPE_CHECKING:
    from stripe_platform.documents.stream import RawRows
    from stripe_platform.warehouse.stream import RawStream
    from stripe_platform.warehouse.stream_snowflake import SnowflakeStream

log = logging.getLogger(__name__)
EVERY = 0.2  # seconds a commit may wait for its batch
AT_ONCE = 200  # batches of one transaction while a store catches up
BACKOFF = (0.5, 1.0, 2.0, 5.0)  # seconds after the first, second, ... failure of a store
CANARY = 5.0  # seconds between canaries
WAKE = 0.5  # seconds after which an idle store looks whether it is over
SPREAD = 11  # instants at which a batch's commits are taken to have come
REMEMBERED = 10_000  # batches whose times are kept for the report


@dataclass
class Visible:
    """When a batch could be read in a store. `commits`: times of its first and last commit."""

    seq: int
    changes: int
    commits: tuple[dt.datetime, dt.datetime]
    at: dt.datetime

    def seconds(self) -> list[float]:
        """From commit to visible of its first commit, its last, and those evenly spread between them."""
        longest, shortest = ((self.at - commit).total_seconds() for commit in self.commits)
        return [longest + (shortest - longest) * n / (SPREAD - 1) for n in range(SPREAD)]


@dataclass
class StreamReport:
    """What following did: batches and changes landed, what each store took in, its failures, and how many keys it has
    put aside."""

    captured: CaptureReport | None = None
    carried: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    visible: dict[str, deque[Visible]] = field(default_factory=dict)
    begun: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def note(self, store: str, batches: list[Manifest]) -> None:
        now = dt.datetime.now(dt.UTC)
        seen = self.visible.setdefault(store, deque(maxlen=REMEMBERED))
        for batch in batches:
            self.carried[store] = self.carried.get(store, 0) + batch.changes
            if batch.first_commit and batch.last_commit:
                commits = (dt.datetime.fromisoformat(batch.first_commit), dt.datetime.fromisoformat(batch.last_commit))
                seen.append(Visible(batch.seq, batch.changes, commits, now))

    def lag(self, store: str, share: float) -> float | None:
        """Seconds from commit to visible that this share of changes stayed below.

        What was committed before it followed was late already and does not count.
        """
        found = sorted((seconds, batch.changes) for batch in self.visible.get(store, ())
                       if batch.commits[0] >= self.begun for seconds in batch.seconds())
        left = share * sum(changes for _seconds, changes in found)
        for seconds, changes in found:
            left -= changes
            if left <= 0:
                return round(seconds, 3)
        return None

    def as_json(self) -> dict[str, Any]:
        landed = self.captured or CaptureReport()
        return {
            "batches": len(landed.batches), "changes": landed.total, "seconds": round(landed.seconds, 3),
            "carried": self.carried, "failures": self.failures, "quarantined": self.quarantined,
            "lag_seconds": {store: {"p50": self.lag(store, 0.5), "p99": self.lag(store, 0.99)}
                            for store in self.visible}}


def follow(settings: Settings, *, stop: threading.Event, every: float = EVERY,
           lake: Lake | None = None) -> StreamReport:
    """Follow both sources until `stop` is set; then what was landed is carried to its end.

    A store that fails is tried again, ever more slowly, and named in the log; landing goes on. Raises what the capture
    raises (`CaptureBusyError` when another one follows already, `CaptureError`).
    """
    root, report = lake or open_lake(settings), StreamReport()
    landed, in_raw = _Passed(), _Passed()
    stores = [threading.Thread(target=_carry, args=(partial(_Raw, settings, root, report, in_raw), landed, report)),
              threading.Thread(target=_carry, args=(partial(_Documents, settings, root, report), in_raw, report))]
    copied = _Passed()
    served = threading.Thread(target=_carry, args=(partial(_Served, settings, root, report), copied, report))
    copies = threading.Thread(target=_copy_reference, args=(settings, root, stop, report, every, copied.put))
    canaries = threading.Thread(target=_sing, args=(settings, root, stop, report))
    for thread in (*stores, served, copies, canaries):
        thread.start()
    try:
        report.captured = capture(settings, lake=root, wait_seconds=5.0,
                                  following=Following(stop, landed.put, every))
    finally:
        stop.set()
        copies.join()
        canaries.join()
        for passed, store in zip((copied, landed, in_raw), (served, *stores), strict=True):
            passed.ended.set()
            store.join()
    return report


class _Passed:
    """Batches handed on from one stage to the next; `ended`: none will come."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Manifest] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.put = self._queue.put

    def waiting(self, seconds: float) -> list[Manifest]:
        """Batches that are there, or the first to come within some seconds."""
        found: list[Manifest] = []
        with suppress(queue.Empty):
            found.append(self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait())
            while True:
                found.append(self._queue.get_nowait())
        return found


def _carry(store: Callable[[ExitStack], _Store], passed: _Passed, report: StreamReport) -> None:
    """A store's thread: whatever fails is begun again from the position that the store keeps."""
    failed = 0
    while True:
        name = "store"
        try:
            with ExitStack() as opened:
                opened_store = store(opened)
                name = opened_store.name
                opened_store.run(passed)
            return
        except Exception:  # a store is away or refuses: landing must go on, and its log says what it was
            report.failures[name] = report.failures.get(name, 0) + 1
            log.exception("%s could not take batches in; it is caught up from the lake", name)
            if passed.ended.wait(BACKOFF[min(failed, len(BACKOFF) - 1)]) and failed >= len(BACKOFF):
                return  # the next start catches up
            failed += 1


class _Store(ABC):
    """A store brought up to the chain as batches are passed to it. `at`: the last batch it holds whole.

    `at_once`: batches of one transaction while it catches up. `pause`: seconds it lets batches gather.
    """

    name, at_once, pause = "store", AT_ONCE, 0.0

    def __init__(self, lake: Lake, report: StreamReport) -> None:
        self.lake, self.report, self.chain = lake, report, Chain.load(lake)
        self.at = self.through = 0

    def run(self, passed: _Passed) -> None:
        """Take in what may be taken at the start, then what is passed, until no more is."""
        self._catch_up()
        over = False
        while not over:
            over = passed.ended.is_set()
            for batch in passed.waiting(0.0 if over else WAKE):
                if batch.seq == len(self.chain.manifests) + 1:
                    self.chain.append(batch)
                elif batch.seq > len(self.chain.manifests):  # others landed some before it
                    self.chain = Chain.load(self.lake)
                self.through = max(self.through, batch.seq)
            self._catch_up()
            if self.pause and not over:
                passed.ended.wait(self.pause)

    def _catch_up(self) -> None:
        if self.at == self.through and self.name in self.report.quarantined:
            return
        while self.at < self.through:
            some = list(self.chain.manifests[self.at:min(self.through, self.at + self.at_once)])
            self.take(some)
            self.at = some[-1].seq
            self.report.note(self.name, some)
        self.report.quarantined[self.name] = self.put_aside()

    @abstractmethod
    def put_aside(self) -> int:
        """Keys that the store has put aside."""

    @abstractmethod
    def take(self, batches: list[Manifest]) -> None:
        """Bring batches in, in order, behind the store's own fence."""


class _Raw(_Store):
    name = "raw"

    def __init__(self, settings: Settings, lake: Lake, report: StreamReport, passed_on: _Passed,
                 opened: ExitStack) -> None:
        super().__init__(lake, report)
        self._passed_on = passed_on
        if settings.warehouse == "snowflake":
            self.at_once, self.pause = 10 * AT_ONCE, settings.snowflake_follow_seconds
        self._raw, self.at = _raw_stream(settings, lake, self.chain, opened)
        self.through = len(self.chain.manifests)
        if self.at:
            passed_on.put(self.chain.manifests[self.at - 1])

    def take(self, batches: list[Manifest]) -> None:
        self._raw.take(self.chain, batches)
        for batch in batches:
            self._passed_on.put(batch)

    def put_aside(self) -> int:
        return self._raw.put_aside()


def _raw_stream(settings: Settings, lake: Lake, chain: Chain,
                opened: ExitStack) -> tuple[RawStream | SnowflakeStream, int]:
    """The warehouse's stream, and the last batch that it holds whole."""
    from resources.warehouse import connect_postgres, snowflake
    from stripe_platform.warehouse import stream, stream_snowflake

    if settings.warehouse == "snowflake":
        there = opened.enter_context(snowflake(settings).get_connection())
        return (stream_snowflake.SnowflakeStream(there, lake, OLTP.name, settings.first_day),
                stream_snowflake.position(there, chain, OLTP.name, settings.first_day))
    here = opened.enter_context(connect_postgres(settings.need("warehouse_dsn")))
    here.autocommit = True
    return (stream.RawStream(here, lake, OLTP.name, settings.first_day),
            stream.position(here, chain, OLTP.name, settings.first_day))


class _Documents(_Store):
    """What raw holds, which has the tokens and places that documents name."""

    name = "documents"

    def __init__(self, settings: Settings, lake: Lake, report: StreamReport, opened: ExitStack) -> None:
        from resources.mongo import MongoResource
        from stripe_platform.documents import change_log, transactions
        from stripe_platform.documents.setup import ensure_collections

        super().__init__(lake, report)
        self._held, streamed = _held_in_raw(settings, opened)
        self._db = opened.enter_context(MongoResource().database())
        ensure_collections(self._db)
        self._duck = opened.enter_context(change_log.in_memory())
        self.at = transactions.position(self._db, lake, self.chain)
        # How far raw is, it says by passing batches on; what it passed before a failure stands in its position.
        self.through = max(self.at, min(streamed, len(self.chain.manifests)))

    def take(self, batches: list[Manifest]) -> None:
        from stripe_platform.documents import stream

        stream.take(self._db, self._held, self._duck, self.lake, self.chain, batches)

    def put_aside(self) -> int:
        from stripe_platform.documents import transactions

        return in_documents(self._db, transactions.NAME)


def _held_in_raw(settings: Settings, opened: ExitStack) -> tuple[RawRows, int]:
    """Raw's rows for look-ups, and the last batch streamed into it."""
    from resources.warehouse import connect_postgres, snowflake
    from stripe_platform.warehouse import raw_rows, stream, stream_snowflake

    if settings.warehouse == "snowflake":
        there = opened.enter_context(snowflake(settings).get_connection())
        return stream_snowflake.SnowflakeRows(there), stream_snowflake.streamed(there, OLTP.name).seq
    here = opened.enter_context(connect_postgres(settings.need("warehouse_dsn")))
    here.autocommit = True
    return raw_rows.PostgresRows(here), stream.streamed(here, OLTP.name).seq


class _Served(_Store):
    """The reference's rows in the document store, from the reference's own log."""

    name = "reference_documents"

    def __init__(self, settings: Settings, lake: Lake, report: StreamReport, opened: ExitStack) -> None:
        from resources.mongo import MongoResource
        from stripe_platform.documents.control import streamed
        from stripe_platform.documents.setup import ensure_collections

        super().__init__(REFERENCE.lake(settings, lake), report)
        self._db = opened.enter_context(MongoResource().database())
        ensure_collections(self._db)
        self.at, self.through = streamed(self._db, REFERENCE.name)[0], len(self.chain.manifests)

    def take(self, batches: list[Manifest]) -> None:
        from stripe_platform.documents import reference_rows

        reference_rows.take(self._db, self.lake, batches)

    def put_aside(self) -> int:
        return in_documents(self._db, *keys.SERVED)


def _sing(settings: Settings, lake: Lake, stop: threading.Event, report: StreamReport) -> None:
    """A canary every few seconds: a hole in the log shows by its number, and an idle slot moves on."""
    while not stop.wait(CANARY):
        try:
            emit(settings, OLTP, lake)
        except Exception:  # the source is away, which the capture will tell
            report.failures["canary"] = report.failures.get("canary", 0) + 1
            log.exception("no canary could be written; the next one is due in %s s", CANARY)


def _copy_reference(settings: Settings, lake: Lake, stop: threading.Event, report: StreamReport, every: float,
                    passed_on: Callable[[Manifest], None]) -> None:
    """The reference's thread: its changes reach their copies, whose changes the payments database logs in turn, and are
    passed on to the documents."""
    own, failed = REFERENCE.lake(settings, lake), 0

    def landed(batch: Manifest) -> None:
        passed_on(batch)
        copied = copy(settings, own)
        report.carried["copies"] = report.carried.get("copies", 0) + sum(copied.rows.values())

    while not stop.is_set():
        try:
            copy(settings, own)
            if newest := manifest.last(own):  # of whoever captured the reference meanwhile
                passed_on(newest)
            capture(settings, lake=own, source=REFERENCE, wait_seconds=1.0,
                    following=Following(stop, landed, every / 2))
            failed = 0
        except CaptureBusyError:
            stop.wait(every)  # a sync of somebody else, which copies what it captures
        except Exception:
            report.failures["reference"] = report.failures.get("reference", 0) + 1
            log.exception("the reference could not be copied; it is tried again")
            stop.wait(BACKOFF[min(failed, len(BACKOFF) - 1)])
            failed += 1

