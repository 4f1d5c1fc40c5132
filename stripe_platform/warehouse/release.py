"""Quarantined keys of raw: what stands there, and applying them again from the lake once their cause is mended."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from resources.lake import Lake
from stripe_platform.cdc import catalogue, fold
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import gather, joined
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.cdc.quarantined import REMEDY, in_raw
from stripe_platform.warehouse import quarantine, raw, raw_tables
from stripe_platform.warehouse.stream import by_day, streamed


def listing(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """Every entry: store, table, key (hash, and the id where it is a random one), place in the log, rule, remedy."""
    if conn.execute("select to_regclass('raw._quarantine')").fetchone() == (None,):
        return []
    return [{"store": "raw", "table": table, "key_hash": name, "id": shown, "source": source, "epoch": epoch,
             "commit_lsn": lsn_text(lsn), "ord": order, "rule": rule, "remedy": REMEDY}
            for table, name, shown, source, epoch, lsn, order, rule in conn.execute(
                "select table_name, key_hash, id, source, epoch, commit_lsn, ord, rule from raw._quarantine"
                " order by table_name, commit_lsn, ord")]


def retry(conn: psycopg.Connection, lake: Lake, first_day: dt.date) -> int:
    """Apply the whole history of every quarantined key of a source again; entries closed.

    `lake`: the source's. Each table is one transaction; what is refused still stays as it is.
    """
    chain, closed = Chain.load(lake), 0
    for table in catalogue.tables(chain):
        run = raw.run_of(lake, chain, table)
        before = in_raw(conn).get(run.name, 0)
        if not before:
            continue
        with conn.transaction():
            conn.execute("select pg_advisory_xact_lock(hashtext('raw'), hashtext(%s))", [run.name])
            history = _history(conn, run, chain, first_day)
            if history is not None:
                raw.take(conn, run, history)
        closed += before - in_raw(conn).get(run.name, 0)
    return closed


def _history(conn: psycopg.Connection, run: raw.Run, chain: Chain, first_day: dt.date) -> pa.Table | None:
    """What the log says of the quarantined keys, and of those they had before, as far as raw has applied it."""
    applied = {row[0] for row in conn.execute("select day from raw._applied where table_name = %s", [run.name])}
    parts = [(day, dailies.read_changes(run.lake, found)) for day in sorted(applied)
             if (found := dailies.read(run.lake, run.table, day)) is not None and found.rows]
    seq = streamed(conn, chain.manifests[-1].source).seq
    later = [m for m, day in zip(chain.manifests, chain.days, strict=True)
             if m.seq <= seq and (day or chain.open_day(first_day)) not in applied]
    parts += [(day, gather(run.lake, run.table, files, chain))
              for day, files in by_day(chain, run.table, later, first_day)]
    if not parts:
        return None
    changes = joined([part.append_column("_ledger_day", pa.repeat(pa.scalar(day), part.num_rows))
                      for day, part in parts])
    target = run.follower.target(conn) if run.follower else raw_tables.declared(run.table)
    return None if target is None else _of_keys(changes, target, set(quarantine.entries(conn, run.name)))


def _of_keys(changes: pa.Table, target: raw_tables.Target, wanted: set[str]) -> pa.Table:
    """Changes of these keys and of those they were renamed from, and truncations."""
    mine, ops = quarantine.hashes(target, changes), changes["_op"].to_pylist()
    stamps = list(zip(*(changes[name].to_pylist() for name in fold.FENCE), strict=True))
    deleted = {stamp: name for stamp, name, op in zip(stamps, mine, ops, strict=True) if op == "d"}
    partial = pc.greater(pc.list_value_length(changes["_unchanged"]), 0).to_pylist()
    came_from = [(name, deleted[before]) for (epoch, lsn, order), name, op, left_out in zip(
        stamps, mine, ops, partial, strict=True)
        if op == "c" and left_out and (before := (epoch, lsn, order - 1)) in deleted]
    while more := {old for new, old in came_from if new in wanted} - wanted:
        wanted |= more
    return changes.filter(pa.array([op == "t" or name in wanted for op, name in zip(ops, mine, strict=True)]))
