"""Converters: one JSON value to one column's value, or a refusal that names the rule and never the value.

Clear columns take no card number and no e-mail address, whatever field they hide in: the sealed payload keeps them.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from functools import lru_cache
from typing import Any

from stripe_platform.cards import holds_card_number
from stripe_platform.money import MAX_MINOR

FILLER, INVALID, PERSONAL = "filler value", "invalid value", "personal data"
LAST_SECOND = 253_402_300_799  # 9999-12-31: later instants are milliseconds or noise
LONGEST_TEXT = 5_000
LONGEST_ID = 255

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_ID = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_COUPON = re.compile(r"[^\t\n\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,79}")
_DIGITS = re.compile(r"[0-9]{9}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[a-z]{1,20})?")


class InvalidError(ValueError):
    """A value that its column cannot take; `rule` says why."""

    def __init__(self, rule: str = INVALID) -> None:
        super().__init__(rule)
        self.rule = rule


class MoneyError(InvalidError):
    """An amount that is none: the whole object is kept apart, never a row with a guessed amount."""


def safe_name(name: object) -> bool:
    """Whether a field or kind name may stand in clear: a short lower-case word without a long number in it."""
    return isinstance(name, str) and len(name) <= 80 and _safe(name)


@lru_cache(8_192)
def _safe(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _DIGITS.search(name) is None


def api_version(value: object) -> str | None:
    """An API version, or nothing when it does not look like one."""
    return value if isinstance(value, str) and _VERSION.fullmatch(value) else None


def _clear(value: str) -> str:
    """The same text, where it may stand in clear."""
    if _UNPRINTABLE.search(value):
        raise InvalidError
    if holds_card_number(value) or ("@" in value and _EMAIL.search(value)):
        raise InvalidError(PERSONAL)
    return value


def text(value: Any, _field: str) -> str | None:
    """Clear text that describes: open, yet short, printable and without personal data."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise InvalidError
    return _clear(value) or None


def word(value: Any, field: str) -> str | None:
    """A name out of a list that may grow: a value that repeats its field's name is filler."""
    if not isinstance(value, str) or len(value) > LONGEST_ID:
        raise InvalidError
    if value == field:
        raise InvalidError(FILLER)
    return _clear(value) or None


def ident(value: Any, field: str) -> str | None:
    """An id, or the id of an expanded object; filler and empty ids name nothing."""
    if isinstance(value, dict):
        value = value.get("id")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidError
    if value == field:
        raise InvalidError(FILLER)
    if not value.isascii() and len(value.encode()) > LONGEST_ID:
        raise InvalidError
    if (len(value) >= 13 and holds_card_number(value)) or ("@" in value and _EMAIL.search(value)):
        raise InvalidError(PERSONAL)
    return value


def coupon_id(value: Any, field: str) -> str | None:
    """As `ident`; merchants choose these, and some choose words with spaces."""
    if isinstance(value, dict):
        value = value.get("id")
    if isinstance(value, str) and " " in value and value.strip() and _COUPON.fullmatch(value):
        ident(value.replace(" ", ""), field)
        if holds_card_number(value):
            raise InvalidError(PERSONAL)
        return value
    return ident(value, field)


def flag(value: Any, _field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidError
    return value


def money(value: Any, _field: str) -> int:
    """Minor units: an integer and nothing else."""
    if not isinstance(value, int) or isinstance(value, bool) or not -MAX_MINOR <= value <= MAX_MINOR:
        raise MoneyError
    return value


def unsigned(value: Any, field: str) -> int:
    """Minor units that cannot be negative."""
    if money(value, field) < 0:
        raise MoneyError
    return int(value)


def whole(low: int, high: int) -> Any:
    """Converter for an integer between two bounds."""

    def convert(value: Any, _field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidError
        return value

    return convert


count = whole(0, 2**31 - 1)
positive = whole(1, 2**31 - 1)
quantity = whole(0, MAX_MINOR)
month = whole(1, 12)
year = whole(1970, 2200)
short = whole(0, 32_767)


def instant(value: Any, _field: str) -> str:
    """Unix seconds as an ISO instant."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_SECOND:
        raise InvalidError
    return dt.datetime.fromtimestamp(value, dt.UTC).isoformat()


def decimal(low: str, high: str) -> Any:
    """Converter for an exact decimal number or text between two bounds; its text."""
    least, most = Decimal(low), Decimal(high)

    def convert(value: Any, _field: str) -> str:
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
            raise InvalidError
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            raise InvalidError
        if isinstance(value, int) and abs(value) > 10**40:
            raise InvalidError
        number = Decimal(value)
        if not number.is_finite() or not least <= number <= most or number.adjusted() < -20:
            raise InvalidError
        return format(number, "f")

    return convert


percent = decimal("0", "100")
minor_decimal = decimal("0", "1e19")
any_decimal = decimal("-1e19", "1e19")
rate = decimal("0.0000000001", "9999999999")


def one_of(*allowed: str) -> Any:
    """Converter for a description out of a closed list."""
    names = frozenset(allowed)

    def convert(value: Any, field: str) -> str:
        if isinstance(value, str) and value in names:
            return value
        raise InvalidError(FILLER if value == field else INVALID)

    return convert


def digits(low: int, high: int, *, letters: bool = False) -> Any:
    """Converter for a short run of digits kept as text (last4, IIN, merchant category)."""
    pattern = re.compile(f"[0-9{'A-Za-z' if letters else ''}]{{{low},{high}}}")

    def convert(value: Any, _field: str) -> str | None:
        if value == "":
            return None
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InvalidError
        return value

    return convert


def names(value: Any, field: str) -> list[str]:
    """A list of words."""
    if not isinstance(value, list) or len(value) > 1_000:
        raise InvalidError
    return [kept for kept in (word(item, field) for item in value) if kept]


def secret(value: Any, _field: str) -> str | None:
    """Personal data or free text, as text to be sealed: any JSON, empty structures as nothing."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, dict | list):
        return dumps(value) if _says_something(value) else None
    return dumps(value)


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_something(part) for part in value.values())
    if isinstance(value, list):
        return any(_says_something(part) for part in value)
    return value is not None


class _Exact(json.JSONEncoder):
    """Decimals as the number they were read as; everything else is plain JSON already."""

    def default(self, o: Any) -> Any:
        if isinstance(o, Decimal):
            return {"$number": str(o)}
        return super().default(o)


_encode = _Exact(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def dumps(value: Any) -> str:
    """Canonical text: sorted keys, ASCII, no spaces; the same facts give the same bytes."""
    return _encode(value)
