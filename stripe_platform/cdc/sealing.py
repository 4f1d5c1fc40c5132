"""Sealing: manifests that are many become one segment, so that a long log is read in a few files.

The holder of the writer lock seals, beside its landing: closed days from `FEW` manifests on, an open one from `MANY`
on, the newest manifest never. A kill leaves the single files, or the segment and some of them: the same chain.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from resources.lake import Lake, LakeError
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc import segments
from stripe_platform.cdc.manifest import Manifest
from stripe_platform.cdc.segments import ChainError, Listing, Segment, path_of

FAILURES = "cdc/sealing.json"
FEW = 256
MANY = 8192

log = logging.getLogger(__name__)


def seal(lake: Lake, through: int | None = None) -> int:
    """Join the manifests up to number `through` (all by default), except the newest; how many were sealed.

    Several may seal at once: one wins each segment. Raises `ChainError` where one does not follow another, and leaves
    the singles as they are.
    """
    sealed = 0
    while True:
        listing = Listing.of(lake)
        end, digest = _clear(lake, listing)
        last = min(through or listing.singles[-1], listing.singles[-1] - 1) if listing.singles else 0
        wanted = [seq for seq in listing.singles if end < seq <= last][:segments.LARGEST]
        if not wanted:
            return sealed
        try:
            read = [lake.read(path_of(seq)) for seq in wanted]
        except LakeError as error:
            if Listing.of(lake).segments == listing.segments:
                raise ChainError(str(error)) from error
            continue  # another sealer was faster
        _refuse_gaps(read, end + 1, digest)
        sealed += len(read) if segments.write(lake, end + 1, read) else 0


def _clear(lake: Lake, listing: Listing) -> tuple[int, str | None]:
    """Take away singles that a segment holds; (number, digest) of the last sealed manifest."""
    for seq, same in segments.left_over(lake):
        if not same:
            raise ChainError(f"{path_of(seq)} differs from what its segment holds of it: restore both from a backup")
        lake.delete(path_of(seq))
    segment = Segment.load(lake, listing.segments[-1]) if listing.segments else None
    return (segment.last, segments.digest_of(segment.manifests[-1])) if segment else (0, None)


def _refuse_gaps(read: list[bytes], first: int, digest: str | None) -> None:
    for seq, data in enumerate(read, start=first):
        manifest = manifests.decode(data, path_of(seq))
        if manifest.seq != seq or manifest.previous != digest:
            raise ChainError(f"{path_of(seq)} does not follow the batch before it: restore the manifests from a backup")
        manifests.refuse_other_counts(manifest)
        digest = segments.digest_of(data)


@dataclass(frozen=True)
class Failures:
    """Sealings that failed: `total` since the log began, `in_a_row` since one went well, the newest `at` (ISO)."""

    total: int = 0
    in_a_row: int = 0
    at: str | None = None

    @classmethod
    def load(cls, lake: Lake) -> Failures:
        """What was counted; a torn count begins again."""
        if lake.size(FAILURES) is None:
            return cls()
        try:
            return cls(**json.loads(lake.read(FAILURES)))
        except (ValueError, TypeError):
            return cls()

    def after(self, *, failed: bool) -> Failures:
        """The count behind one more sealing."""
        if not failed:
            return dataclasses.replace(self, in_a_row=0)
        return Failures(self.total + 1, self.in_a_row + 1, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))

    def save(self, lake: Lake) -> None:
        lake.put(FAILURES, manifests.canonical(dataclasses.asdict(self)), durable=False)


class Sealer:
    """Seals beside a capture, in a thread of its own: landing waits for nothing but the last of it.

    What cannot be sealed is named in the log, counted in the lake (`metrics.py` shows it) and tried again later;
    batches are durable without it.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake, self._pool = lake, ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._open = len(Listing.of(lake).singles)  # singles
        self._work: Future[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def landed(self, batch: Manifest) -> None:
        """A batch is durable: seal where there are enough."""
        self._open += 1
        enough = FEW if batch.closes is not None else MANY
        if self._open > enough and (self._work is None or self._work.done()):
            self._open = 1
            self._work = self._pool.submit(self._seal, batch.seq)

    def _seal(self, through: int) -> int:
        try:
            sealed = seal(self._lake, through)
        except Exception:  # a lake that does not answer, singles that do not follow: `cdc verify` names the latter
            log.exception("manifests could not be sealed; they are read one by one")
            self._count(failed=True)
            return 0
        self._count(failed=False)
        return sealed

    def _count(self, *, failed: bool) -> None:
        try:
            known = Failures.load(self._lake)
            if failed or known.in_a_row:
                known.after(failed=failed).save(self._lake)
        except Exception:  # the count is no batch: landing goes on
            log.exception("how sealing went could not be counted in %s", FAILURES)
