"""Where manifests lie: each in a file of its own while it is young, then many in one immutable segment.

`cdc/sealed/<first>.parquet` holds the exact bytes of a run of manifests, so that the hash chain runs through it. It
bears the number of its first alone: the conditional write then lets one sealer in, and segments cannot overlap. Single
files go when their segment is durable; until then both are there, and the segment counts. The newest manifest is
never sealed. All reading of manifests goes through here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import pyarrow as pa
import pyarrow.parquet as pq

from resources.lake import Lake, LakeError

SINGLES = "cdc/manifests"
FOLDER = "cdc/sealed"
LARGEST = 16_384  # manifests of a segment: some dozens of megabytes while it is made
_FIELD = "manifest"


class ChainError(RuntimeError):
    """Batches are missing, changed or out of order; the message names the first bad one and the remedy."""


class _ChangedMeanwhileError(Exception):
    """Files went while they were read; who sealed them has put them elsewhere."""


def path_of(seq: int) -> str:
    """Where the manifest of a batch lies before it is sealed; its name ever after."""
    return f"{SINGLES}/{seq:012d}.json"


def segment_path(first: int) -> str:
    return f"{FOLDER}/{first:012d}.parquet"


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Segment:
    """Manifests `first`, `first + 1`, ... as they were written. `identity`: hash of the file's bytes."""

    first: int
    identity: str
    manifests: tuple[bytes, ...]

    @property
    def last(self) -> int:
        return self.first + len(self.manifests) - 1

    @classmethod
    def load(cls, lake: Lake, first: int) -> Segment:
        """`ChainError` where the file is gone or torn."""
        path = segment_path(first)
        try:
            data = lake.read(path)
            rows = pq.read_table(pa.BufferReader(data))[_FIELD].to_pylist()
        except (LakeError, pa.ArrowException, OSError, KeyError) as error:
            raise ChainError(f"{path} cannot be read as a segment of manifests: restore it from a backup") from error
        return cls(first, digest_of(data), tuple(rows))


@dataclass(frozen=True)
class Listing:
    """Names in the lake: numbers of single manifests and first numbers of segments, ascending."""

    singles: tuple[int, ...]
    segments: tuple[int, ...]

    @classmethod
    def of(cls, lake: Lake) -> Listing:
        """Singles are listed first: what is sealed in between is in a segment that the second listing shows."""
        singles = _numbers(lake, SINGLES, ".json")
        return cls(singles, _numbers(lake, FOLDER, ".parquet"))


def _numbers(lake: Lake, folder: str, suffix: str) -> tuple[int, ...]:
    return tuple(sorted(int(path.rpartition("/")[2].removesuffix(suffix)) for path in lake.list(folder)))


@dataclass(frozen=True)
class Log:
    """All manifests' bytes in order, from number 1. `singles`: the tail that no segment holds."""

    segments: tuple[Segment, ...]
    singles: tuple[bytes, ...]


def load(lake: Lake) -> Log:
    """Every manifest; `ChainError` names the first that is missing.

    A sealer that works meanwhile takes files away that were listed: they are then looked for in its segment.
    """
    listing = Listing.of(lake)
    while True:
        try:
            return _load(lake, listing)
        except _ChangedMeanwhileError as gone:
            again = Listing.of(lake)
            if again.segments == listing.segments:
                raise ChainError(f"{gone} is missing: nothing after it may be applied; restore it from a backup"
                                 ) from None
            listing = again


def _load(lake: Lake, listing: Listing) -> Log:
    segments: list[Segment] = []
    for first in listing.segments:
        expected = segments[-1].last + 1 if segments else 1
        if first != expected:
            if first < expected:
                raise ChainError(f"{segment_path(first)} overlaps the segment before it: restore them from a backup")
            raise ChainError(f"{segment_path(expected)} is missing: nothing after it may be applied; restore it from a"
                             " backup")
        segments.append(Segment.load(lake, first))
    sealed = segments[-1].last if segments else 0
    singles = []
    for expected, seq in enumerate((s for s in listing.singles if s > sealed), start=sealed + 1):
        if seq != expected:
            raise _ChangedMeanwhileError(path_of(expected))
        if (data := _read(lake, seq)) is None:
            raise _ChangedMeanwhileError(path_of(seq))
        singles.append(data)
    return Log(tuple(segments), tuple(singles))


def newest(lake: Lake) -> int:
    """Number of the newest manifest, 0 in an empty lake."""
    listing = Listing.of(lake)
    if listing.singles:
        return listing.singles[-1]
    return Segment.load(lake, listing.segments[-1]).last if listing.segments else 0


def read(lake: Lake, seq: int) -> bytes:
    """One manifest, wherever it lies; `LakeError` where it lies nowhere."""
    try:
        return lake.read(path_of(seq))
    except LakeError:
        listing = Listing.of(lake)
        if listing.singles and seq > listing.singles[-1]:
            raise  # not written yet: the newest is never sealed
        firsts = [first for first in listing.segments if first <= seq]
        segment = Segment.load(lake, firsts[-1]) if firsts else None
        if segment is None or segment.last < seq:
            raise
        return segment.manifests[seq - segment.first]


def backwards(lake: Lake) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) from the newest manifest on, segments opened as they are reached."""
    listing = Listing.of(lake)
    at = None
    for seq in reversed(listing.singles):
        if at is not None and seq != at - 1:
            break
        yield seq, read(lake, seq)
        at = seq
    for first in reversed(listing.segments):
        segment = Segment.load(lake, first)
        for seq in range(segment.last, first - 1, -1):
            if at is None or seq < at:
                yield seq, segment.manifests[seq - first]


def left_over(lake: Lake) -> Iterator[tuple[int, bool]]:
    """Single files of sealed manifests: (number, whether it has the segment's bytes)."""
    listing = Listing.of(lake)
    for first, after in zip_longest(listing.segments, listing.segments[1:]):
        young = [seq for seq in listing.singles if first <= seq and (after is None or seq < after)]
        segment = Segment.load(lake, first) if young else None
        for seq in young:
            if segment is not None and seq <= segment.last and (data := _read(lake, seq)) is not None:
                yield seq, data == segment.manifests[seq - first]


def _read(lake: Lake, seq: int) -> bytes | None:
    """A single manifest, None where a sealer took it away."""
    try:
        return lake.read(path_of(seq))
    except LakeError:
        return None


def write(lake: Lake, first: int, manifests: list[bytes]) -> bool:
    """Commit a segment durably; False where one of this first number stands."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({_FIELD: pa.array(manifests, pa.binary())}), sink, compression="zstd",
                   compression_level=3, use_dictionary=False, write_statistics=False)
    return lake.put_if_absent(segment_path(first), sink.getvalue().to_pybytes())
