"""Finds the CSV records whose quotes do not close, so that each costs itself only and not the lines after it.

Arrow reads an unclosed quote to the next quote anywhere, or to the end of the file, as one field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Stands in the place of a line whose quote is not closed: one field, so the reader names it as an invalid row.
UNCLOSED = b"a quote in this line is not closed"

_QUOTED = rb'"(?:[^"]++|"")*+"'
_BARE = rb'[^",\r\n][^,\r\n]*+'  # a quote inside a bare field is an ordinary character
_CLOSED = rb'"(?:[^"\r\n]++|"")*+"[^,\r\n]*+'  # what follows its closing quote belongs to a field, as Arrow has it
_WHOLE_LINE = re.compile(rb"(?:%s|%s|)(?:,(?:%s|%s|))*+(?=[\r\n]|\Z)" % (_CLOSED, _BARE, _CLOSED, _BARE))
_FIELD = re.compile(rb"%s(?=[,\r\n]|\Z)|%s|%s|(?=[,\r\n]|\Z)" % (_QUOTED, _CLOSED, _BARE))
_HEADER = re.compile(rb"(?:%s|[^\r\n])*+" % _QUOTED)
_LINE = re.compile(rb"[^\r\n]*+")
_START = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*+")


def header_of(content: bytes) -> bytes:
    """The first record of `content`, with its byte order mark."""
    start = _match(_START, content, 0)
    return content[: _match(_HEADER, content, start)]


def mend(content: bytes, names: Sequence[str], needed: Sequence[str]) -> tuple[bytes, bool]:
    """`content` with `UNCLOSED` for each line with an unclosed quote, and whether quoted line breaks remain.

    A quoted line break is taken as such where the quote closes at its field's end, in a column that is not `needed`
    (none of them can hold one), in a record with a field for every column. Else its first line is lost.
    """
    if b'"' not in content:
        return content, False
    prose = frozenset(i for i, name in enumerate(names) if name not in needed)
    parts: list[bytes] = []
    multiline, kept, at = False, 0, _match(_HEADER, content, _match(_START, content, 0))
    while (quote := content.find(b'"', at)) >= 0:
        start = max(content.rfind(b"\n", at, quote), content.rfind(b"\r", at, quote)) + 1 or at
        whole = _WHOLE_LINE.match(content, start)
        if whole is not None:
            at = whole.end()
            continue
        at, closed = _record(content, start, len(names), prose)
        if closed:
            multiline = True
        else:
            parts += [content[kept:start], UNCLOSED]
            kept = at
    return b"".join([*parts, content[kept:]]), multiline


def _record(content: bytes, start: int, width: int, prose: frozenset[int]) -> tuple[int, bool]:
    """End of the record that begins at `start` and spans lines, and whether it is sound; else the end to cut at."""
    at, column = start, 0
    while (field := _FIELD.match(content, at)) is not None:
        if column not in prose and re.search(rb"[\r\n]", field.group()):
            break
        at, column = field.end(), column + 1
        if content[at : at + 1] != b",":
            return (at, True) if column == width else (_match(_LINE, content, start), False)
        at += 1
    return _match(_LINE, content, at), False  # the line in which the quote was opened


def _match(pattern: re.Pattern[bytes], content: bytes, at: int) -> int:
    found = pattern.match(content, at)
    return found.end() if found else at
