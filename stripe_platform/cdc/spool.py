"""Changes that wait for their transaction to be whole: in memory up to a bound, beyond it in a file without a name.

A change waits as the message that the decoder will be fed with, so that memory and file give the same bytes. What is
over the bound goes to the file as one run per transaction, in its order; handing a transaction on merges its runs. The
file has no name, so that nothing is left of it when the process dies, however it dies.
"""

from __future__ import annotations

import heapq
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from stripe_platform.cdc.catalogue import TableVersion
from stripe_platform.cdc.slot import CaptureError

SPILL_CHANGES = 50_000  # of all open transactions together
SPILL_BYTES = 64 << 20
_OVERHEAD = 250  # bytes that Python takes for a change beside its message
_READ = 128 << 10  # of each run at once
_HEAD = struct.Struct(">qIQ")  # order, number of the version, length of the message
_CHUNK = 10  # bits of an order's place within its mark

Told = tuple[TableVersion, bytes]
Waiting = tuple[int, int, bytes]  # order, number of the version, message


class Orders:
    """A set of orders, an eighth of a byte each where they are dense, as those of a transaction are."""

    __slots__ = ("_marks", "count")

    def __init__(self) -> None:
        self._marks: dict[int, int] = {}
        self.count = 0

    def add(self, order: int) -> bool:
        """False where it was there."""
        place, bit = order >> _CHUNK, 1 << (order & (1 << _CHUNK) - 1)
        before = self._marks.get(place, 0)
        if before & bit:
            return False
        self._marks[place] = before | bit
        self.count += 1
        return True


@dataclass(slots=True)
class Held:
    """One transaction's changes: those in memory, and where in the file the others are."""

    waiting: list[Waiting] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)


class Spool:
    """The changes of all open transactions. `folder`: where the file is made, on disk rather than in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._versions: list[TableVersion] = []
        self._numbers: dict[int, int] = {}  # by identity: the list keeps the objects alive
        self._full: dict[int, Held] = {}  # with changes in memory
        self._changes = self._bytes = self._spilled = 0

    def add(self, held: Held, order: int, version: TableVersion, message: bytes) -> None:
        """Keep one change of a transaction. Raises `CaptureError` where the disk has no room for it."""
        number = self._numbers.get(id(version))
        if number is None:
            number = self._numbers[id(version)] = len(self._versions)
            self._versions.append(version)
        held.waiting.append((order, number, message))
        self._full[id(held)] = held
        self._changes += 1
        self._bytes += len(message) + _OVERHEAD
        if self._changes > SPILL_CHANGES or self._bytes > SPILL_BYTES:
            self._spill()

    def take(self, held: Held) -> Iterator[Told]:
        """A transaction's changes in their order, which are then forgotten; others may not be added meanwhile."""
        waiting, runs = held.waiting, [self._read(*run) for run in held.runs]
        waiting.sort()
        for _order, number, message in heapq.merge(waiting, *runs) if runs else waiting:
            yield self._versions[number], message
        self.drop(held)

    def drop(self, held: Held) -> None:
        """Forget a transaction's changes."""
        if self._full.pop(id(held), None) is not None:
            self._changes -= len(held.waiting)
            self._bytes -= sum(len(message) + _OVERHEAD for _order, _number, message in held.waiting)
        self._spilled -= len(held.runs)
        held.waiting, held.runs = [], []
        if self._file is not None and not self._spilled:
            self._file.seek(0)
            self._file.truncate()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=1 << 20)  # noqa: SIM115 - see close
            for held in self._full.values():
                held.waiting.sort()
                begin = self._file.tell()
                for order, number, message in held.waiting:
                    self._file.write(_HEAD.pack(order, number, len(message)))
                    self._file.write(message)
                held.runs.append((begin, self._file.tell()))
                held.waiting = []
            self._file.flush()
        except OSError as error:
            raise CaptureError(f"the changes of open transactions cannot be kept in {self._folder}"
                               f" ({error.strerror}): make room there, then read again; nothing is lost") from None
        self._spilled += len(self._full)
        self._full, self._changes, self._bytes = {}, 0, 0

    def _read(self, begin: int, end: int) -> Iterator[Waiting]:
        assert self._file is not None  # noqa: S101 - a run was written to it
        data, at = b"", 0
        while True:
            if len(data) - at >= _HEAD.size:
                order, number, length = _HEAD.unpack_from(data, at)
                if len(data) - at >= _HEAD.size + length:
                    yield order, number, data[at + _HEAD.size:at + _HEAD.size + length]
                    at += _HEAD.size + length
                    continue
                wanted = _HEAD.size + length - (len(data) - at)
            elif begin == end and at == len(data):
                return
            else:
                wanted = _HEAD.size
            piece = os.pread(self._file.fileno(), min(max(wanted, _READ), end - begin), begin)
            if not piece:
                raise CaptureError(f"the file of open transactions in {self._folder} was cut: read again")
            data, at, begin = data[at:] + piece, 0, begin + len(piece)
