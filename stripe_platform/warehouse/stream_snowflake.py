"""Batches into Snowflake's raw tables as they land: what came since the last time is one transaction with its position.

A MERGE takes a second whether it brings ten rows or ten thousand, and a warehouse that never rests is paid for: the
follower comes every `snowflake_follow_seconds`. The same fence decides as in the apply by days. Tables that this
release does not declare stay in the lake.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import time
from collections.abc import Collection, Sequence
from typing import Any

from resources.lake import Lake
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.warehouse import raw, raw_snowflake, raw_tables
from stripe_platform.warehouse.stream import Streamed, changes_of, expected_day, whole_through

NAMED_AT_ONCE = 5_000  # values in one statement, which takes 16,384
LEFT_AFTER = 3600.0  # seconds after which a stage belongs to nobody: a follower that works makes it for one transaction
_STAGE = re.compile(r"_STREAM_([0-9A-F]{12})_.*")  # milliseconds of its making
_STREAMED = """
create table if not exists "RAW"."_STREAMED" (
    "SOURCE" varchar not null primary key, "SEQ" number(38,0) not null, "COMMIT_TS" timestamp_tz,
    "APPLIED_AT" timestamp_tz default current_timestamp())"""
log = logging.getLogger(__name__)


class OvertakenError(RuntimeError):
    """Another follower brought the batches in meanwhile; nothing was written."""


def streamed(conn: Any, source: str) -> Streamed:
    """The position of a source; batch 0 where nothing was streamed."""
    with conn.cursor() as cursor:
        if "_STREAMED" not in raw_snowflake.tables_of_raw(cursor):
            return Streamed(0)
        return _streamed(cursor, source)


def position(conn: Any, chain: Chain, source: str, first_day: dt.date) -> int:
    """The last batch that `RAW` holds whole: streamed, or applied by days without a gap."""
    with conn.cursor() as cursor:
        tables, standing = raw_snowflake.tables_of_raw(cursor), set()
        done = _streamed(cursor, source).seq if "_STREAMED" in tables else 0
        if "_APPLIED" in tables:
            standing = {(table, day, digest) for table, day, digest in cursor.execute(
                'select "TABLE_NAME", "DAY", "DIGEST" from "RAW"."_APPLIED"').fetchall()}
    return whole_through(chain, done, standing, first_day)


class SnowflakeStream:
    """Brings a source's batches into `RAW`, in order, each once; begins where days or an earlier stream ended."""

    def __init__(self, conn: Any, lake: Lake, source: str, first_day: dt.date) -> None:
        self._conn, self._lake, self._source, self._first_day = conn, lake, source, first_day
        self._made: set[str] = set()
        self._left_in_the_lake: set[str] = set()
        with conn.cursor() as cursor:
            cursor.execute("create schema if not exists RAW")
            cursor.execute(_STREAMED)
            cursor.execute('merge into "RAW"."_STREAMED" t using (select %s as source) s on t."SOURCE" = s.source'
                           ' when not matched then insert ("SOURCE", "SEQ") values (s.source, 0)', (source,))
            for name in raw_snowflake.tables_of_raw(cursor):
                made = _STAGE.fullmatch(name)
                if made and int(made[1], 16) / 1000 < time.time() - LEFT_AFTER:
                    cursor.execute(f'drop table if exists "RAW"."{name}"')

    def take(self, chain: Chain, batches: Sequence[Manifest]) -> int:
        """Apply batches that follow the position, in one transaction; keys written.

        Raises `OvertakenError`, and `raw.UnknownStateError` where a change leaves out what nobody knows.
        """
        with self._conn.cursor() as cursor:
            done = _streamed(cursor, self._source).seq
            batches = [m for m in batches if m.seq > done]
            if not batches:
                return 0
            waiting: list[raw_snowflake.Staged] = []
            try:
                for table in self._declared(chain, batches):
                    waiting += self._stage(cursor, chain, table, batches)
                with raw_snowflake.transaction(cursor):
                    self._move(cursor, done, batches[-1])  # first: a second follower waits here and finds it moved
                    for found in waiting:
                        found.run(cursor)
                    for manifest in batches:
                        if manifest.closes is not None:
                            self._rename_day(cursor, chain, manifest)
            finally:  # what fails is tried again every few seconds, with stages of its own each time
                for found in waiting:
                    found.drop(cursor)
        if unheld := sum(found.unheld for found in waiting):
            log.warning("%d values are beyond Snowflake's types: null there, exact in the lake", unheld)
        return sum(found.keys for found in waiting)

    def put_aside(self) -> int:
        """None: what Snowflake's types cannot hold is null there, and told in the log."""
        return 0

    def _declared(self, chain: Chain, batches: Sequence[Manifest]) -> list[str]:
        tables = {f.table for m in batches for f in m.files}
        declared = {table for table in tables if catalogue.is_declared(chain, table)}
        for table in sorted(tables - declared - self._left_in_the_lake):
            log.warning("%s is not a table of this release: its changes stay in the lake", table)
            self._left_in_the_lake.add(table)
        return sorted(declared)

    def _stage(self, cursor: Any, chain: Chain, table: str,
               batches: Sequence[Manifest]) -> list[raw_snowflake.Staged]:
        target = raw_tables.declared(table)
        if table not in self._made:
            raw_snowflake.create(cursor, target)
            self._made.add(table)
        return [raw_snowflake.staged(cursor, target, raw.without_ciphertext(changes),
                                     f"_STREAM_{time.time_ns() // 1_000_000:012x}_")
                for changes in changes_of(self._lake, chain, table, batches, self._first_day)]

    def _move(self, cursor: Any, done: int, last: Manifest) -> None:
        cursor.execute('update "RAW"."_STREAMED" set "SEQ" = %s, "COMMIT_TS" = %s::timestamp_tz,'
                       ' "APPLIED_AT" = current_timestamp() where "SOURCE" = %s and "SEQ" = %s',
                       (last.seq, last.last_commit, self._source, done))
        if cursor.rowcount != 1:
            raise OvertakenError(f"{self._source}: another follower has brought raw beyond batch {done}: end one of"
                                 " the two")

    def _rename_day(self, cursor: Any, chain: Chain, manifest: Manifest) -> None:
        expected, tables = expected_day(chain, manifest, self._first_day)
        if manifest.closes is None or manifest.closes == expected:
            return
        for table in tables:
            if catalogue.is_declared(chain, table):
                cursor.execute(f'update "RAW"."{table.upper()}" set _ledger_day = %s::date'  # noqa: S608
                               " where _ledger_day = %s::date", (manifest.closes.isoformat(), expected.isoformat()))


class SnowflakeRows:
    """What `documents.stream.RawRows` asks for. `conn`: the connector's connection."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def of(self, table: str, columns: Sequence[str], by: str, values: Collection[str],
           texts: Collection[str] = ()) -> list[tuple[Any, ...]]:
        if not values:
            return []
        wanted = ", ".join(f"{raw_snowflake.quoted(name)}{'::varchar' if name in texts else ''}" for name in columns)
        keys, found = sorted(values), []
        with self._conn.cursor() as cursor:
            if table.upper() not in raw_snowflake.tables_of_raw(cursor):
                return []
            for start in range(0, len(keys), NAMED_AT_ONCE):
                some = keys[start:start + NAMED_AT_ONCE]
                marks = ", ".join(["%s"] * len(some))
                query = f'select {wanted} from "RAW".{raw_snowflake.quoted(table)}'  # noqa: S608
                found += cursor.execute(f"{query} where {raw_snowflake.quoted(by)} in ({marks})", some).fetchall()
        return found


def _streamed(cursor: Any, source: str) -> Streamed:
    row = cursor.execute('select "SEQ", "COMMIT_TS" from "RAW"."_STREAMED" where "SOURCE" = %s', (source,)).fetchone()
    return Streamed(int(row[0]), row[1]) if row else Streamed(0)
