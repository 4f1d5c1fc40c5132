"""Bytes to records: JSON, JSONL, lists and fixture files, packed or not; a record that cannot be read keeps its bytes.

Whole input that is none of these is refused with one sentence; one bad line among good ones is a record like any other,
and goes into quarantine with its reason.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

_DEEPEST = 20_000  # nesting that is still read, to be kept apart record by record
_GZIP = b"\x1f\x8b"


class UnreadableError(RuntimeError):
    """Input that holds no records; the message names it and the remedy."""


class BadRecordError(ValueError):
    """One record that cannot be read; the message is a rule, never a value."""


@dataclass(frozen=True)
class Record:
    """One object as it was delivered, or the bytes of what could not be read, with the reason."""

    value: Any = None
    name: str | None = None  # what its container calls it
    raw: bytes | None = None
    reason: str | None = None


def read_file(path: Path) -> Iterator[Record]:
    """The records of one file."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    with stream:
        yield from read_stream(stream, path.name)


def read_stream(stream: BinaryIO, name: str) -> Iterator[Record]:
    """The records of a stream; `name` stands in messages."""
    source: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)  # type: ignore[type-var]
    try:
        packed = source.peek(2)[:2] == _GZIP
        yield from _records(gzip.GzipFile(fileobj=source) if packed else source, name)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UnreadableError(
            f"{name} is damaged gzip: copy the file anew; what stood before the damage is in") from None
    except OSError as error:
        raise UnreadableError(f"{name} cannot be read ({error.strerror}): check the path and its permissions") from None


def parse(raw: bytes) -> Any:
    """One JSON document, exact: decimals stay decimals, and what JSON does not allow is refused."""
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRecordError("is not in UTF-8") from None
    try:
        return _loads(content)
    except RecursionError:
        with _deep():
            return _loads(content)


def _loads(content: str) -> Any:
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise BadRecordError("is not valid JSON") from None
    except BadRecordError:
        raise
    except RecursionError:
        if sys.getrecursionlimit() < _DEEPEST:
            raise
        raise BadRecordError("is nested too deep to be read") from None
    except (ValueError, ArithmeticError):
        raise BadRecordError("holds a number too long to be read") from None


@contextmanager
def _deep() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(_DEEPEST)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _constant(_name: str) -> Any:
    raise BadRecordError("holds NaN or Infinity, which JSON does not know")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRecordError("names a field twice")
    return found


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object)


def _records(source: Any, name: str) -> Iterator[Record]:
    first = source.readline()
    while first and not first.strip():
        first = source.readline()
    if not first:
        raise UnreadableError(f"{name} is empty: give JSON or JSONL with at least one object")
    second = source.readline()
    if second.strip() and _complete(first):
        yield from _line(first)
        yield from _line(second)
        for line in source:
            yield from _line(line)
        return
    yield from _document(first + second + source.read(), name)


def _complete(line: bytes) -> bool:
    try:
        return isinstance(parse(line), dict | list)
    except BadRecordError:
        return False


def _line(line: bytes) -> Iterator[Record]:
    if not line.strip():
        return
    try:
        value = parse(line)
    except BadRecordError as error:
        yield Record(raw=line, reason=str(error))
        return
    yield from unpack(value)


def _document(content: bytes, name: str) -> Iterator[Record]:
    try:
        value = parse(content)
    except BadRecordError as error:
        joined = _joined(content)
        if joined is not None:
            for part in joined:
                yield from unpack(part)
            return
        lines = [line for line in content.split(b"\n") if line.strip()]
        if len(lines) < 2 or not any(map(_complete, lines)):
            raise UnreadableError(f"{name} {error}: give Stripe's events or objects as JSON or JSONL") from None
        for line in lines:
            yield from _line(line)
        return
    if not isinstance(value, dict | list):
        raise UnreadableError(f"{name} holds no object: give Stripe's events or objects as JSON or JSONL")
    yield from unpack(value)


def _joined(content: bytes) -> list[Any] | None:
    """Documents one behind the other, as programs print them; nothing when the content is not that."""
    try:
        text, found, at = content.decode("utf-8-sig"), [], 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            value, at = _DECODER.raw_decode(text, at)
            if not isinstance(value, dict | list):
                return None
            found.append(value)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return found if len(found) > 1 else None


def unpack(value: Any) -> Iterator[Record]:
    """The objects in one JSON value: a fixture file, a list in any of its shapes, or the object itself."""
    if isinstance(value, list):
        for item in value:
            yield from unpack(item) if isinstance(item, list) and item else (_record(item),)
        return
    if isinstance(value, dict):
        resources, data = value.get("resources"), value.get("data")
        if isinstance(resources, dict) and "object" not in value:
            for name, item in resources.items():
                yield _record(item, name)
            return
        envelope = _enveloped(value)
        if envelope is not None:
            yield _record(envelope)
            return
        if isinstance(data, list) and "id" not in value:
            yield from unpack(data)
            return
    yield _record(value)


def _enveloped(value: dict[str, Any]) -> dict[str, Any] | None:
    """The event inside the envelope of a cloud's event bus."""
    if "object" in value:
        return None
    for field, sign in (("detail", "detail-type"), ("data", "specversion")):
        inner = value.get(field)
        if sign in value and isinstance(inner, dict) and isinstance(inner.get("object"), str):
            return inner
    return None


def _record(value: Any, name: str | None = None) -> Record:
    if isinstance(value, dict):
        return Record(value, name)
    return Record(value, name, reason="is no JSON object")
