"""One text for a row, the same in PostgreSQL and in DuckDB over the lake's columns, and sums of its hashes.

Strings carry their length, so that no content can pass for a separator; NULL is told from the empty string; floats
are compared by their bits. Everything else prints alike in both (ISO dates, UTC, integers, booleans).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

BUCKETS = 1024
SEPARATOR = "chr(31)"
NULL = "'-'"
_BITS = {64: "float8send", 32: "float4send"}
# Rows of one bucket: how many, and the sums of two halves of their hashes; order does not matter, doubles do.
SUMS = "count(*), sum({high}), sum({low})"


def in_postgres(name: str, kind: pa.DataType) -> str:
    """SQL text of a quoted column, of a value that the lake holds as `kind`."""
    if pa.types.is_string(kind):
        # What the log carries is the type's output; a cast differs from it (char(n) loses its blanks).
        return f"case when {name} is null then {NULL} else octet_length(concat({name})) || ':' || concat({name}) end"
    if pa.types.is_binary(kind):
        text = f"encode({name}, 'hex')"
    elif pa.types.is_floating(kind):
        text = f"('x' || encode({_BITS[kind.bit_width]}({name}), 'hex'))::bit({kind.bit_width})::text"
    else:
        text = f"{name}::text"
    return f"coalesce({text}, {NULL})"


def in_duckdb(name: str, kind: pa.DataType, exact: str | None = None) -> str:
    """As `in_postgres`; `exact`: the quoted column with the text of values that `kind` cannot hold."""
    if pa.types.is_string(kind):
        return f"coalesce(strlen({name}) || ':' || {name}, {NULL})"
    if pa.types.is_binary(kind):
        text = f"lower(hex({name}))"
    elif pa.types.is_floating(kind):
        text = f"{name}::bit::varchar"
    else:
        text = f"{name}::varchar"
    return f"coalesce({text}, {exact}, {NULL})" if exact else f"coalesce({text}, {NULL})"


def row(texts: Sequence[str]) -> str:
    """SQL text of a whole row."""
    return f"concat_ws({SEPARATOR}, {', '.join(texts)})"


def digests(table: str, key: str, content: str, *, duck: bool, where: str = "") -> str:
    """Query for (bucket, rows, sum, sum) of `table`: buckets by the key's hash, sums of the row's."""
    halves = {"high": _number("h", 1, duck=duck), "low": _number("h", 17, duck=duck)}
    bucket = f"({_number('k', 1, duck=duck, digits=3)}) % {BUCKETS}"
    return (f"select {bucket}, {SUMS.format(**halves)} from (select md5({key}) as k, md5({content}) as h"  # noqa: S608
            f" from {table}{where}) hashed group by 1")


def rows_of(table: str, key: str, content: str, buckets: Sequence[int], *, duck: bool, where: str = "") -> str:
    """Query for (key's text, row's hash) of the named buckets."""
    bucket = f"({_number('k', 1, duck=duck, digits=3)}) % {BUCKETS}"
    return (f"select key, h from (select {key} as key, md5({key}) as k, md5({content}) as h from {table}{where})"  # noqa: S608
            f" hashed where {bucket} in ({', '.join(map(str, buckets))})")


def _number(column: str, start: int, *, duck: bool, digits: int = 15) -> str:
    part = f"substr({column}, {start}, {digits})"
    return f"('0x' || {part})::bigint" if duck else f"('x' || {part})::bit({4 * digits})::bigint"
