"""Values of Debezium's JSON as PostgreSQL writes them, by the column's type; what cannot be exact is refused.

Two encodings are known without schemas: OURS, which `deploy/debezium` asks for, and DEFAULT, Debezium's own. Found with
3.6: `binary.handling.mode=base64` makes an unchanged bytea null, `isostring` turns 24:00 into 00:00 and infinity into
a year; decimals under `precise` lose NaN. So OURS is bytes, microseconds and strings.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache, partial
from typing import Any

import numpy as np

from stripe_platform.cdc.pgtypes import FIRST_USER_OID


class ValueRefusedError(ValueError):
    """A value that its encoding does not carry exactly; the text is the rule, never the value."""


@dataclass(frozen=True)
class Encoding:
    """How the connector was told to write what JSON has no type for. `placeholder`: what unchanged values look like."""

    decimals: str = "string"  # or precise
    times: str = "microseconds"  # or milliseconds, nanoseconds; adaptive: milliseconds where the column keeps no more
    intervals: str = "string"  # or numeric
    binary: str = "bytes"  # or text: base64 or hex, which one cannot be told
    placeholder: str = "__debezium_unavailable_value"


OURS = Encoding()
DEFAULT = Encoding(decimals="precise", times="adaptive", intervals="numeric")

_EXACT = Context(prec=200_000)  # more digits than a numeric can have
_DAY = 86_400_000_000  # microseconds
DATES = {-2147472692: "infinity", -2147472691: "-infinity"}  # days beyond every year the server knows
INSTANTS = {9223372036825200000: "infinity", -9223372036832400000: "-infinity"}
SPECIAL = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
_JAVA_ARRAY = re.compile(r"\[+L?[\w.$]+;?@[0-9a-f]+")
MODIFIER = re.compile(r"\((\d+)(?:,(-?\d+))?\)")
_ISO = re.compile(r"([+-]?\d{4,})-(\d\d)-(\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?")
_INTERVAL = re.compile(r"(-?[\d.]+)([YMDHS])|(T)")
_QUOTED = re.compile(r'[\s{}",\\]')
# Types whose text Debezium passes on as it is; everything else that the server brings along needs a rule below.
_PLAIN = frozenset(
    "text uuid json jsonb xml inet cidr macaddr macaddr8 int4range int8range numrange tsrange tstzrange daterange"
    " tsvector name".split()) | {"character", "character varying", "char", "bpchar"}


# A domain goes by its base type's internal name in the log.
BASES = {
    "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision",
    "bool": "boolean", "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone",
    "time": "time without time zone", "timetz": "time with time zone",
}


def to_text(value: Any, kind: str, oid: int, encoding: Encoding) -> str | None:
    """Text of one JSON value as the server's output functions print it; `ValueRefusedError` with the rule.

    `kind`: type with its modifier, as `format_type` prints it.
    """
    return None if value is None else writer_of(kind, oid, encoding)(value)


@lru_cache(maxsize=10_000)
def writer_of(kind: str, oid: int, encoding: Encoding) -> Callable[[Any], str]:
    """What `to_text` does for the values of one column, found once: a row has dozens of them."""
    if kind.endswith("[]"):
        # The OID is the array's: its element is as built in, or not, as the array is.
        return partial(_array, item_of=writer_of(kind[:-2], oid, encoding), kind=kind)
    base = "interval" if kind.startswith("interval") else MODIFIER.sub("", kind).strip('"')
    base = BASES.get(base, base) if oid >= FIRST_USER_OID else base
    rule = _RULES.get(base)
    if rule is not None:
        return lambda value: rule(value, kind, encoding)
    if base in _PLAIN or oid >= FIRST_USER_OID:
        return partial(_own, base=base)
    return partial(_refused, base=base)


def _refused(_value: Any, base: str) -> str:
    raise ValueRefusedError(f"{base} has no exact form in Debezium's JSON: leave the column out of the publication")


def is_placeholder(value: Any, kind: str, placeholder: str) -> bool:
    """Whether a value stands for one that the update left out (unchanged TOAST)."""
    if isinstance(value, list):
        return len(value) == 1 and is_placeholder(value[0], kind.removesuffix("[]"), placeholder)
    if not isinstance(value, str) or not value:
        return False
    if value == placeholder:
        return True
    return kind.rpartition(".")[2] in ("bytea", "hstore") and value in (
        base64.b64encode(placeholder.encode()).decode(), json.dumps({placeholder: placeholder}, separators=(",", ":")))


def _own(value: Any, base: str) -> str:
    """Types that a database brings itself: enums, citext, domains, vectors."""
    if base.rpartition(".")[2] == "hstore":
        return _hstore(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(n, int | float) for n in value):
        return f"[{','.join(_number(n, 6) for n in value)}]"  # vectors hold reals
    raise ValueRefusedError(f"a {base} must be a JSON string")


def _integer(value: Any, kind: str, _encoding: Encoding) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueRefusedError(f"a {kind} must be a JSON integer")
    return str(value)


def _boolean(value: Any, _kind: str, _encoding: Encoding) -> str:
    if not isinstance(value, bool):
        raise ValueRefusedError("a boolean must be true or false")
    return "t" if value else "f"


def _real(value: Any, kind: str, _encoding: Encoding) -> str:
    if value in ("NaN", "Infinity", "-Infinity"):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueRefusedError(f"a {kind} must be a JSON number")
    return _number(value, 6 if kind == "real" else 15)


def _number(value: float, digits: int = 15) -> str:
    """Shortest text of a number as the server has it; `digits`: from how many on it takes an exponent, 6 for real."""
    shortest = repr(float(value)) if digits == 15 else str(np.float32(value))
    sign, figures, exponent = Decimal(shortest).normalize().as_tuple()
    first = len(figures) + int(exponent) - 1  # power of ten of the first figure
    text = "".join(map(str, figures))
    if figures == (0,):
        plain = "0"
    elif -4 <= first < digits:
        plain = f"{Decimal((0, figures, int(exponent))):f}"
    else:
        plain = f"{text[0]}{'.' if text[1:] else ''}{text[1:]}e{'-' if first < 0 else '+'}{abs(first):02d}"
    return f"{'-' if sign else ''}{plain}"


def _numeric(value: Any, kind: str, encoding: Encoding) -> str:
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        return _scaled(value["value"], int(value["scale"]))
    if not isinstance(value, str):
        raise ValueRefusedError("a numeric must come as a string: set decimal.handling.mode=string (double loses)")
    if encoding.decimals == "precise":
        modifier = MODIFIER.search(kind)
        if modifier is None:
            raise ValueRefusedError("a numeric without scale must be {scale, value}: is decimal.handling.mode=string?")
        return _scaled(value, int(modifier[2] or 0))
    if value in SPECIAL:
        return SPECIAL[value]
    try:
        return f"{Decimal(value):f}"
    except ArithmeticError:
        raise ValueRefusedError("a numeric must be a decimal number: is decimal.handling.mode=string?") from None


def _scaled(text: str, scale: int) -> str:
    unscaled = int.from_bytes(_bytes(text), "big", signed=True)
    return f"{Decimal(unscaled).scaleb(-scale, _EXACT):f}"


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise ValueRefusedError("binary values must be base64: set binary.handling.mode=bytes") from None


def _bytea(value: Any, _kind: str, encoding: Encoding) -> str:
    if encoding.binary != "bytes":
        raise ValueRefusedError("binary values must come as bytes: set binary.handling.mode=bytes")
    return "\\x" + _bytes(value).hex()


def _bit(value: Any, kind: str, _encoding: Encoding) -> str:
    """Bits come as bytes, lowest first, and one bit alone as a boolean."""
    if isinstance(value, bool):
        return "1" if value else "0"
    width = int((MODIFIER.search(kind) or [0, 1])[1])
    return f"{int.from_bytes(_bytes(value), 'little'):0{width}b}"


def _varbit(_value: Any, _kind: str, _encoding: Encoding) -> str:
    raise ValueRefusedError("bit varying loses its leading zeros in Debezium: leave the column out of the publication")


def _date(value: Any, _kind: str, encoding: Encoding) -> str:
    if isinstance(value, str):
        return _iso(value, "date")
    days = int(_integer(value, "date", encoding))
    return DATES.get(days) or _civil(days)


def _civil(days: int) -> str:
    return _era(str(np.datetime64(days, "D")))


def _era(iso: str) -> str:
    """An ISO year to the server's: year 0 is 1 BC."""
    negative = iso.startswith("-")
    year, rest = iso.lstrip("+-").split("-", 1)
    number = -int(year) if negative else int(year)
    return f"{number:04d}-{rest}" if number > 0 else f"{1 - number:04d}-{rest} BC"


def _time(value: Any, kind: str, encoding: Encoding) -> str:
    if isinstance(value, str):
        return _fraction(value.removesuffix("Z"))
    return _clock(_microseconds(int(_integer(value, kind, encoding)), kind, encoding))


def _microseconds(number: int, kind: str, encoding: Encoding) -> int:
    """What was counted as the encoding says; `ValueRefusedError` where the count cannot hold what the column can."""
    modifier = MODIFIER.search(kind)
    coarse = modifier is not None and int(modifier[1]) <= 3
    if encoding.times == "nanoseconds":
        return number // 1000  # the server has no finer ones
    if encoding.times == "milliseconds" and not coarse:
        raise ValueRefusedError(f"a {kind} in milliseconds has lost the rest: set time.precision.mode=microseconds")
    return number * 1000 if encoding.times == "milliseconds" or (encoding.times == "adaptive" and coarse) else number


def _clock(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    hours, seconds = divmod(seconds, 3600)
    return _fraction(f"{hours:02d}:{seconds // 60:02d}:{seconds % 60:02d}.{rest:06d}")


def _fraction(text: str) -> str:
    return text.rstrip("0").removesuffix(".") if "." in text else text


def _timetz(value: Any, _kind: str, _encoding: Encoding) -> str:
    if not isinstance(value, str) or not value.endswith("Z"):
        raise ValueRefusedError("a time with time zone must be a string in UTC")
    return f"{_fraction(value.removesuffix('Z'))}+00"


def _timestamp(value: Any, kind: str, encoding: Encoding) -> str:
    if isinstance(value, str):
        return _iso(value, "timestamp without time zone")
    number = int(_integer(value, kind, encoding))
    if number in INSTANTS:
        return INSTANTS[number]
    if abs(number) < 2**63 - 1:
        number = _microseconds(number, kind, encoding)
    if abs(number) >= 2**63 - 1:
        raise ValueRefusedError("a timestamp lies beyond what microseconds can count: the source's value is lost")
    days, rest = divmod(number, _DAY)
    date, _, era = _civil(days).partition(" ")
    return f"{date} {_clock(rest)}{' BC' if era else ''}"


def _timestamptz(value: Any, _kind: str, _encoding: Encoding) -> str:
    if value in ("infinity", "-infinity"):
        return str(value)
    if not isinstance(value, str):
        raise ValueRefusedError("a timestamp with time zone must be a string in UTC")
    return _iso(value, "timestamp with time zone")


def _iso(value: str, kind: str) -> str:
    if value in ("infinity", "-infinity"):
        return value
    parts = _ISO.fullmatch(value)
    if parts is None or parts[6] not in ("Z", None):
        raise ValueRefusedError(f"a {kind} must be an ISO 8601 text in UTC")
    if int(parts[1]) < -4800 and kind != "timestamp with time zone":  # before the first day the server knows
        raise ValueRefusedError(f"a {kind} before 4713 BC is what isostring makes of infinity:"
                                " set time.precision.mode=microseconds")
    date, _, era = _era(f"{parts[1]}-{parts[2]}-{parts[3]}").partition(" ")
    zone = "+00" if kind == "timestamp with time zone" else ""
    clock = f" {_fraction(f'{parts[4]}.{parts[5] or 0}')}{zone}" if parts[4] else ""
    return f"{date}{clock}{' BC' if era else ''}"


def _interval(value: Any, _kind: str, _encoding: Encoding) -> str:
    if not isinstance(value, str):
        raise ValueRefusedError("intervals in microseconds have lost their months: set interval.handling.mode=string")
    kept: list[str] = []
    clock: list[str] = []
    for number, unit, turn in _INTERVAL.findall(value):
        part = kept if not clock and not turn else clock
        if turn:
            clock.append("T")
        elif Decimal(number):
            part.append(f"{_fraction(number)}{unit}")
    return f"P{''.join(kept)}{''.join(clock) if len(clock) > 1 else ''}" if kept or len(clock) > 1 else "PT0S"


def _money(value: Any, kind: str, encoding: Encoding) -> str:
    """As a server with lc_monetary C prints it."""
    amount = Decimal(_numeric(value, kind if encoding.decimals != "precise" else "numeric(19,2)", encoding))
    return f"{'-' if amount < 0 else ''}${abs(amount):,.2f}"


def _point(value: Any, _kind: str, _encoding: Encoding) -> str:
    if not isinstance(value, dict) or not {"x", "y"} <= value.keys():
        raise ValueRefusedError("a point must be an object with x and y")
    return f"({_number(value['x'])},{_number(value['y'])})"


def _hstore(value: Any) -> str:
    pairs = json.loads(value) if isinstance(value, str) else value
    if not isinstance(pairs, dict):
        raise ValueRefusedError("an hstore must be a JSON object: set hstore.handling.mode=json")

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    ordered = sorted(pairs, key=lambda k: (len(k.encode()), k.encode()))
    return ", ".join(f"{quoted(k)}=>{'NULL' if pairs[k] is None else quoted(pairs[k])}" for k in ordered)


def _array(items: Any, item_of: Callable[[Any], str], kind: str) -> str:
    if not isinstance(items, list):
        raise ValueRefusedError(f"a {kind} must be a JSON list")
    cells = []
    for item in items:
        if item is None:
            cells.append("NULL")
            continue
        if isinstance(item, str) and _JAVA_ARRAY.fullmatch(item):
            raise ValueRefusedError("arrays of more than one dimension do not survive Debezium: leave the column out")
        if isinstance(item, list):
            cells.append(_array(item, item_of, kind))
            continue
        text = item_of(item)
        if not text or text.upper() == "NULL" or _QUOTED.search(text):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        cells.append(text)
    return "{" + ",".join(cells) + "}"


_RULES: dict[str, Callable[..., str]] = {
    **dict.fromkeys(("bigint", "integer", "smallint", "oid"), _integer), "boolean": _boolean,
    **dict.fromkeys(("real", "double precision"), _real), "numeric": _numeric, "money": _money, "bytea": _bytea,
    "bit": _bit, "bit varying": _varbit, "date": _date, "interval": _interval, "point": _point,
    "time without time zone": _time, "time with time zone": _timetz, "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamptz,
}
