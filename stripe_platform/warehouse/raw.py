"""Raw tables: the OLTP's rows as the change log leaves them, applied behind a fence.

A change wins only over an older one: (epoch, commit LSN, ordinal) decides, in the transaction that also records the
day as applied. So a repeated, killed or stale apply changes nothing that is newer. Deleted rows stay as tombstones.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from resources.lake import Lake
from stripe_platform import progress
from stripe_platform.cdc import catalogue, fold
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.columns import EXACT, FENCE, is_own, text
from stripe_platform.cdc.compact import joined, sort_by_key
from stripe_platform.cdc.daily import Daily, NotContiguousError
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.cdc.quarantined import in_raw
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import quarantine, raw_tables
from stripe_platform.warehouse.raw_copy import copy_rows, with_fence
from stripe_platform.warehouse.raw_tables import Target

CHUNK_ROWS = 400_000
FEW = 2_000  # rows that travel in a statement: staging them would write the server's catalogue each time
ANALYZE_FROM = 5_000  # rows; the planner's first statistics decide how marts join
_APPLIED = """
create table if not exists raw._applied (
    table_name text not null,
    day date not null,
    digest text not null,
    rows bigint not null,
    through_seq bigint not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (table_name, day)
)"""


class UnknownStateError(RuntimeError):
    """An update left values out and no earlier state of its row is known; nothing of the chunk was applied."""


@dataclass
class ApplyReport:
    """What an apply did. `rows`: changes by day; `days`: days applied now; the others stood already.

    `unheld`: values that the warehouse's types cannot hold, null there and exact in the lake; PostgreSQL holds all.
    `quarantined`: keys of the table that are put aside now.
    """

    table: str
    days: list[dt.date] = field(default_factory=list)
    rows: dict[dt.date, int] = field(default_factory=dict)
    through_seq: dict[dt.date, int] = field(default_factory=dict)
    keys: int = 0
    total: int = 0
    unheld: int = 0
    quarantined: int = 0
    seconds: float = 0.0


def columns_of(table: str) -> list[tuple[str, str]]:
    """(name, PostgreSQL type) of a declared raw table's own columns: those of the OLTP without its ciphertext."""
    return list(raw_tables.declared(table).columns)


# Where the changes belong, the changes, and whether a truncation takes them at once.
_Part = tuple[Target, pa.Table | fold.Truncation, bool]


@dataclass(frozen=True)
class Run:
    """One table's way into raw. `follower`: of a table that only the change log describes."""

    lake: Lake
    table: str
    name: str
    follower: raw_tables.Follower | None

    def parts(self, conn: psycopg.Connection, changes: pa.Table) -> Iterator[_Part]:
        """Changes with the raw table they belong in, which is brought along where the source changed its columns.

        Each part must be applied before the next is asked for: that may change the table.
        """
        if self.follower is None:
            for part, doomed in fold.doomed(fold.segments(changes)):
                yield raw_tables.declared(self.table), part, doomed
            return
        for version, rows in self.follower.path.stretches(changes):
            target, carried = self.follower.bring(conn, version, rows)
            for part, doomed in fold.doomed(fold.segments(carried) if target.key else [carried]):
                yield target, part, doomed


def run_of(lake: Lake, chain: Chain, table: str) -> Run:
    """A table's way into raw, as this chain describes it."""
    known = catalogue.is_declared(chain, table)
    return Run(lake, table, raw_tables.name_of(chain, table),
               None if known else raw_tables.Follower(lake, chain, table))


def apply(conn: psycopg.Connection, lake: Lake, table: str, days: Sequence[dt.date], *, chain: Chain | None = None,
          first_day: dt.date | None = None, reapply: bool = False) -> ApplyReport:
    """Bring ledger days of one table into `raw`; days that stand already are left alone.

    `reapply` mends spoilt rows: it writes standing days again and removes rows of these days that no change made.
    `conn`: PostgreSQL warehouse; each chunk of days is one transaction with its fence rows.
    Raises `NotContiguousError` when a day, or one before it, is not complete in the lake or not applied yet.
    """
    begun = time.monotonic()
    chain = chain or Chain.load(lake)
    first_day = first_day or load_settings().first_day
    run = run_of(lake, chain, table)
    wanted = [dailies.current(lake, chain, table, day, first_day) for day in sorted(days)]
    report = ApplyReport(table, rows={d.day: d.rows for d in wanted},
                         through_seq={d.day: d.through_seq for d in wanted})
    with conn.transaction():  # one of its own, so that each chunk below commits by itself
        create(conn, run)
        standing = _applied(conn, run.name)
    if wanted:
        refuse_gaps(standing, chain, table, wanted[0].day, first_day)
    pending = wanted if reapply else [d for d in wanted if standing.get(d.day) != d.digest]
    with _bar(table, sum(d.rows for d in pending)) as advance:
        for chunk in chunks(pending):
            with conn.transaction():
                report.keys += _mend_chunk(conn, run, chunk, standing) if reapply else _apply_chunk(conn, run, chunk)
            report.days += [d.day for d in chunk]
            advance(sum(d.rows for d in chunk))
    if sum(d.rows for d in pending) >= ANALYZE_FROM:
        with conn.transaction():
            conn.execute(sql.SQL("analyze {}").format(sql.Identifier("raw", run.name)))
    report.total = count(conn, run.name) if run.follower is None else _count_followed(conn, run.follower)
    report.quarantined = in_raw(conn).get(run.name, 0)
    report.seconds = time.monotonic() - begun
    return report


def _bar(table: str, rows: int) -> AbstractContextManager[Callable[[float], None]]:
    """A bar for what takes a while: fifty small tables would hide it."""
    if rows < CHUNK_ROWS // 100:
        return nullcontext(lambda _rows: None)
    return progress.stage(f"apply raw/{table}", rows)


def count(conn: psycopg.Connection, table: str) -> int:
    """Rows of a raw table that are not deleted."""
    row = conn.execute(sql.SQL("select count(*) from {} where not _deleted").format(
        sql.Identifier("raw", table))).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always gives one row
    return int(row[0])


def create(conn: psycopg.Connection, run: Run) -> None:
    """What `raw` needs before its first rows; a declared table that stands gets the columns of later migrations."""
    conn.execute("select pg_advisory_xact_lock(hashtext('raw'), hashtext(%s))", [run.name])
    standing = {row[0] for row in conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [f"raw.{run.name}"])} if run.follower is None else set()
    if standing:
        target = raw_tables.declared(run.table)
        for column, kind in target.columns:
            if column not in standing:
                conn.execute(sql.SQL("alter table {} add column {} {}").format(
                    target.identifier, sql.Identifier(column), sql.SQL(kind)))
    else:
        conn.execute("select pg_advisory_xact_lock(hashtext('raw'), 0)")
        raw_tables.prepare(conn)
        conn.execute(_APPLIED)
        if run.follower is None:
            raw_tables.create(conn, raw_tables.declared(run.table))
    quarantine.prepare(conn)


def _applied(conn: psycopg.Connection, table: str) -> dict[dt.date, str]:
    return dict(conn.execute("select day, digest from raw._applied where table_name = %s", [table]).fetchall())


def refuse_gaps(standing: dict[dt.date, str], chain: Chain, table: str, first: dt.date, first_day: dt.date) -> None:
    """Every earlier day with changes must stand: an update's unchanged values come from the days before it."""
    for day in dict.fromkeys(day for day in chain.closed if day < first):
        expected = dailies.sources_of(chain, table, day, first_day)
        if expected and standing.get(day) != dailies.digest_of(table, day, expected):
            raise NotContiguousError(
                f"raw/{table} of {first} needs the days before it, {day} is not applied: materialize raw/{table}"
                f" for {day}..{first}")


def chunks(pending: Sequence[Daily]) -> Iterator[list[Daily]]:
    chunk: list[Daily] = []
    for day in pending:
        if chunk and sum(d.rows for d in chunk) + day.rows > CHUNK_ROWS:
            yield chunk
            chunk = []
        chunk.append(day)
    if chunk:
        yield chunk


def _count_followed(conn: psycopg.Connection, follower: raw_tables.Follower) -> int:
    target = follower.target(conn)
    if target is None:
        return 0
    if target.key:
        return count(conn, target.name)
    row = conn.execute(sql.SQL("select count(*) from {}").format(
        sql.Identifier("raw", f"{target.name}__rows"))).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always gives one row
    return int(row[0])


def _apply_chunk(conn: psycopg.Connection, run: Run, chunk: Sequence[Daily]) -> int:
    changes = changes_of(run, chunk)
    applied = take(conn, run, changes)
    _record(conn, run.name, chunk)
    return applied


def take(conn: psycopg.Connection, run: Run, changes: pa.Table | None, *, trusting: bool = False) -> int:
    """Apply changes of a table, which carry their ledger day, in the caller's transaction; keys written.

    Keys that the table refuses are put aside, see `quarantine`. `trusting`: the caller begins again without it
    when one is refused; that saves the savepoint.
    """
    conn.execute("select pg_advisory_xact_lock(hashtext('raw'), hashtext(%s))", [run.name])
    trusting = trusting and not quarantine.entries(conn, run.name)
    parts = run.parts(conn, without_ciphertext(changes)) if changes is not None else ()
    return sum(_take_part(conn, target, part, doomed=doomed, trusting=trusting) for target, part, doomed in parts)


def _take_part(conn: psycopg.Connection, target: Target, part: pa.Table | fold.Truncation, *, doomed: bool,
               mend: bool = False, trusting: bool = False) -> int:
    if isinstance(part, fold.Truncation):
        _truncate(conn, target, part)
        quarantine.close_before(conn, target.name, part.fence)
        return 0
    if not part.num_rows:
        return 0

    def write(rows: pa.Table, origins: sql.Identifier | None) -> int:
        if not target.key:
            return _log(conn, target, rows)
        return _merge(conn, target, rows, mend=mend, doomed=doomed, origins=origins)

    if trusting:
        return write(collapsed(target, part) if target.key else part, None)
    return quarantine.merge(conn, target, part, write, doomed=doomed)


def _mend_chunk(conn: psycopg.Connection, run: Run, chunk: Sequence[Daily], standing: Iterable[dt.date]) -> int:
    """Apply days anew over rows that may be spoilt: they lose against their own identity, and lend no value."""
    conn.execute("select pg_advisory_xact_lock(hashtext('raw'), hashtext(%s))", [run.name])
    days = [d.day for d in chunk]
    changes = changes_of(run, chunk)
    if changes is not None and pc.any(pc.greater(pc.list_value_length(changes["_unchanged"]), 0)).as_py():
        # What these changes left out stands in earlier ones; the rows as they stand are not to be trusted.
        earlier = (dailies.read(run.lake, run.table, day) for day in sorted(standing) if day < days[0])
        changes = changes_of(run, [*(d for d in earlier if d is not None), *chunk])
    parts = list(run.parts(conn, changes)) if changes is not None else []
    made = [collapsed(target, part) if target.key else part
            for target, part, _doomed in parts if isinstance(part, pa.Table)]
    if parts and len(made) == len(parts):  # rows that a truncation marked have its identity, not a change's
        _remove_strangers(conn, parts[-1][0], days, made)
    applied = sum(_take_part(conn, target, part, doomed=doomed, mend=True) for target, part, doomed in parts)
    _record(conn, run.name, chunk)
    return applied


def _remove_strangers(conn: psycopg.Connection, table: Target, days: list[dt.date], made: Sequence[pa.Table]) -> None:
    """Delete rows of these ledger days whose key and identity no change of them has."""
    own = [*table.key, *FENCE]
    target, every = table.identifier, sql.SQL(", ").join(map(sql.Identifier, own))
    conn.execute(sql.SQL("create temp table _made on commit drop as select {} from {} limit 0").format(every, target))
    for rows in made:
        copy_rows(conn, sql.Identifier("_made"), rows.select(own))
    same = sql.SQL(" and ").join(sql.SQL("t.{0} = m.{0}").format(sql.Identifier(name)) for name in own)
    conn.execute(sql.SQL(
        "delete from {} t where _ledger_day = any(%s::date[]) and not exists (select from _made m where {})").format(
        target, same), [days])
    conn.execute("drop table _made")


def collapsed(target: Target, changes: pa.Table) -> pa.Table:
    return fold.collapse(sort_by_key(changes, target.key), target.key)


def changes_of(run: Run, days: Sequence[Daily]) -> pa.Table | None:
    """Changes of these days with their ledger day, without ciphertext; None where there are none."""
    parts = []
    for day in days:
        if day.rows:
            read = without_ciphertext(dailies.read_changes(run.lake, day))
            parts.append(read.append_column("_ledger_day", pa.repeat(pa.scalar(day.day), read.num_rows)))
    return joined(parts) if parts else None


def without_ciphertext(rows: pa.Table) -> pa.Table:
    hidden = [n for n in rows.column_names if n.removesuffix(EXACT).endswith(catalogue.CIPHERTEXT)]
    if not hidden:
        return rows
    rows = rows.drop_columns(hidden)
    lists = rows["_unchanged"]
    if pc.any(pc.is_in(pc.list_flatten(lists), pa.array(hidden, pa.string()))).as_py():
        kept = [[name for name in names if name not in hidden] for names in lists.to_pylist()]
        rows = rows.set_column(rows.column_names.index("_unchanged"), "_unchanged",
                               pa.array(kept, pa.list_(pa.string())))
    return rows


def _record(conn: psycopg.Connection, table: str, chunk: Sequence[Daily]) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into raw._applied (table_name, day, digest, rows, through_seq) values (%s, %s, %s, %s, %s)"
            " on conflict (table_name, day) do update set digest = excluded.digest, rows = excluded.rows,"
            " through_seq = excluded.through_seq, applied_at = excluded.applied_at",
            [(table, d.day, d.digest, d.rows, d.through_seq) for d in chunk])


def _log(conn: psycopg.Connection, target: Target, changes: pa.Table) -> int:
    """Keep every change of a table without a key; one that is there already changes nothing."""
    rows = with_fence(changes, target.names).append_column("_op", changes["_op"])
    stage = sql.Identifier("_logged")
    conn.execute(sql.SQL("create temp table _logged (like {}) on commit drop").format(target.identifier))
    copy_rows(conn, stage, rows)
    done = conn.execute(sql.SQL("insert into {} ({names}) select {names} from _logged on conflict do nothing").format(
        target.identifier, names=sql.SQL(", ").join(map(sql.Identifier, rows.column_names))))
    conn.execute("drop table _logged")
    return done.rowcount


def _truncate(conn: psycopg.Connection, target: Target, cut: fold.Truncation) -> None:
    conn.execute(sql.SQL(
        "update {} set _deleted = true, _epoch = %(e)s, _commit_lsn = %(l)s, _ord = %(o)s, _ledger_day = %(d)s"
        " where not _deleted and (_epoch, _commit_lsn, _ord) < (%(e)s, %(l)s, %(o)s)").format(
        target.identifier),
        {"e": cut.fence[0], "l": cut.fence[1], "o": cut.fence[2], "d": cut.row["_ledger_day"]})


def _merge(conn: psycopg.Connection, table: Target, newest: pa.Table, *, mend: bool = False, doomed: bool = False,
           origins: sql.Identifier | None = None) -> int:
    """Put the newest state of each key behind the fence; rows above the highest known key cannot conflict.

    `mend`: a state overwrites the row of its own identity too. `doomed`: a truncation takes these rows at once.
    `origins`: where the values are that states leave out, if not in the table as it stands.
    """
    key, target, applied = table.key, table.identifier, newest.num_rows
    gone = _deleted_unseen(newest, key)
    if pc.any(gone).as_py():
        _retire(conn, table, newest.filter(gone), mend=mend)
        newest = newest.filter(pc.invert(gone))
    rows = with_fence(newest, table.names)
    pending = pc.greater(pc.list_value_length(newest[fold.PENDING]), 0)
    if _are_few(table, rows) and not pc.any(pending).as_py():
        _upsert(conn, *_given(table, rows), target, key, rows.column_names, mend=mend)
        return applied
    fresh = None
    first = conn.execute(sql.SQL("select 1 from {} limit 1").format(target)).fetchone() is None
    if not pc.any(pending).as_py():
        fresh = pa.repeat(pa.scalar(True), rows.num_rows) if first else _beyond(conn, table, newest)
    if fresh is not None:
        copy_rows(conn, target, rows.filter(fresh), first=first)
        rows, newest = rows.filter(pc.invert(fresh)), newest.filter(pc.invert(fresh))
    if rows.num_rows:
        stage = _staged(conn, table, rows)
        if pc.any(pending).as_py():
            _resolve(conn, table.name, stage, origins or target, key, newest.filter(pending), doomed=doomed)
        _upsert(conn, stage, {}, target, key, rows.column_names, mend=mend)
        conn.execute(sql.SQL("drop table {}").format(stage))
    return applied


_KINDS = {"_source": "text", "_epoch": "text", "_commit_lsn": "bigint", "_ord": "bigint", "_deleted": "boolean",
          "_ledger_day": "date"}  # fmt: skip


def _are_few(table: Target, rows: pa.Table) -> bool:
    """Whether rows travel in the statement; where names hold a percent sign they cannot, it marks a parameter."""
    return rows.num_rows <= FEW and not any("%" in name for name in (table.name, *rows.column_names))


def _given(table: Target, rows: pa.Table) -> tuple[sql.Composed, dict[str, list[str | None]]]:
    """Rows as a relation of the statement itself, with the parameters it needs: one list of texts per column."""
    names = rows.column_names
    casts = [sql.SQL("{}::{} as {}").format(sql.Identifier(f"c{n}"), sql.SQL(_KINDS.get(name) or table.kind(name)),
                                            sql.Identifier(name)) for n, name in enumerate(names)]
    relation = sql.SQL("(select {} from unnest({}) as u ({}))").format(
        sql.SQL(", ").join(casts),
        sql.SQL(", ").join(sql.SQL("{}::text[]").format(sql.Placeholder(f"c{n}")) for n in range(len(names))),
        sql.SQL(", ").join(sql.Identifier(f"c{n}") for n in range(len(names))))
    return relation, {f"c{n}": text(rows[name].combine_chunks()).to_pylist() for n, name in enumerate(names)}


def _deleted_unseen(newest: pa.Table, key: Sequence[str]) -> pa.ChunkedArray:
    """Which keys were deleted without any other change in the chunk: all their values stand in the table already."""
    left = pc.list_value_length(newest[fold.PENDING])
    values = sum(is_own(name) and name not in key for name in newest.column_names)
    whole = pc.and_(pc.equal(newest["_op"], "d"), pc.equal(left, values))
    return pc.and_(whole, pc.equal(fold.key_text(newest, key), fold.key_text(newest, [f"_from_{k}" for k in key])))


def _retire(conn: psycopg.Connection, table: Target, deleted: pa.Table, *, mend: bool) -> None:
    """Mark rows as deleted where they stand, with the values they had; keys never seen become bare tombstones."""
    rows, target = with_fence(deleted, list(table.key)), table.identifier
    few = _are_few(table, rows)
    stage: sql.Composable
    if few:
        stage, values = _given(table, rows)
    else:
        stage, values = _staged(conn, table, rows), {}
    fence = [name for name in rows.column_names if name not in table.key]
    same = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(k)) for k in table.key)
    conn.execute(sql.SQL(
        "update {} t set {} from {} s where {} and (s._epoch, s._commit_lsn, s._ord) {}"
        " (t._epoch, t._commit_lsn, t._ord)").format(
        target, sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(n)) for n in fence), stage, same,
        sql.SQL(">=" if mend else ">")), values or None)
    every = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    conn.execute(sql.SQL("insert into {} ({}) select {} from {} s where not exists (select from {} t where {})").format(
        target, every, every, stage, target, same), values or None)
    if not few:
        conn.execute(sql.SQL("drop table {}").format(stage))


def _staged(conn: psycopg.Connection, table: Target, rows: pa.Table) -> sql.Identifier:
    stage = _new_stage(conn, table)
    copy_rows(conn, stage, rows)
    return stage


def _new_stage(conn: psycopg.Connection, table: Target) -> sql.Identifier:
    """An empty unlogged table with the target's columns: what is staged is staged again after a crash."""
    stage = sql.Identifier("raw", f"_stage_{table.name}")
    conn.execute(sql.SQL("create unlogged table if not exists {} (like {})").format(stage, table.identifier))
    conn.execute(sql.SQL("truncate {}").format(stage))
    return stage


def _beyond(conn: psycopg.Connection, target: Target, newest: pa.Table) -> pa.Array | None:
    """Which rows have keys above every key in the table; None when that is not decidable."""
    key = target.key
    if len(key) > 1 or target.kind(key[0]) != "text" or newest.schema.field(key[0]).type != pa.string():
        return None
    highest = conn.execute(sql.SQL("select max({}) from {}").format(
        sql.Identifier(key[0]), target.identifier)).fetchone()
    assert highest is not None  # noqa: S101 - an aggregate always gives one row
    return pc.greater(newest[key[0]], highest[0])  # both sides compare bytes: the key's collation is "C"


def _resolve(conn: psycopg.Connection, table: str, stage: sql.Identifier, target: sql.Identifier, key: Sequence[str],
             pending: pa.Table, *, doomed: bool) -> None:
    """Fill values that changes left out from the rows as they stand, found under the key they had then."""
    origins = [f"_from_{name}" for name in key]
    wanted = set(pc.list_flatten(pending[fold.PENDING]).unique().to_pylist())
    lists = pending[fold.PENDING].to_pylist()
    marks = pa.table({name: pending[name] for name in (*key, *origins)} | {
        f"_left_{n}": [name in left for left in lists] for n, name in enumerate(sorted(wanted))})
    own = sql.SQL(", ").join(map(sql.Identifier, key))
    conn.execute(sql.SQL("create temp table _left on commit drop as select {}, {} from {} limit 0").format(
        own, sql.SQL(", ").join(sql.SQL("{} as {}").format(sql.Identifier(k), sql.Identifier(o))
                                for k, o in zip(key, origins, strict=True)), target))
    for n in range(len(wanted)):
        conn.execute(sql.SQL("alter table _left add column {} boolean").format(sql.Identifier(f"_left_{n}")))
    copy_rows(conn, sql.Identifier("_left"), marks)
    assign = sql.SQL(", ").join(
        sql.SQL("{c} = case when l.{m} then t.{c} else s.{c} end").format(
            c=sql.Identifier(name), m=sql.Identifier(f"_left_{n}")) for n, name in enumerate(sorted(wanted)))
    same = sql.SQL(" and ").join(sql.SQL("s.{0} = l.{0}").format(sql.Identifier(k)) for k in key)
    origin = sql.SQL(" and ").join(sql.SQL("t.{} = l.{}").format(sql.Identifier(k), sql.Identifier(o))
                                   for k, o in zip(key, origins, strict=True))
    conn.execute(sql.SQL("update {} s set {} from _left l join {} t on {} where {}").format(
        stage, assign, target, origin, same))
    orphan = conn.execute(sql.SQL(
        "select s._commit_lsn, s._ord from {} s join _left l on {} left join {} t on {}"
        " where t._epoch is null and not s._deleted limit 1").format(stage, same, target, origin)).fetchone()
    conn.execute("drop table _left")
    if orphan is not None and not doomed:
        raise UnknownStateError(
            f"raw/{table}: the change at LSN {lsn_text(orphan[0])}, ordinal {orphan[1]}, leaves values out and"
            " no earlier state of its row is known: load the table's state from before the slot was made")


def _upsert(conn: psycopg.Connection, stage: sql.Composable, values: dict[str, list[str | None]],
            target: sql.Identifier, key: Sequence[str], names: Sequence[str], *, mend: bool) -> None:
    every = sql.SQL(", ").join(map(sql.Identifier, names))
    assign = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(n)) for n in names if n not in key)
    conn.execute(sql.SQL(
        "insert into {} as t ({}) select {} from {} s on conflict ({}) do update set {}"
        " where (excluded._epoch, excluded._commit_lsn, excluded._ord) {} (t._epoch, t._commit_lsn, t._ord)").format(
        target, every, every, stage, sql.SQL(", ").join(map(sql.Identifier, key)), assign,
        sql.SQL(">=" if mend else ">")), values or None)
