"""Personal data and free text on their way into columns: sealed under the key of whom they are about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.keyring import Keyring
from stripe_platform.vault import subject_keys


def sealed_columns(
    conn: psycopg.Connection, ring: Keyring, table: str, primary_key: str, subject: str, values: Mapping[str, Any]
) -> dict[str, bytes | None]:
    """`<name>_ciphertext` of each value: text as it is, maps as JSON, None (or an empty map) as null."""
    if not any(values.values()):
        return {f"{name}_ciphertext": None for name in values}
    key = subject_keys(conn, ring, [subject])[subject]
    out: dict[str, bytes | None] = {}
    for name, value in values.items():
        column = f"{name}_ciphertext"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else None
        out[column] = key.seal(f"oltp.{table}", column, primary_key, text) if text else None
    return out


def write_row(
    conn: psycopg.Connection, table: str, key: Mapping[str, Any], columns: Mapping[str, Any], *, upsert: bool = False
) -> None:
    """Update the named columns of one row of schema oltp, or insert it where `upsert` allows."""
    if not columns:
        return
    sets = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder()) for c in columns)
    where = sql.SQL(" and ").join(sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder()) for c in key)
    name = sql.Identifier("oltp", table)
    if not upsert:
        conn.execute(sql.SQL("update {} set {} where {}").format(name, sets, where), [*columns.values(), *key.values()])
        return
    every = {**key, **columns}
    conn.execute(
        sql.SQL("insert into {} ({}) values ({}) on conflict ({}) do update set {}").format(
            name, sql.SQL(", ").join(map(sql.Identifier, every)), sql.SQL(", ").join([sql.Placeholder()] * len(every)),
            sql.SQL(", ").join(map(sql.Identifier, key)), sets),
        [*every.values(), *columns.values()])
