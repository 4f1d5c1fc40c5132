"""Batch manifests: the hash chain that says which files hold which stretch of the log, and which day each belongs to.

`cdc/manifests/<seq>.json` is written last and conditionally: a batch exists when its manifest does. Each names the
sha256 of the one before it, so that a removed, changed or reordered batch is found by reading forward.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from resources.lake import Lake
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text

FOLDER = "cdc/manifests"
EPOCHS = "cdc/epochs"
POSITION = "cdc/position.json"
CANARY_PREFIX = "stripe_platform.canary"


class ChainError(RuntimeError):
    """Batches are missing, changed or out of order; the message names the first bad one and the remedy."""


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
    Debezium's events; None where they came from the server.
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
    files: tuple[BatchFile, ...] = ()
    unrepresentable: dict[str, int] = field(default_factory=dict)
    canaries: tuple[tuple[int, int], ...] = ()
    stream: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        return path_of(self.seq)

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)

    def files_of(self, table: str) -> list[BatchFile]:
        """The table's files as they were begun: `t.parquet`, `t.2.parquet`, ... `t.10.parquet`."""
        return sorted((f for f in self.files if f.table == table), key=lambda f: (len(f.path), f.path))

    def encode(self) -> bytes:
        """Canonical JSON; its sha256 is the batch's digest, so that fields younger than a batch are left out of it."""
        content = dataclasses.asdict(self)
        content["files"] = [{k: v for k, v in f.items() if (k, v) != ("schema_id", None)} for f in content["files"]]
        content |= {"from_lsn": lsn_text(self.from_lsn), "to_lsn": lsn_text(self.to_lsn),
                    "closes": self.closes and self.closes.isoformat()}
        if not self.canaries:
            del content["canaries"]
        if self.stream is None:
            del content["stream"]
        return canonical(content)

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
    def name(self) -> str:
        """Text that orders as the epochs do: `000001-00000001`."""
        return f"{self.ordinal:06d}-{self.timeline:08X}"


def canonical(content: object) -> bytes:
    """JSON with sorted keys, one trailing newline: equal content is equal bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def decode(data: bytes, path: str) -> Manifest:
    """Manifest of its JSON; `ChainError` when it cannot be read."""
    try:
        content: dict[str, Any] = json.loads(data)
        content |= {
            "from_lsn": lsn_int(content["from_lsn"]), "to_lsn": lsn_int(content["to_lsn"]),
            "closes": dt.date.fromisoformat(content["closes"]) if content["closes"] else None,
            "files": tuple(BatchFile(**f) for f in content["files"]),
            "canaries": tuple((first, last) for first, last in content.get("canaries", ())),
        }
        return Manifest(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise ChainError(f"{path} cannot be read as a batch manifest: restore it from a backup") from error


def batch_numbers(lake: Lake) -> list[int]:
    """Numbers of the manifests in the lake, ascending."""
    return sorted(int(path.rpartition("/")[2].removesuffix(".json")) for path in lake.list(FOLDER))


def path_of(seq: int) -> str:
    """Where the manifest of a batch lies."""
    return f"{FOLDER}/{seq:012d}.json"


def read(lake: Lake, seq: int) -> Manifest:
    """One manifest by number."""
    return decode(lake.read(path_of(seq)), path_of(seq))


def last(lake: Lake) -> Manifest | None:
    """The newest manifest, None in an empty lake."""
    numbers = batch_numbers(lake)
    return read(lake, numbers[-1]) if numbers else None


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


def save_epoch(lake: Lake, epoch: Epoch) -> None:
    """Record a new life of the slot; refuses to overwrite one."""
    content = dataclasses.asdict(epoch) | {"consistent_lsn": lsn_text(epoch.consistent_lsn)}
    if not lake.put_if_absent(f"{EPOCHS}/{epoch.ordinal:06d}.json", canonical(content)):
        raise ChainError(f"epoch {epoch.ordinal} of slot {epoch.slot} is already recorded: another process made it")


@dataclass(frozen=True)
class Chain:
    """All batches of a lake in order, verified to follow each other, with the ledger day of each."""

    manifests: tuple[Manifest, ...]
    days: tuple[dt.date | None, ...]  # ledger day by batch; None = the day that is still open

    @classmethod
    def load(cls, lake: Lake) -> Chain:
        """Read and verify every manifest; `ChainError` names the first that does not follow."""
        numbers = batch_numbers(lake)
        epochs = load_epochs(lake)
        manifests: list[Manifest] = []
        digest: str | None = None
        for expected, seq in enumerate(numbers, start=1):
            path = f"{FOLDER}/{expected:012d}.json"
            if seq != expected:
                raise ChainError(f"{path} is missing: nothing after it may be applied; restore it from a backup")
            data = lake.read(path)
            manifest = decode(data, path)
            _follows(manifest, manifests[-1] if manifests else None, digest, epochs, path)
            manifests.append(manifest)
            digest = hashlib.sha256(data).hexdigest()
        return cls(tuple(manifests), _days_of(manifests))

    def followed_by(self, batch: Manifest) -> Chain:
        """The chain with one more batch at its end; `ChainError` when it does not follow."""
        before = self.manifests[-1] if self.manifests else None
        if batch.seq != len(self.manifests) + 1 or batch.previous != (before.digest if before else None):
            raise ChainError(f"{batch.path} does not follow the batches known so far: load the chain again")
        days = (*self.days, None)
        return Chain((*self.manifests, batch), tuple(day or batch.closes for day in days) if batch.closes else days)

    @cached_property
    def closed(self) -> list[dt.date]:
        """Closed ledger days, ascending."""
        return [m.closes for m in self.manifests if m.closes is not None]

    @cached_property
    def _by_day(self) -> dict[dt.date | None, list[Manifest]]:
        found: dict[dt.date | None, list[Manifest]] = {}
        for manifest, day in zip(self.manifests, self.days, strict=True):
            found.setdefault(day, []).append(manifest)
        return found

    def open_day(self, first_day: dt.date) -> dt.date:
        """The ledger day that commits now belong to: the one after the last closed, `first_day` before any."""
        closed = self.closed
        return closed[-1] + dt.timedelta(days=1) if closed else first_day

    def batches(self, day: dt.date, first_day: dt.date) -> list[Manifest]:
        """Batches of one ledger day; `ChainError` when the day has not begun."""
        newest = self.open_day(first_day)
        if day > newest:
            raise ChainError(f"ledger day {day} has not begun: the open day is {newest}; close days in order")
        return self._by_day.get(None if day == newest else day, [])

    def days_of(self, table: str, first_day: dt.date) -> list[dt.date]:
        """Ledger days with changes of a table, in order, the open one last where it has some."""
        newest = self.open_day(first_day)
        return sorted({day or newest for manifest, day in zip(self.manifests, self.days, strict=True)
                       if manifest.files_of(table)})


def _days_of(manifests: Sequence[Manifest]) -> tuple[dt.date | None, ...]:
    days: list[dt.date | None] = []
    day: dt.date | None = None
    for manifest in reversed(manifests):
        day = manifest.closes or day
        days.append(day)
    return tuple(reversed(days))


def _follows(manifest: Manifest, before: Manifest | None, digest: str | None, epochs: list[Epoch], path: str) -> None:
    remedy = "restore the manifests from a backup, or re-snapshot from the source"
    epoch = next((e for e in epochs if e.name == manifest.epoch), None)
    if epoch is None or epoch.system_identifier != manifest.system_identifier:
        raise ChainError(f"{path} names epoch {manifest.epoch}, which is not recorded for its server: {remedy}")
    if manifest.previous != digest:
        raise ChainError(f"{path} does not follow the batch before it (its hash differs): {remedy}")
    start = before.to_lsn if before and before.epoch == manifest.epoch else epoch.consistent_lsn
    if manifest.from_lsn != start:
        raise ChainError(
            f"{path} begins at {lsn_text(manifest.from_lsn)}, the batch before it ends at {lsn_text(start)}: {remedy}")
    if before and before.epoch > manifest.epoch:
        raise ChainError(f"{path} belongs to an older epoch than the batch before it: {remedy}")
    if sum(f.rows for f in manifest.files) + manifest.boundaries != manifest.changes:
        raise ChainError(f"{path} counts other changes than its files hold: {remedy}")
