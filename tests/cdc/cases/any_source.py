"""A database of anybody's: SQL of a test goes in, and what the log, the folded state and raw hold is judged as text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from resources.lake import LocalLake
from stripe_platform.cdc import columns as values
from stripe_platform.cdc.capture import CaptureReport, capture, ensure_slot
from stripe_platform.cdc.compact import compact
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.slot import OPTIONS
from stripe_platform.cdc.snapshots import state_at
from stripe_platform.cdc.sources import ConfiguredSource, Published, publish, tell
from stripe_platform.settings import Settings
from stripe_platform.warehouse import raw

DAY = dt.date(2026, 6, 1)


@dataclass
class Shop:
    """One captured database with its part of the lake and a warehouse. `db`: the owner's connection.

    `told`: an event trigger tells DDL in the log, as where a superuser owns the publication.
    """

    settings: Settings
    source: ConfiguredSource
    lake: LocalLake
    db: psycopg.Connection
    warehouse: psycopg.Connection
    published: dict[str, Published] = field(default_factory=dict)
    told: bool = True

    def publish(self, *tables: str, where: str | None = None, columns: Sequence[str] = ()) -> None:
        """Add tables to the publication, or change what of them is published."""
        for table in tables:
            self.published[table] = Published(table, where, tuple(columns))
        self._publish()

    def tell(self, told: bool) -> None:
        """Let an event trigger tell DDL from now on, or not."""
        self.told = told
        if self.published:
            self._publish()

    def withdraw(self, *tables: str) -> None:
        for table in tables:
            self.published.pop(table, None)
        if self.published:
            self._publish()

    def _publish(self) -> None:
        self.source = replace(self.source, published=tuple(self.published.values()))
        assert publish(self.settings, self.source)
        ensure_slot(self.settings, self.lake, self.source)
        if self.told:
            tell(self.settings, self.source)
        else:
            self.db.execute("drop event trigger stripe_platform_shop")

    def table(self, name: str, columns: str, *, more: str = "") -> None:
        """A published table, captured from its first row on."""
        self.db.execute(f"create table {name} ({columns}){more}")
        self.publish(name)

    def capture(self) -> CaptureReport:
        return capture(self.settings, lake=self.lake, source=self.source)

    def log(self, table: str) -> list[dict]:
        """Every captured change of a table in log order."""
        parts = [pq.read_table(pa.BufferReader(self.lake.read(f.path)))
                 for m in Chain.load(self.lake).manifests for f in m.files_of(table)]
        rows = [row for part in parts for row in part.to_pylist()]
        return sorted(rows, key=lambda row: (row["_epoch"], row["_commit_lsn"], row["_ord"]))

    def operations(self, table: str) -> str:
        return "".join(row["_op"] for row in self.log(table))

    def source_rows(self, table: str, where: str = "true", names: Sequence[str] | None = None) -> list[tuple]:
        """The source's rows, every value as PostgreSQL prints it."""
        with closing(psycopg.connect(self.settings.variable("SHOP_OWNER_DSN"), options=OPTIONS)) as connection:
            return _as_text(connection, table, names or self.names(table), where)

    def names(self, table: str) -> list[str]:
        return [row[0] for row in self.db.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " order by attnum", [table])]

    def apply(self, table: str) -> None:
        compact(self.lake, table, DAY, first_day=DAY)
        raw.apply(self.warehouse, self.lake, table, [DAY], first_day=DAY)

    def raw_rows(self, table: str, names: Sequence[str]) -> list[tuple]:
        name = f"raw.shop__{table}"
        rows = self.warehouse.execute("select to_regclass(%s)::text", [f"{name}__rows"]).fetchone()
        if rows != (None,):
            return _as_text(self.warehouse, f"{name}__rows", names, "true")
        return _as_text(self.warehouse, name, names, "not _deleted")

    def state_rows(self, table: str, names: Sequence[str]) -> list[tuple]:
        """The folded state, printed by the source's own types: in goes what the fold holds, out comes text."""
        state = state_at(self.lake, table, DAY, first_day=DAY)
        kinds = dict(self.db.execute("select attname, format_type(atttypid, atttypmod) from pg_attribute"
                                     " where attrelid = %s::regclass and attnum > 0 and not attisdropped", [table]))
        cells = []
        for name in names:
            texts = values.text(state[name].combine_chunks())
            if values.exact(name) in state.column_names:
                texts = pa.compute.coalesce(state[values.exact(name)].combine_chunks(), texts)
            cells.append(texts.to_pylist())
        with closing(psycopg.connect(self.settings.variable("SHOP_OWNER_DSN"), options=OPTIONS)) as connection:
            picks = ", ".join(f"(%s::text)::{kinds[name]}::text" for name in names)
            return sorted((connection.execute(f"select {picks}", row).fetchone()
                           for row in zip(*cells, strict=True)), key=_order) if state.num_rows else []

    def agree(self, *tables: str, where: str = "true", names: Sequence[str] | None = None) -> CaptureReport:
        """Capture, fold, apply: log, state and raw must hold what the source holds, as text."""
        report = self.capture()
        for table in tables:
            self.judge(table, where=where, names=names)
        return report

    def judge(self, table: str, *, where: str = "true", names: Sequence[str] | None = None) -> None:
        """Fold and apply what is captured: state and raw must hold what the source holds, as text."""
        shown = names or self.names(table)
        expected = self.source_rows(table, where, shown)
        self.apply(table)
        assert self.raw_rows(table, shown) == expected, table
        assert self.state_rows(table, shown) == expected, table


def _as_text(connection: psycopg.Connection, table: str, names: Sequence[str], where: str) -> list[tuple]:
    listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
    rows = connection.execute(sql.SQL("select {} from {} where {}").format(
        listed, sql.SQL(table), sql.SQL(where))).fetchall()
    return sorted(rows, key=_order)


def _order(row: tuple) -> list[tuple[bool, str]]:
    return [(cell is None, cell or "") for cell in row]
