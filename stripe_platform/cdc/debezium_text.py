"""PostgreSQL's text as Debezium's JSON has it under the profile of `deploy/`: the way back from `debezium_values`."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from stripe_platform.cdc.debezium_values import BASES, DATES, INSTANTS, MODIFIER, SPECIAL
from stripe_platform.cdc.pgtypes import FIRST_USER_OID

_DAYS = {text: days for days, text in DATES.items()}
_COUNTS = {text: count for count, text in INSTANTS.items()}
_WORDS = {text: word for word, text in SPECIAL.items()}
_STAMP = re.compile(r"(\d+-\d\d-\d\d)(?: (\d\d:\d\d:\d\d(?:\.\d+)?))?(\+00|Z)?( BC)?")
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)')
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def to_json(text: str | None, kind: str, oid: int) -> Any:
    """One value; what has no form of its own stays text."""
    if text is None:
        return None
    if kind.endswith("[]"):
        return _list(text, kind[:-2], oid)
    base = "interval" if kind.startswith("interval") else MODIFIER.sub("", kind).strip('"')
    base = BASES.get(base, base).rpartition(".")[2] if oid >= FIRST_USER_OID else base
    rule = _RULES.get(base)
    return text if rule is None else rule(text)


def _float(text: str) -> Any:
    value = float(text)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _bits(text: str) -> Any:
    if len(text) == 1:
        return text == "1"
    return base64.b64encode(int(text, 2).to_bytes((len(text) + 7) // 8, "little")).decode()


def _instant(text: str) -> tuple[np.datetime64, str]:
    """(day, clock) of a date or timestamp in UTC."""
    found = _STAMP.fullmatch(text)
    if found is None:
        raise ValueError("a date or timestamp is not in the server's ISO form: capture with datestyle ISO and UTC")
    year, rest = found[1].split("-", 1)
    return np.datetime64(f"{1 - int(year):05d}-{rest}" if found[4] else f"{int(year):04d}-{rest}", "D"), found[2] or ""


def _date(text: str) -> int:
    return _DAYS[text] if text in _DAYS else int(_instant(text)[0].astype(np.int64))


def _clock(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    whole, _, fraction = seconds.partition(".")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * 1_000_000 + int(fraction.ljust(6, "0") or 0)


def _timestamp(text: str) -> int:
    if text in _COUNTS:
        return _COUNTS[text]
    day, clock = _instant(text)
    return int(day.astype(np.int64)) * 86_400_000_000 + _clock(clock)


def _timestamptz(text: str) -> str:
    if text in _COUNTS:
        return text
    day, clock = _instant(text)
    date = str(day)
    year, rest = date.lstrip("-").split("-", 1)
    sign = "-" if date[0] == "-" else "+" if len(year) > 4 else ""
    return f"{sign}{int(year):04d}-{rest}T{clock}Z"


def _timetz(text: str) -> str:
    """UTC keeps the instant; the zone itself has no place in Debezium's form."""
    clock, sign, zone = re.fullmatch(r"([\d:.]+)([+-])(.*)", text).groups()  # type: ignore[union-attr]
    parts = [int(n) for n in zone.split(":")] + [0, 0]
    offset = (parts[0] * 3600 + parts[1] * 60 + parts[2]) * (-1 if sign == "-" else 1)
    seconds, rest = divmod((_clock(clock) - offset * 1_000_000) % 86_400_000_000, 1_000_000)
    fraction = f".{rest:06d}".rstrip("0").rstrip(".")
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}Z"


def _point(text: str) -> dict[str, float]:
    x, y = text.strip("()").split(",")
    return {"x": float(x), "y": float(y)}


def _hstore(text: str) -> str:
    return json.dumps({_ESCAPED.sub(r"\1", key): None if value is None else _ESCAPED.sub(r"\1", value)
                       for key, value in ((m[1], m[2]) for m in _PAIR.finditer(text))})


def _list(text: str, kind: str, oid: int) -> Any:
    """Items of an array's text, nested as it is; one with bounds of its own stays text."""
    if not text.startswith("{"):
        return text
    items, end = _items(text, 1, kind, oid)
    return items if end == len(text) else text


def _items(text: str, at: int, kind: str, oid: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while text[at] != "}":
        if text[at] == ",":
            at += 1
        elif text[at] == "{":
            inner, at = _items(text, at + 1, kind, oid)
            found.append(inner)
        elif text[at] == '"':
            end = at + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            found.append(to_json(_ESCAPED.sub(r"\1", text[at + 1:end]), kind, oid))
            at = end + 1
        else:
            end = min(n for n in (text.find(",", at), text.find("}", at)) if n >= 0)
            found.append(None if text[at:end] == "NULL" else to_json(text[at:end], kind, oid))
            at = end
    return found, at + 1


_RULES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("bigint", "integer", "smallint", "oid"), int), "boolean": lambda text: text[0] == "t",
    "real": _float, "double precision": _float, "numeric": lambda text: _WORDS.get(text, text),
    "bytea": lambda text: base64.b64encode(bytes.fromhex(text[2:])).decode(), "bit": _bits, "bit varying": _bits,
    "date": _date, "time without time zone": _clock, "time with time zone": _timetz,
    "timestamp without time zone": _timestamp, "timestamp with time zone": _timestamptz, "point": _point,
    "money": lambda text: text.replace("$", "").replace(",", ""), "hstore": _hstore,
    **dict.fromkeys(("vector", "halfvec"), json.loads),
}
