"""Debezium's events in files: a JSON object a line, packed or not, with topic, key and value, or the value alone.

A file is known by its content: delivered again under another name it is the same file, read as far as it was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from stripe_platform.cdc.debezium import Record
from stripe_platform.cdc.replay import Event
from stripe_platform.cdc.transactions import Refused

AT_ONCE, AT_ONCE_BYTES = 5_000, 8 << 20  # handed over in one go: records, and about so much of them


class Files:
    """Records of files in the order given; `positions`: lines read before, by place."""

    def __init__(self, paths: Iterable[Path], positions: dict[str, int]) -> None:
        self._records = self._read([(path, _place(path)) for path in paths], positions)
        self._ended = False

    def poll(self, seconds: float) -> list[Record | Refused]:  # noqa: ARG002 - files are there or not
        found: list[Record | Refused] = []
        size = 0
        for length, record in islice(self._records, AT_ONCE):
            found.append(record)
            size += length
            if size > AT_ONCE_BYTES:
                break
        self._ended = not found
        return found

    def exhausted(self) -> bool:
        return self._ended

    def commit(self, positions: dict[str, int]) -> None:
        """The manifest keeps them; a file needs to know nothing."""

    @staticmethod
    def _read(files: list[tuple[Path, str]], positions: dict[str, int]) -> Iterator[tuple[int, Record | Refused]]:
        done: set[str] = set()
        for path, place in files:
            if place in done:
                continue
            done.add(place)
            with _open(path) as lines:
                for number, line in enumerate(lines):
                    if number >= positions.get(place, 0) and line.strip():
                        yield len(line), _record(place, number, line)


def write(path: Path, events: Iterable[Event]) -> int:
    """Write events to a file, packed where its name ends in .gz; how many. The file appears whole or not at all."""
    draft, count = path.with_name(f".{path.name}.draft"), 0
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(draft, "wt", encoding="utf-8") as file:
        for event in events:
            line = {"topic": event.topic, "key": event.key, "value": event.value}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    draft.replace(path)
    return count


def _record(place: str, number: int, line: bytes) -> Record | Refused:
    try:
        content = json.loads(line)
    except ValueError:
        return Refused(Record(place, number, "", None, None), "the line is no JSON: write one event a line, in UTF-8")
    if isinstance(content, dict) and content.keys() >= {"topic", "value"}:
        return Record(place, number, str(content["topic"]), content.get("key"), content["value"])
    return Record(place, number, "", None, content)


def _place(path: Path) -> str:
    with path.open("rb") as file:
        return f"file:{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
