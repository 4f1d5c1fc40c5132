"""The schemas that Debezium's events may bring along, as versions of the catalogue.

A column's type is, in this order: what the connector was told to pass on (`column.propagate.source.type`), what a
catalogue knows of the column where its values may be written so, and else what the schema's name says.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stripe_platform.cdc.catalogue import ColumnVersion, TableVersion
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.debezium_values import BASES, Encoding, ValueRefusedError, to_text
from stripe_platform.cdc.pgtypes import BUILT_IN, FIRST_USER_OID, base_of

OIDS = {name: oid for oid, name in BUILT_IN.items()}
_NAMED = {
    "org.apache.kafka.connect.data.Decimal": "numeric", "io.debezium.data.VariableScaleDecimal": "numeric",
    "io.debezium.time.Date": "date", "org.apache.kafka.connect.data.Date": "date", "io.debezium.time.IsoDate": "date",
    "io.debezium.time.MicroTime": "time without time zone", "io.debezium.time.IsoTime": "time without time zone",
    "io.debezium.time.Time": "time(3) without time zone", "org.apache.kafka.connect.data.Time":
    "time(3) without time zone", "io.debezium.time.NanoTime": "time without time zone",
    "io.debezium.time.ZonedTime": "time with time zone",
    "io.debezium.time.MicroTimestamp": "timestamp without time zone",
    "io.debezium.time.Timestamp": "timestamp(3) without time zone",
    "org.apache.kafka.connect.data.Timestamp": "timestamp(3) without time zone",
    "io.debezium.time.NanoTimestamp": "timestamp without time zone",
    "io.debezium.time.IsoTimestamp": "timestamp without time zone",
    "io.debezium.time.ZonedTimestamp": "timestamp with time zone",
    "io.debezium.time.MicroDuration": "interval", "io.debezium.time.Interval": "interval",
    "io.debezium.data.Uuid": "uuid", "io.debezium.data.Json": "jsonb", "io.debezium.data.Xml": "xml",
    "io.debezium.data.Enum": "text", "io.debezium.data.Ltree": "text", "io.debezium.data.Bits": "bit",
    "io.debezium.data.geometry.Point": "point", "io.debezium.data.Tsvector": "tsvector",
    "io.debezium.data.DoubleVector": "vector", "io.debezium.data.FloatVector": "halfvec",
}
_MILLISECONDS = frozenset({"io.debezium.time.Timestamp", "io.debezium.time.Time",
                           "org.apache.kafka.connect.data.Timestamp", "org.apache.kafka.connect.data.Time"})
_NANOSECONDS = frozenset({"io.debezium.time.NanoTimestamp", "io.debezium.time.NanoTime"})
# The source's own words for a type, where `format_type` prints another.
_INTERNAL = BASES | {"bpchar": "character", "varchar": "character varying", "varbit": "bit varying", "char": '"char"'}
_BASE_NAMES = {printed: name for name, printed in BASES.items()}
_SOURCE = "__debezium.source.column."
_UNBOUNDED = 2_147_483_647
# Debezium tells a default as it is only for these, and puts an expression's text or a zero in an unknown one's place.
_TOLD_DEFAULTS = frozenset({"boolean", "smallint", "integer", "bigint", "real", "double precision", "numeric", "text",
                            "character varying", "character", "date", "timestamp without time zone",
                            "timestamp with time zone", "uuid", "json", "jsonb"})
_UNTOLD_NONE = _TOLD_DEFAULTS - {"date", "timestamp without time zone", "timestamp with time zone"}
_EXPRESSION = re.compile(r"[A-Z_]+|.*\(.*\).*|.*::.*", re.DOTALL)
_ZEROS = re.compile(r"[0\-:. TZ]*|1970-01-01.*")
_PLAIN = {
    "boolean": "boolean", "int16": "smallint", "int32": "integer", "int64": "bigint", "float": "real",
    "float32": "real", "double": "double precision", "float64": "double precision", "string": "text", "bytes": "bytea",
}


def described(schema: str, table: str, key: tuple[str, ...], envelope: Mapping[str, Any],
              known: Callable[[str], Sequence[ColumnVersion]] = lambda _name: (), *, number: int | None = None,
              identity: str = "d", named: tuple[str, ...] = ()) -> TableVersion:
    """A table as an event's own schema describes it; `KeyError` where the schema is no envelope's.

    `key`: the columns of the event's key; `known`: what catalogues know of a column, best first, by the name that it is
    landed with; `number`, `identity`: the table's own, where known; `named`: the key as others know it, in its order.
    """
    made = [_column(field, known(landed(field["field"]))) for field in _row(envelope)]
    own = tuple(map(landed, key))
    ordered = own if own else named
    if named and (not own or set(named) == set(own)):
        ordered = named
    elif not set(ordered) <= {c.name for c in made}:
        ordered = tuple(c.name for c in made if c.name in ordered)
    return TableVersion(
        schema, table, _number(schema, table) if number is None else number, identity, ordered,
        tuple(dataclasses.replace(c, in_key=c.name in ordered) for c in made))


def _column(field: Mapping[str, Any], known: Sequence[ColumnVersion]) -> ColumnVersion:
    """One column, with its number where a catalogue has it, and what older rows have in it where anybody tells."""
    name, told = landed(field["field"]), _told_type(field)
    for candidate in known:
        if _fits(field, candidate) and (told is None or _same(told[0], candidate)):
            return dataclasses.replace(candidate, name=name)
    kind, oid = told or ((said := _type(field)), _oid(said))
    missing, sure = _missing(field, kind, oid)
    return ColumnVersion(name, kind, oid, False, None, missing, True if sure else None)


def _fits(field: Mapping[str, Any], known: ColumnVersion) -> bool:
    """Whether values of a known column may be written as the field says; else the column is another one by now."""
    said, base = base_of(_type(field)), base_of(known.type)
    if known.oid >= FIRST_USER_OID:
        base = BASES.get(base, base)
        if base not in OIDS:  # an enum, an extension's own: they come as texts, maps or lists
            return said in ("text", "jsonb", "vector", "halfvec", "hstore", "bytea") or said.endswith("[]")
    if base.endswith("[]"):
        return said.endswith("[]") and (base == said or _writes(said[:-2], base[:-2]))
    return base == said or _writes(said, base)


def _writes(said: str, base: str) -> bool:
    if said == "text":  # texts, and what strings are set to carry; what only bytes carry exactly is refused by value
        return base not in _NUMBERS
    if base in ("numeric", "money"):
        return said in ("numeric", "double precision")
    return (said, base) in {("bigint", "oid"), ("jsonb", "json"), ("jsonb", "hstore"), ("boolean", "bit"),
                            ("bit", "bit varying"), ("bytea", "bytea"), ("halfvec", "vector"), ("vector", "halfvec"),
                            ("bigint", "interval"), ("interval", "interval")} or (
        said == "bytea" and base not in _TOLD_DEFAULTS)


_NUMBERS = frozenset({"boolean", "smallint", "integer", "bigint", "oid", "real", "double precision", "date",
                      "timestamp without time zone", "timestamp with time zone", "time without time zone",
                      "time with time zone", "interval", "uuid", "json", "jsonb", "xml", "point", "bit"})


def _same(told: str, known: ColumnVersion) -> bool:
    """Whether a catalogue means the type that the connector passed on; a domain or enum goes by a name of its own."""
    if known.oid >= FIRST_USER_OID:
        return True
    base = base_of(told)
    return base == base_of(known.type) and (told == known.type.replace("(6)", "") or base.startswith("interval"))


def _told_type(field: Mapping[str, Any]) -> tuple[str, int] | None:
    """(type, OID) that the connector passed on, as the log itself would tell it; None where it did not."""
    told = field.get("parameters") or {}
    if f"{_SOURCE}type" not in told:
        return None
    name = told[f"{_SOURCE}type"].lower()
    array, name = name.startswith("_"), name.removeprefix("_")
    length, scale = int(told.get(f"{_SOURCE}length", _UNBOUNDED)), int(told.get(f"{_SOURCE}scale", 0))
    base = _INTERNAL.get(name, name)
    if base not in OIDS:  # of the database's own: a domain is known by its values alone, and by its base type's name
        said = base_of(_type(field))
        if said not in ("text", "jsonb", "vector", "halfvec", "bytea", "hstore") and not array:
            return _BASE_NAMES.get(said, said), _user_oid(name)
        return f"{name}{'[]' * array}", _user_oid(name)
    if base == "numeric" and length < 131_089:
        base = f"numeric({length},{scale})"
    elif base in ("character", "character varying", "bit", "bit varying") and length < _UNBOUNDED:
        base = f"{base}({length})"
    elif base == "character":
        base = "bpchar"
    elif base.startswith(("timestamp ", "time ")) and scale < 6:
        head, _, rest = base.partition(" ")
        base = f"{head}({scale}) {rest}"
    kind = f"{base}{'[]' * array}"
    return kind, _oid(kind)


def _oid(kind: str) -> int:
    base = "character" if kind.removesuffix("[]") == "bpchar" else base_of(kind)
    if base in OIDS:
        return OIDS[base]
    return _user_oid(kind)


def _user_oid(name: str) -> int:
    """In the place of the OID of a type that the database made: the same for the same name."""
    return 1 << 31 | zlib.crc32(name.encode())


def _missing(field: Mapping[str, Any], kind: str, oid: int) -> tuple[str | None, bool]:
    """(what rows older than the column have in it, whether that is sure); as far as a default of the schema tells."""
    base = base_of(kind)
    if "default" not in field:
        return None, bool(field.get("optional")) and base in _UNTOLD_NONE
    if base not in _TOLD_DEFAULTS:
        return None, False
    try:
        text = to_text(field["default"], kind, oid, _encoding(field, Encoding()))
    except ValueRefusedError:
        return None, False
    if text is None or _ZEROS.fullmatch(text) or (isinstance(field["default"], str) and _EXPRESSION.fullmatch(text)):
        return None, False
    return text, True


def declared_version(schema: str, table: str, key: tuple[str, ...], columns: list[tuple[str, str]]) -> TableVersion:
    """A table of (name, type as PostgreSQL prints it) columns; without a key its whole rows name them."""
    return TableVersion(schema, table, _number(schema, table), "d" if key else "f", key, tuple(
        ColumnVersion(name, kind, _oid(kind), name in key) for name, kind in columns))


def encodings(envelope: Mapping[str, Any], told: Encoding) -> dict[str, Encoding]:
    """How each column is written, by the schema's own words; `told`: what the schema does not say."""
    return {field["field"]: _encoding(field, told) for field in _row(envelope)}


def _encoding(field: Mapping[str, Any], told: Encoding) -> Encoding:
    name = str((field["items"] if field["type"] == "array" else field).get("name"))
    times = "milliseconds" if name in _MILLISECONDS else "nanoseconds" if name in _NANOSECONDS else "microseconds"
    return dataclasses.replace(told, decimals="precise" if name.endswith("Decimal") else "string", times=times,
                               binary="text" if field["type"] == "string" else "bytes")


def names(envelope: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that a schema describes, by their names in the rows."""
    return tuple(field["field"] for field in _row(envelope))


def _number(schema: str, table: str) -> int:
    """In the place of the source's OID, which events do not tell: the same for the same name, in every run."""
    return 1 << 31 | zlib.crc32(f"{schema}.{table}".encode())


def _row(envelope: Mapping[str, Any]) -> list[dict[str, Any]]:
    return next(f for f in envelope["fields"] if f["field"] == "after")["fields"]


def _type(field: Mapping[str, Any]) -> str:
    name, kind = field.get("name"), field["type"]
    parameters = field.get("parameters") or {}
    if kind == "array" and name not in _NAMED:
        return f"{_type(field['items'])}[]"
    if kind == "map":
        return "hstore"
    if name == "org.apache.kafka.connect.data.Decimal":
        return f"numeric({parameters.get('connect.decimal.precision', 1000)},{parameters['scale']})"
    if name == "io.debezium.data.Bits":
        length = int(parameters.get("length") or 0)
        return f"bit({length})" if 0 < length < _UNBOUNDED else "bit varying"
    if name in _NAMED:
        return _NAMED[name]
    if name is None and kind in _PLAIN:
        return _PLAIN[kind]
    raise ValueRefusedError(f"{field.get('field', 'a list')} has the schema {name or kind}, of no exact form here:"
                            " leave the column out of the publication")
