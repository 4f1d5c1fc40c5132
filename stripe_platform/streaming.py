"""Following the log: what is committed is landed at once, then carried to raw and to the documents.

Landing never waits for the stores: the slot is acknowledged behind durable batches, and a store that is away is caught
up later, in order, from the lake. Each store keeps its own position behind its own fence.
"""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resources.lake import Lake, open_lake
from stripe_platform.cdc.capture import CaptureBusyError, CaptureReport, Following, capture
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.cdc.source import OLTP
from stripe_platform.reference.copies import copy
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import Settings

if TYPE_CHECKING:
    from stripe_platform.warehouse.stream import RawStream

log = logging.getLogger(__name__)
EVERY = 0.2  # seconds a commit may wait for its batch
AT_ONCE = 200  # batches of one transaction while a store catches up
BACKOFF = (0.5, 1.0, 2.0, 5.0)  # seconds after the first, second, ... failure of a store
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
    """What following did: batches and changes landed, what each store took in, and its failures."""

    captured: CaptureReport | None = None
    carried: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
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
            "carried": self.carried, "failures": self.failures,
            "lag_seconds": {store: {"p50": self.lag(store, 0.5), "p99": self.lag(store, 0.99)}
                            for store in self.visible}}


def follow(settings: Settings, *, stop: threading.Event, every: float = EVERY,
           lake: Lake | None = None) -> StreamReport:
    """Follow both sources until `stop` is set; then what was landed is carried to its end.

    A store that fails is tried again, ever more slowly, and named in the log; landing goes on. Raises what the capture
    raises (`CaptureBusyError` when another one follows already, `CaptureError`).
    """
    root, report = lake or open_lake(settings), StreamReport()
    landed: queue.SimpleQueue[Manifest] = queue.SimpleQueue()
    ended = threading.Event()
    stores = threading.Thread(target=_carry, args=(settings, root, landed, ended, report), name="stores")
    copies = threading.Thread(target=_copy_reference, args=(settings, root, stop, report, every), name="reference")
    stores.start()
    copies.start()
    try:
        report.captured = capture(settings, lake=root, wait_seconds=5.0,
                                  following=Following(stop, landed.put, every))
    finally:
        stop.set()
        copies.join()
        ended.set()
        stores.join()
    return report


def _carry(settings: Settings, lake: Lake, landed: queue.SimpleQueue[Manifest], ended: threading.Event,
           report: StreamReport) -> None:
    """The stores' thread: whatever fails is begun again from the positions that the stores keep."""
    failed = 0
    while True:
        try:
            with ExitStack() as opened:
                _Stores(settings, lake, opened, report).run(landed, ended)
            return
        except Exception:  # a store is away or refuses: landing must go on, and its log says what it was
            report.failures["stores"] = report.failures.get("stores", 0) + 1
            log.exception("the stores could not take batches in; they are caught up from the lake")
            if ended.wait(BACKOFF[min(failed, len(BACKOFF) - 1)]) and failed >= len(BACKOFF):
                return  # the next start catches up
            failed += 1


def _waiting(landed: queue.SimpleQueue[Manifest], seconds: float) -> list[Manifest]:
    """Batches that are there, or the first to come within some seconds."""
    found: list[Manifest] = []
    with suppress(queue.Empty):
        found.append(landed.get(timeout=seconds) if seconds else landed.get_nowait())
        while True:
            found.append(landed.get_nowait())
    return found


class _Stores:
    """Raw and the documents, brought up to the chain as it grows."""

    def __init__(self, settings: Settings, lake: Lake, opened: ExitStack, report: StreamReport) -> None:
        from resources.mongo import MongoResource
        from resources.warehouse import connect_postgres
        from stripe_platform.documents import change_log
        from stripe_platform.documents.setup import ensure_collections
        from stripe_platform.warehouse.stream import RawStream

        self._lake, self._report = lake, report
        self._raw_connection = opened.enter_context(connect_postgres(settings.need("warehouse_dsn")))
        self._raw_connection.autocommit = True
        self._documents = opened.enter_context(MongoResource().database())
        ensure_collections(self._documents)
        self._duck = opened.enter_context(change_log.in_memory())
        self._raw: RawStream = RawStream(self._raw_connection, lake, OLTP.name, settings.first_day)
        self._chain = Chain.load(lake)
        self._raw_at = self._raw.position(self._chain)
        self._documents_at = _documents_position(self._documents, lake, self._chain)

    def run(self, landed: queue.SimpleQueue[Manifest], ended: threading.Event) -> None:
        """Take in what the lake holds already, then what is landed, until no more is."""
        self._catch_up()
        over = False
        while not over:
            over = ended.is_set()
            for batch in _waiting(landed, 0.0 if over else WAKE):
                if batch.seq > len(self._chain.manifests):
                    self._chain = self._chain.followed_by(batch)
            self._catch_up()

    def _catch_up(self) -> None:
        from stripe_platform.documents import stream as documents

        batches = self._chain.manifests
        while self._raw_at < len(batches):
            some = list(batches[self._raw_at:self._raw_at + AT_ONCE])
            self._raw.take(self._chain, some)
            self._raw_at = some[-1].seq
            self._report.note("raw", some)
            self._carry_documents(documents.take)
        self._carry_documents(documents.take)

    def _carry_documents(self, take: Callable[..., int]) -> None:
        while self._documents_at < self._raw_at:
            some = list(self._chain.manifests[self._documents_at:min(self._raw_at, self._documents_at + AT_ONCE)])
            take(self._documents, self._raw_connection, self._duck, self._lake, self._chain, some)
            self._documents_at = some[-1].seq
            self._report.note("documents", some)


def _documents_position(db: Any, lake: Lake, chain: Chain) -> int:
    """The last batch that the documents hold whole: streamed, or loaded by days without a gap."""
    from stripe_platform.documents import transactions
    from stripe_platform.documents.control import streamed

    done = streamed(db, transactions.NAME)[0]
    loaded = transactions.standing_days(db, lake, chain.closed)
    for manifest, day in zip(chain.manifests, chain.days, strict=True):
        if manifest.seq <= done:
            continue
        if day is None or day not in loaded:
            break
        done = manifest.seq
    return done


def _copy_reference(settings: Settings, lake: Lake, stop: threading.Event, report: StreamReport, every: float) -> None:
    """The reference's thread: its changes reach their copies, whose changes the payments database logs in turn."""
    own, failed = REFERENCE.lake(settings, lake), 0

    def landed(_batch: Manifest) -> None:
        copied = copy(settings, own)
        report.carried["copies"] = report.carried.get("copies", 0) + sum(copied.rows.values())

    while not stop.is_set():
        try:
            copy(settings, own)
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

