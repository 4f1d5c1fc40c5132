"""The schemas that Debezium's events may bring along, as versions of the catalogue.

A schema's name says how a value is written; the column's PostgreSQL type is the one whose values are written so.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

from stripe_platform.cdc.catalogue import ColumnVersion, TableVersion
from stripe_platform.cdc.debezium_values import Encoding
from stripe_platform.cdc.pgtypes import BUILT_IN

OIDS = {name: oid for oid, name in BUILT_IN.items()}
_NAMED = {
    "org.apache.kafka.connect.data.Decimal": "numeric", "io.debezium.data.VariableScaleDecimal": "numeric",
    "io.debezium.time.Date": "date", "org.apache.kafka.connect.data.Date": "date", "io.debezium.time.IsoDate": "date",
    "io.debezium.time.MicroTime": "time without time zone", "io.debezium.time.IsoTime": "time without time zone",
    "io.debezium.time.ZonedTime": "time with time zone",
    "io.debezium.time.MicroTimestamp": "timestamp without time zone",
    "io.debezium.time.Timestamp": "timestamp(3) without time zone",
    "io.debezium.time.IsoTimestamp": "timestamp without time zone",
    "io.debezium.time.ZonedTimestamp": "timestamp with time zone",
    "io.debezium.time.MicroDuration": "interval", "io.debezium.time.Interval": "interval",
    "io.debezium.data.Uuid": "uuid", "io.debezium.data.Json": "jsonb", "io.debezium.data.Xml": "xml",
    "io.debezium.data.Enum": "text", "io.debezium.data.Ltree": "text", "io.debezium.data.Bits": "bit",
    "io.debezium.data.geometry.Point": "point",
}
_PLAIN = {
    "boolean": "boolean", "int16": "smallint", "int32": "integer", "int64": "bigint", "float": "real",
    "float32": "real", "double": "double precision", "float64": "double precision", "string": "text", "bytes": "bytea",
}


def described(schema: str, table: str, key: tuple[str, ...], envelope: Mapping[str, Any]) -> TableVersion:
    """A table as an event's own schema describes it; `KeyError` where the schema is no envelope's."""
    columns = tuple(
        ColumnVersion(field["field"], kind := _type(field), OIDS.get(_base(kind), OIDS["text"]), field["field"] in key)
        for field in _row(envelope))
    ordered = tuple(c.name for c in columns if c.in_key)
    named = key if set(key) == set(ordered) else ordered
    return TableVersion(schema, table, _number(schema, table), "d", named, columns)


def declared_version(schema: str, table: str, key: tuple[str, ...], columns: list[tuple[str, str]]) -> TableVersion:
    """A table of (name, type as PostgreSQL prints it) columns, all of types that the server brings along."""
    return TableVersion(schema, table, _number(schema, table), "d", key, tuple(
        ColumnVersion(name, kind, OIDS[_base(kind)], name in key) for name, kind in columns))


def encodings(envelope: Mapping[str, Any], told: Encoding) -> dict[str, Encoding]:
    """How each column is written, by the schema's own words; `told`: what the schema does not say."""
    found = {}
    for field in _row(envelope):
        inner = field["items"] if field["type"] == "array" else field
        precise = str(inner.get("name")).endswith("Decimal")
        milliseconds = inner.get("name") == "io.debezium.time.Timestamp"
        found[field["field"]] = dataclasses.replace(
            told, decimals="precise" if precise else "string", times="adaptive" if milliseconds else "microseconds")
    return found


def _number(schema: str, table: str) -> int:
    """In the place of the source's OID, which events do not tell: the same for the same name, in every run."""
    return 1 << 31 | zlib.crc32(f"{schema}.{table}".encode())


def _row(envelope: Mapping[str, Any]) -> list[dict[str, Any]]:
    return next(f for f in envelope["fields"] if f["field"] == "after")["fields"]


def _type(field: Mapping[str, Any]) -> str:
    name, kind = field.get("name"), field["type"]
    parameters = field.get("parameters") or {}
    if kind == "array":
        return f"{_type(field['items'])}[]"
    if name == "org.apache.kafka.connect.data.Decimal":
        return f"numeric({parameters.get('connect.decimal.precision', 1000)},{parameters['scale']})"
    if name == "io.debezium.data.Bits":
        return f"bit({parameters['length']})"
    if name in _NAMED:
        return _NAMED[name]
    if name is None and kind in _PLAIN:
        return _PLAIN[kind]
    raise KeyError(f"the schema {name or kind} has no PostgreSQL type here")


def _base(kind: str) -> str:
    head, _, rest = kind.partition("(")
    return head + rest.partition(")")[2]
