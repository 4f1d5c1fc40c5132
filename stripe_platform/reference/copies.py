"""Applies captured batches of the reference to its copies in the payments database.

One batch, one transaction: the copies' rows and the fence (`ops.copied`) commit together. A batch that comes again is
behind the fence and does nothing; one that is missing is an error, not a hole. Caches of look-ups hear of the change
as of any other of these tables, from their triggers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from resources.lake import Lake, LakeError
from stripe_platform.cdc import fold, segments
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.compact import in_commit_order, read_batch_file, sort_by_key
from stripe_platform.cdc.daily import Source as BatchFileOf
from stripe_platform.cdc.manifest import Manifest
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.oltp.copies import COPIES, Copy
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import Settings

ROWS = 5_000  # in one statement
PATIENCE = "60s"  # with whoever holds a row; nothing that waits for a sync may hold one
_UPSERT = sql.SQL(
    "insert into {table} as t ({names}) select {names} from json_populate_recordset(null::{table}, %s::json)"
    " on conflict ({key}) do update set {sets} where ({old}) is distinct from ({new})")
_UPDATE = sql.SQL(
    "update {table} t set {sets} from json_populate_recordset(null::{table}, %s::json) r"
    " where {same} and ({old}) is distinct from ({new})")
_RETIRE = sql.SQL(
    "update {table} t set deleted = true from json_populate_recordset(null::{table}, %s::json) r"
    " where {same} and not t.deleted")
_DELETE = sql.SQL("delete from {table} t using json_populate_recordset(null::{table}, %s::json) r where {same}")
_LOCK = 7_220_004  # advisory lock of the copier; any constant that no other part uses


class CopyError(RuntimeError):
    """The copies cannot follow the reference; the message names the batch and the remedy."""


@dataclass(frozen=True)
class Position:
    """How far the copies are: the newest change in them and the batch it came in."""

    seq: int
    digest: str
    epoch: str
    commit_lsn: int
    ordinal: int

    @property
    def fence(self) -> tuple[str, int, int]:
        return self.epoch, self.commit_lsn, self.ordinal

    def __str__(self) -> str:
        return f"{self.epoch} {lsn_text(self.commit_lsn)}/{self.ordinal}"


@dataclass
class CopyReport:
    """What one call applied: batches, and rows of the copies that changed by table."""

    batches: list[int] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    position: Position | None = None


def copy(settings: Settings, lake: Lake) -> CopyReport:
    """Apply every batch that the copies lack, in order. `lake`: the reference's part of it."""
    report = CopyReport()
    with psycopg.connect(settings.need("reference_copier_dsn"), autocommit=True, options="-c timezone=UTC",
                         application_name="stripe_platform_copier") as conn:
        while True:
            with conn.transaction():
                conn.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(PATIENCE)))
                conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
                report.position = position(conn)
                batch = _next(lake, report.position)
                if batch is None:
                    return report
                changed = _apply(conn, lake, batch, report.position)
            report.batches.append(batch.seq)
            for table, rows in changed.items():
                report.rows[table] = report.rows.get(table, 0) + rows


def position(conn: psycopg.Connection) -> Position | None:
    """Where the copies stand; None before the first batch."""
    row = conn.execute("select seq, digest, epoch, commit_lsn, ordinal from ops.copied where source = %s",
                       [REFERENCE.name]).fetchone()
    return Position(*row) if row else None


def behind(conn: psycopg.Connection, lake: Lake) -> int:
    """Captured batches that the copies lack."""
    known = position(conn)
    return segments.newest(lake) - (known.seq if known else 0)


def _next(lake: Lake, known: Position | None) -> Manifest | None:
    """The batch that follows what is copied; `CopyError` where the log does not go on from there."""
    seq = known.seq if known else 0
    try:
        batch = manifests.read(lake, seq + 1)
    except LakeError:
        if segments.newest(lake) == seq:
            return None
        raise CopyError(f"the reference's change log does not follow batch {seq}, which is the last one copied: restore"
                        " its manifests from a backup") from None
    if batch.previous != (known.digest if known else None):
        raise CopyError(f"batch {batch.seq} of the reference does not follow the one that was copied before it (its"
                        " hash differs): restore the reference's part of the lake from a backup")
    return batch


def _apply(conn: psycopg.Connection, lake: Lake, batch: Manifest, known: Position | None) -> dict[str, int]:
    """Bring one batch into the copies; rows changed by table."""
    changes = {table: part for table in REFERENCE.tables if (part := changes_of(lake, batch, table, known)) is not None}
    changed: dict[str, int] = {}
    for each in COPIES:  # parents first, final values: what a whole transaction left is sound
        if each.origin in changes:
            key = REFERENCE.tables[each.origin]
            rows = fold.collapse(sort_by_key(changes[each.origin], key), key)
            gone = pc.equal(rows["_op"], "d")
            try:
                count = _remove(conn, each, rows.filter(gone)) + _write(conn, each, rows.filter(pc.invert(gone)))
            except psycopg.errors.LockNotAvailable:
                raise CopyError(f"rows of oltp.{each.table} were held by another transaction for {PATIENCE}: let it"
                                " end, then sync again; who holds a row must not wait for a sync") from None
            except psycopg.errors.IntegrityError as error:  # the server's text shows the row: only the rule travels on
                rule = error.diag.constraint_name or error.diag.column_name or type(error).__name__
                raise CopyError(f"batch {batch.seq} of the reference breaks the rule {rule} of oltp.{each.table}: take"
                                " the rule away there, or add it to the reference before such rows") from None
            if count:
                changed[each.table] = count
    epoch, lsn, ordinal = max((max(_fences(part)) for part in changes.values()),
                              default=known.fence if known else (batch.epoch, batch.from_lsn, 0))
    conn.execute(
        "insert into ops.copied (source, seq, digest, epoch, commit_lsn, ordinal) values (%s, %s, %s, %s, %s, %s)"
        " on conflict (source) do update set seq = excluded.seq, digest = excluded.digest, epoch = excluded.epoch,"
        " commit_lsn = excluded.commit_lsn, ordinal = excluded.ordinal, copied_at = clock_timestamp()",
        [REFERENCE.name, batch.seq, batch.digest, epoch, lsn, ordinal])
    return changed


def changes_of(lake: Lake, batch: Manifest, table: str, known: Position | None = None) -> pa.Table | None:
    """A table's changes of a batch that lie behind the fence, in commit order; None where there are none."""
    files = [BatchFileOf(batch.seq, file.path, file.sha256) for file in batch.files_of(table)]
    if not files:
        return None
    rows = in_commit_order([read_batch_file(lake, file) for file in files], files)
    if pc.any(pc.equal(rows["_op"], "t")).as_py():
        raise CopyError(f"batch {batch.seq} truncates reference.{table}, whose rows are retired one by one: put its"
                        " rows back and start the copies anew")
    if known is not None:
        rows = rows.filter(pa.array([fence > known.fence for fence in _fences(rows)], pa.bool_()))
    return rows if rows.num_rows else None


def _fences(rows: pa.Table) -> list[tuple[str, int, int]]:
    return list(zip(*(rows[name].to_pylist() for name in fold.FENCE), strict=True))


def _remove(conn: psycopg.Connection, each: Copy, rows: pa.Table) -> int:
    """Rows deleted at the source: retired where others may name them, else deleted."""
    return _each(conn, _RETIRE if each.retires else _DELETE, each, each.key, rows)


def _write(conn: psycopg.Connection, each: Copy, rows: pa.Table) -> int:
    """New and changed rows; what stands with the same values is left alone, so that a repeat makes no new change."""
    pending = [tuple(names) for names in rows[fold.PENDING].to_pylist()]
    written = 0
    for left_out in dict.fromkeys(pending):
        mine = rows.filter(pa.array([names == left_out for names in pending], pa.bool_()))
        columns = [target for origin, target in each.columns.items() if origin not in left_out]
        # An update that left out long values it did not change (TOAST): the row stands, and keeps them.
        text, new = (_UPDATE, "r") if left_out else (_UPSERT, "excluded")
        plain = [name for name in columns if name not in each.key]
        sets = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier(new, name)) for name in plain]
        written += _each(conn, text, each, columns, mine, names=_list(columns), key=_list(each.key),
                         sets=sql.SQL(", ").join(sets), old=_list(plain, "t"), new=_list(plain, new))
    return written


def _each(conn: psycopg.Connection, statement: sql.SQL, each: Copy, columns: Sequence[str], rows: pa.Table,
          **parts: sql.Composable) -> int:
    """Run a statement over rows, some thousands at a time, as JSON in the copy's own types."""
    origins = {target: origin for origin, target in each.columns.items()}
    same = sql.SQL(" and ").join(sql.SQL("t.{0} = r.{0}").format(sql.Identifier(name)) for name in each.key)
    composed = statement.format(table=_table(each), same=same, **parts)
    values = rows.select([origins[name] for name in columns]).rename_columns(list(columns)).to_pylist()
    return sum(conn.execute(composed, [json.dumps(values[start:start + ROWS], default=str)]).rowcount
               for start in range(0, len(values), ROWS))


def _table(each: Copy) -> sql.Identifier:
    return sql.Identifier("oltp", each.table)


def _list(names: Sequence[str], relation: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*([relation] if relation else []), name) for name in names)
