"""Batch manifests: the hash chain that says which files hold which stretch of the log, and which day each belongs to.

`cdc/manifests/<seq>.json` is written last and conditionally: a batch exists when its manifest does. Each names the
sha256 of the one before it, so that a removed, changed or reordered batch is found by reading forward, and its own,
which stands for the newest as long as none follows. Old ones are sealed into segments (`segments.py`), byte by byte
the same.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import gc
import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Any, overload

from resources.lake import Lake
from stripe_platform.cdc import segments
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text
from stripe_platform.cdc.segments import ChainError, Segment, path_of

EPOCHS = "cdc/epochs"
STREAMED = "debezium:"  # how the slots of lakes begin that another stream feeds
POSITION = "cdc/position.json"
CANARY_PREFIX = "stripe_platform.canary"
_SEGMENTS = 16  # decoded segments that a process keeps: runs load the chain once for each table


@dataclass(frozen=True)
class BatchFile:
    """One Parquet file of a batch. `ops`: changes by operation c, u, d, t. `columns`: Arrow type by name.

    `schema_id`: the table's version in the catalogue; None in batches of releases that had none.
    """

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str
    ops: dict[str, int]
    columns: dict[str, str]
    schema_id: str | None = None


@dataclass(frozen=True)
class Manifest:
    """One durable batch: whole transactions whose commits end in (from_lsn, to_lsn].

    `closes`: ledger day whose boundary row this batch ends with. `changes` counts every published change,
    `boundaries` of them rows of the calendar, which are no table's content. `canaries`: numbers that arrived since
    the batch before, as (first, last). `stream`: where to read on and what was refused, where the changes came as
    Debezium's events; None where they came from the server. `content_hash`: sha256 of the JSON without itself; None in
    manifests of releases that had none.
    """

    seq: int
    previous: str | None
    source: str
    slot: str
    system_identifier: str
    timeline: int
    incarnation: int
    epoch: str
    from_lsn: int
    to_lsn: int
    transactions: int
    changes: int
    boundaries: int
    first_commit: str | None
    last_commit: str | None
    closes: dt.date | None
    files: Sequence[BatchFile] = ()
    unrepresentable: dict[str, int] = field(default_factory=dict)
    canaries: tuple[tuple[int, int], ...] = ()
    stream: dict[str, Any] | None = None
    content_hash: str | None = None

    @property
    def path(self) -> str:
        return path_of(self.seq)

    @property
    def rows(self) -> int:
        """Rows of its files, which `refuse_other_counts` compares."""
        return self.changes - self.boundaries

    def files_of(self, table: str) -> list[BatchFile]:
        """The table's files as they were begun: `t.parquet`, `t.2.parquet`, ... `t.10.parquet`."""
        if isinstance(self.files, _PackedFiles) and not self.files.may_have(table):
            return []
        return sorted((f for f in self.files if f.table == table), key=lambda f: (len(f.path), f.path))

    def encode(self) -> bytes:
        """Canonical JSON; its sha256 is the batch's digest, so that fields younger than a batch are left out of it."""
        content = dataclasses.asdict(self)
        content["files"] = [{k: v for k, v in dataclasses.asdict(f).items() if (k, v) != ("schema_id", None)}
                            for f in self.files]
        content |= {"from_lsn": lsn_text(self.from_lsn), "to_lsn": lsn_text(self.to_lsn),
                    "closes": self.closes and self.closes.isoformat()}
        if not self.canaries:
            del content["canaries"]
        for name in ("stream", "content_hash"):
            if content[name] is None:
                del content[name]
        return canonical(content)

    def hashed(self) -> Manifest:
        """This manifest as it is to be written: with its own hash."""
        bare = dataclasses.replace(self, content_hash=None)
        return dataclasses.replace(bare, content_hash=bare.digest)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()


@dataclass(frozen=True)
class Epoch:
    """One life of a slot: `ordinal` counts them; LSNs compare only within one."""

    ordinal: int
    slot: str
    system_identifier: str
    timeline: int
    consistent_lsn: int

    @property
    def streamed(self) -> bool:
        """Whether it is the life of a stream in a slot's place: nothing at the source's slot continues it."""
        return self.slot.startswith(STREAMED)

    @property
    def name(self) -> str:
        """Text that orders as the epochs do: `000001-00000001`."""
        return f"{self.ordinal:06d}-{self.timeline:08X}"


def canonical(content: object) -> bytes:
    """JSON with sorted keys, one trailing newline: equal content is equal bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def decode(data: bytes, path: str) -> Manifest:
    """Manifest of its JSON; `ChainError` when it cannot be read, or is not what was written."""
    try:
        content: dict[str, Any] = json.loads(data)
        made = _made(content, tuple(BatchFile(**f) for f in content["files"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ChainError(f"{path} cannot be read as a batch manifest: restore it from a backup") from error
    if made.content_hash is not None:
        line = b'\n "content_hash": "%b",' % str(made.content_hash).encode("utf-8", "replace")
        if hashlib.sha256(data.replace(line, b"", 1)).hexdigest() != made.content_hash:
            raise ChainError(f"{path} is not what was written, its own hash differs: restore it from a backup")
    return made


def _made(content: dict[str, Any], files: Sequence[BatchFile], *, quick: bool = False) -> Manifest:
    content = {"stream": None, "content_hash": None} | content | {
        "from_lsn": lsn_int(content["from_lsn"]), "to_lsn": lsn_int(content["to_lsn"]),
        "closes": dt.date.fromisoformat(content["closes"]) if content["closes"] else None, "files": files,
        "canaries": tuple((first, last) for first, last in content["canaries"]) if "canaries" in content else ()}
    if not quick or content.keys() != Manifest.__dataclass_fields__.keys():
        return Manifest(**content)
    made = object.__new__(Manifest)  # the frozen class's own way takes most of the time of a long chain
    made.__dict__.update(content)
    return made


class _PackedFiles(Sequence[BatchFile]):
    """The files of a sealed manifest, decoded when they are asked for: most of a long chain's are not.

    `packed`: their JSON without the columns, which thousands of batches share: `columns`, in the files' order.
    """

    __slots__ = ("_columns", "_packed")
    _BEGIN, _END, _NONE = b'\n   "columns": {\n', b"\n   }", b'\n   "columns": null'
    _known: dict[bytes, dict[str, str]] = {}  # noqa: RUF012 - one for the process: tables have few shapes

    def __init__(self, text: bytes) -> None:
        first, *others = text.split(self._BEGIN)
        parts, columns = [first], []
        for other in others:
            end = other.find(self._END)
            block = other[:end]
            found = self._known.get(block)
            if found is None:
                found = self._known[block] = json.loads(b"{%b}" % block)
            columns.append(found)
            parts.append(other[end + len(self._END):])
        self._packed, self._columns = self._NONE.join(parts), tuple(columns)

    def _files(self) -> tuple[BatchFile, ...]:
        columns = iter(self._columns)
        return tuple(BatchFile(**(f | {"columns": next(columns)} if f["columns"] is None else f))
                     for f in json.loads(self._packed))

    def may_have(self, table: str) -> bool:
        """False where no file is the table's; True does not say that one is."""
        return b'"table": ' + json.dumps(table).encode() in self._packed

    @overload
    def __getitem__(self, place: int) -> BatchFile: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[BatchFile, ...]: ...

    def __getitem__(self, place: int | slice) -> BatchFile | tuple[BatchFile, ...]:
        return self._files()[place]

    def __iter__(self) -> Iterator[BatchFile]:
        return iter(self._files())

    def __len__(self) -> int:
        return len(self._files())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._files() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._packed)


# Strings of JSON hold no line break: at this depth these bytes can only be the list's ends.
_FILES, _FILES_END = b'\n "files": [\n', b"\n ],"


def _decode_sealed(data: bytes, path: str) -> Manifest:
    """As `decode`, with files still packed; any other than the canonical form is decoded whole."""
    begin = data.find(_FILES)
    end = data.find(_FILES_END, begin)
    if begin < 0 or end < 0:
        return decode(data, path)
    begin, end = begin + len(_FILES) - 2, end + len(_FILES_END) - 1
    try:
        return _made(json.loads(b"%b[]%b" % (data[:begin], data[end:])), _PackedFiles(data[begin:end]), quick=True)
    except (ValueError, KeyError, TypeError) as error:
        raise ChainError(f"{path} cannot be read as a batch manifest: restore it from a backup") from error


def read(lake: Lake, seq: int) -> Manifest:
    """One manifest by number."""
    return decode(segments.read(lake, seq), path_of(seq))


def last(lake: Lake) -> Manifest | None:
    """The newest manifest, None in an empty lake."""
    return next((decode(data, path_of(seq)) for seq, data in segments.backwards(lake)), None)


def last_closed(lake: Lake) -> dt.date | None:
    """The newest ledger day that a batch closes, None before the first."""
    for seq, data in segments.backwards(lake):
        if b'\n "closes": null' not in data and (closes := decode(data, path_of(seq)).closes) is not None:
            return closes
    return None


@dataclass(frozen=True)
class Position:
    """How far the log was read beyond the newest batch, where it held nothing for one; `canaries` met on the way."""

    epoch: str
    lsn: int
    canaries: tuple[tuple[int, int], ...] = ()

    def save(self, lake: Lake) -> None:
        content: dict[str, Any] = {"epoch": self.epoch, "lsn": lsn_text(self.lsn)}
        lake.put(POSITION, canonical(content | ({"canaries": self.canaries} if self.canaries else {})))

    @classmethod
    def load(cls, lake: Lake) -> Position | None:
        """The recorded position, None before the first."""
        if lake.size(POSITION) is None:
            return None
        content = json.loads(lake.read(POSITION))
        return cls(content["epoch"], lsn_int(content["lsn"]), tuple((a, b) for a, b in content.get("canaries", ())))


def with_canary(ranges: tuple[tuple[int, int], ...], number: int) -> tuple[tuple[int, int], ...]:
    """Ranges with one more number: the last one grows, unless the number does not follow it."""
    if ranges and ranges[-1][1] + 1 == number:
        return (*ranges[:-1], (ranges[-1][0], number))
    return (*ranges, (number, number))


def load_epochs(lake: Lake) -> list[Epoch]:
    """All lives of the slot, oldest first."""
    epochs = [json.loads(lake.read(path)) for path in lake.list(EPOCHS)]
    return [Epoch(**(e | {"consistent_lsn": lsn_int(e["consistent_lsn"])})) for e in epochs]


def fed_by_a_stream(lake: Lake) -> bool:
    """Whether a Debezium stream fills the lake, in the place of the source's slot."""
    epochs = load_epochs(lake)
    return bool(epochs) and epochs[-1].streamed


def save_epoch(lake: Lake, epoch: Epoch) -> None:
    """Record a new life of the slot; refuses to overwrite one."""
    content = dataclasses.asdict(epoch) | {"consistent_lsn": lsn_text(epoch.consistent_lsn)}
    if not lake.put_if_absent(f"{EPOCHS}/{epoch.ordinal:06d}.json", canonical(content)):
        raise ChainError(f"epoch {epoch.ordinal} of slot {epoch.slot} is already recorded: another process made it")


class Chain:
    """All batches of a lake in order, verified to follow each other, with the ledger day of each."""

    def __init__(self, manifests: Iterable[Manifest] = ()) -> None:
        self.manifests: list[Manifest] = []
        self.closed: list[dt.date] = []  # closed ledger days, ascending
        self._ends: list[int] = []  # by closed day the number of its last batch
        for manifest in manifests:
            self._add(manifest)

    @classmethod
    def load(cls, lake: Lake) -> Chain:
        """Read and verify every manifest; `ChainError` names the first that does not follow."""
        log, epochs, chain = segments.load(lake), tuple(load_epochs(lake)), cls()
        names = {epoch.name: epoch for epoch in epochs}
        digest: str | None = None
        for segment in log.segments:
            sealed = _Decoded.of(segment, epochs)
            _follows(sealed.manifests[0], chain._newest, digest, names)
            for manifest in sealed.manifests:
                chain._add(manifest)
            digest = sealed.digest
        for data in log.singles:
            path = path_of(len(chain.manifests) + 1)
            manifest = decode(data, path)
            _follows(manifest, chain._newest, digest, names)
            refuse_other_counts(manifest)
            chain._add(manifest)
            digest = hashlib.sha256(data).hexdigest()
        return chain

    @property
    def _newest(self) -> Manifest | None:
        return self.manifests[-1] if self.manifests else None

    def _add(self, batch: Manifest) -> None:
        self.manifests.append(batch)
        if batch.closes is not None:
            self.closed.append(batch.closes)
            self._ends.append(len(self.manifests))

    def append(self, batch: Manifest) -> None:
        """One more batch at the end; `ChainError` when it does not follow."""
        before = self._newest
        if batch.seq != len(self.manifests) + 1 or batch.previous != (before.digest if before else None):
            raise ChainError(f"{batch.path} does not follow the batches known so far: load the chain again")
        self._add(batch)

    def day_of(self, seq: int) -> dt.date | None:
        """Ledger day of a batch, None while it is open."""
        place = bisect_left(self._ends, seq)
        return self.closed[place] if place < len(self._ends) else None

    @property
    def days(self) -> tuple[dt.date | None, ...]:
        """Ledger day by batch; None = the day that is still open."""
        found: list[dt.date | None] = []
        for day, (before, end) in zip(self.closed, pairwise([0, *self._ends]), strict=True):
            found += [day] * (end - before)
        return (*found, *[None] * (len(self.manifests) - len(found)))

    def open_day(self, first_day: dt.date) -> dt.date:
        """The ledger day that commits now belong to: the one after the last closed, `first_day` before any."""
        return self.closed[-1] + dt.timedelta(days=1) if self.closed else first_day

    def batches(self, day: dt.date, first_day: dt.date) -> list[Manifest]:
        """Batches of one ledger day; `ChainError` when the day has not begun."""
        newest = self.open_day(first_day)
        if day > newest:
            raise ChainError(f"ledger day {day} has not begun: the open day is {newest}; close days in order")
        if day == newest:
            return self.manifests[self._ends[-1] if self._ends else 0:]
        stretches = zip(self.closed, pairwise([0, *self._ends]), strict=True)
        return [m for closed, (before, end) in stretches if closed == day for m in self.manifests[before:end]]

    def days_of(self, table: str, first_day: dt.date) -> list[dt.date]:
        """Ledger days with changes of a table, in order, the open one last where it has some."""
        newest = self.open_day(first_day)
        return sorted({day or newest for manifest, day in zip(self.manifests, self.days, strict=True)
                       if manifest.files_of(table)})


@dataclass(frozen=True)
class _Decoded:
    """A segment's manifests, each verified to follow the one before it, and the digest of the last."""

    manifests: tuple[Manifest, ...]
    digest: str

    @classmethod
    def of(cls, segment: Segment, epochs: tuple[Epoch, ...]) -> _Decoded:
        key = (segment.first, segment.identity, epochs)
        with _decoding:
            found = _decoded.pop(key, None) or cls._verified(segment, epochs)
            _decoded[key] = found
            if len(_decoded) > _SEGMENTS:
                _decoded.pop(next(iter(_decoded)))
        return found

    @classmethod
    def _verified(cls, segment: Segment, epochs: tuple[Epoch, ...]) -> _Decoded:
        names, found = {epoch.name: epoch for epoch in epochs}, list[Manifest]()
        digest, collecting = "", gc.isenabled()
        gc.disable()  # nothing of what is made here is garbage: looking for some would take a third of the time
        try:
            for seq, data in enumerate(segment.manifests, start=segment.first):
                manifest = _decode_sealed(data, path_of(seq))
                if found:
                    _follows(manifest, found[-1], digest, names)
                found.append(manifest)
                digest = hashlib.sha256(data).hexdigest()
        finally:
            if collecting:
                gc.enable()
        return cls(tuple(found), digest)


_decoded: dict[tuple[int, str, tuple[Epoch, ...]], _Decoded] = {}  # the segments used last, oldest use first
_decoding = Lock()

_REMEDY = "restore the manifests from a backup, or re-snapshot from the source"


def _follows(manifest: Manifest, before: Manifest | None, digest: str | None, epochs: dict[str, Epoch]) -> None:
    path = path_of(before.seq + 1 if before else 1)
    epoch = epochs.get(manifest.epoch)
    if epoch is None or epoch.system_identifier != manifest.system_identifier:
        raise ChainError(f"{path} names epoch {manifest.epoch}, which is not recorded for its server: {_REMEDY}")
    if manifest.previous != digest:
        raise ChainError(f"{path} does not follow the batch before it (its hash differs): {_REMEDY}")
    start = before.to_lsn if before and before.epoch == manifest.epoch else epoch.consistent_lsn
    if manifest.from_lsn != start:
        raise ChainError(
            f"{path} begins at {lsn_text(manifest.from_lsn)}, the batch before it ends at {lsn_text(start)}: {_REMEDY}")
    if before and before.epoch > manifest.epoch:
        raise ChainError(f"{path} belongs to an older epoch than the batch before it: {_REMEDY}")


def refuse_other_counts(manifest: Manifest) -> None:
    """`ChainError` where a manifest counts other changes than its files and the calendar hold."""
    if sum(f.rows for f in manifest.files) + manifest.boundaries != manifest.changes:
        raise ChainError(f"{manifest.path} counts other changes than its files hold: {_REMEDY}")
