"""`stripe-platform cdc verify`: the change log proved whole from its own records.

Level A: manifests form one hash chain, files have the named hashes, the slot is not ahead of what is durable.
Level B: transactions are complete: ordinals 1..n of every commit are there, once, and counts are the manifests'.
Level D: the canaries that were written at the source arrived without a gap.
Beside them: every daily file has its named hash and was made from batches of this chain; where batch files went, the
daily files are those of the record, and stand for them in levels A and B. Level C, equality with the
source, is `reconcile`'s.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake, LakeError
from stripe_platform import progress
from stripe_platform.cdc import batches, retained, segments
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.backfill import unfinished
from stripe_platform.cdc.canary import gaps
from stripe_platform.cdc.capture import durable_position, waiting_canaries
from stripe_platform.cdc.manifest import BatchFile, Chain, ChainError, Manifest, fed_by_a_stream, refuse_other_counts
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.cdc.slot import CaptureError, inspect, refuse_a_foreign_slot, replication
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.settings import Settings

STAMPS = ("_op", "_commit_lsn", "_ord")
TRIES, AGAIN = 3, 0.3  # looks at slot and log, and seconds between them


@dataclass
class VerifyReport:
    """What was checked and what was found; `problems` empty means whole up to `verified_through`."""

    batches: int = 0
    transactions: int = 0
    changes: int = 0
    files: int = 0
    canaries: int = 0
    verified_through: str = "0/0"
    closed_through: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.problems


def verify(settings: Settings, *, lake: Lake | None = None, source: Source = OLTP) -> VerifyReport:
    """Check every batch of a source's log, and its slot where one is configured; problems are named, not raised."""
    lake = lake or source.lake(settings)
    report = VerifyReport()
    try:
        chain = Chain.load(lake)
    except (ChainError, LakeError) as error:
        report.problems.append(str(error))
        return report
    with progress.stage("verify batches", len(chain.manifests)) as advance:
        for manifest in chain.manifests:
            found = problems_of(lake, chain, manifest)
            report.problems += found
            if report.whole:
                report.verified_through = lsn_text(manifest.to_lsn)
                report.closed_through = str(manifest.closes) if manifest.closes else report.closed_through
            report.batches += 1
            report.transactions += manifest.transactions
            report.changes += manifest.changes
            report.files += len(manifest.files)
            advance(1)
    if not chain.manifests:
        report.problems.append("no batch is in the lake, there is nothing to prove: run `stripe-platform cdc capture`,"
                               " or restore the lake from a backup")
    report.problems += _left_over(lake, chain)
    report.problems += [f"{segments.path_of(seq)} differs from what its segment holds of it: restore both from a backup"
                        for seq, same in segments.left_over(lake) if not same]
    report.problems += [f"table {ledger.table} is not wholly taken: run `stripe-platform cdc snapshot` again"
                        for ledger in unfinished(lake)]
    report.problems += retained.problems(lake, chain)
    report.problems += gaps(chain, waiting_canaries(lake))
    report.canaries = sum(last - first + 1 for m in chain.manifests for first, last in m.canaries)
    known = {(m.seq, f.path, f.sha256) for m in chain.manifests for f in m.files}
    made = [path for path in lake.list(dailies.FOLDER) if path.endswith(".json")]
    with progress.stage("verify daily files", len(made)) as advance:
        for path in made:
            report.problems += _daily(lake, known, path)
            advance(1)
    if source.configured(settings) and not fed_by_a_stream(lake):
        report.problems += slot_problems(settings, lake, source)
    return report


def _left_over(lake: Lake, chain: Chain) -> list[str]:
    """A killed capture leaves files of the next batch at most; files beyond it had a manifest once."""
    last = chain.manifests[-1].seq if chain.manifests else 0
    beyond = {seq for path in lake.list(batches.FOLDER) if (seq := int(path.split("/")[2])) > last + 1}
    return [f"batch {seq} has files in the lake and no manifest: restore it from a backup" for seq in sorted(beyond)]


def _daily(lake: Lake, known: set[tuple[int, str, str]], path: str) -> list[str]:
    _, _, table, name = path.split("/")
    day = dt.date.fromisoformat(name.removesuffix(".json"))
    remedy = f"materialize cdc/{table} for {day} again"
    manifest = dailies.read(lake, table, day)
    if manifest is None:
        return [f"{path} cannot be read: {remedy}"]
    if any((source.seq, source.path, source.sha256) not in known for source in manifest.sources):
        return [f"{path} names batch files that are not in the chain: {remedy}"]
    data = dailies.data_path(table, day)
    try:
        if hashlib.sha256(lake.read(data)).hexdigest() != manifest.sha256:
            return [f"{data} is not what its manifest says: {remedy}"]
    except LakeError as error:
        return [f"{error}; or {remedy}"]
    return []


def problems_of(lake: Lake, chain: Chain, manifest: Manifest) -> list[str]:
    """What is wrong with a batch's files: their bytes, their counts, the ordinals of its transactions (levels A, B)."""
    try:
        refuse_other_counts(manifest)
    except ChainError as error:
        return [str(error)]
    stamps: list[pa.Table] = []
    for file in manifest.files:
        try:
            read = _stamps(lake, chain, manifest, file)
        except (ChainError, LakeError) as error:
            return [str(error)]
        problem = _counts(read, file)
        if problem:
            return [problem]
        stamps.append(read)
    return _ordinals(stamps, manifest)


def _stamps(lake: Lake, chain: Chain, manifest: Manifest, file: BatchFile) -> pa.Table:
    """Operation and place of each row of a file that has the named hash, or of the retained rows in its place."""
    try:
        data = lake.read(file.path)
    except LakeError:
        rows = retained.rows_of(lake, chain, file.table, manifest.seq, columns=STAMPS)
        if rows is None:
            raise
        return rows
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ChainError(f"{file.path} is not what its manifest says: restore it from a backup")
    return pq.read_table(pa.BufferReader(data), columns=list(STAMPS))


def _counts(read: pa.Table, file: BatchFile) -> str | None:
    ops = {c["values"]: c["counts"] for c in pc.value_counts(read["_op"]).to_pylist()}
    if read.num_rows != file.rows or ops != file.ops:
        return f"{file.path} holds other operations than its manifest counts: restore both from a backup"
    return None


def _ordinals(stamps: list[pa.Table], manifest: Manifest) -> list[str]:
    """Every ordinal once; the only holes are the calendar's rows, which are in no file."""
    lsn = np.concatenate([t["_commit_lsn"].to_numpy() for t in stamps]) if stamps else np.zeros(0, np.int64)
    ordinal = np.concatenate([t["_ord"].to_numpy() for t in stamps]) if stamps else np.zeros(0, np.int64)
    order = np.lexsort((ordinal, lsn))
    lsn, ordinal = lsn[order], ordinal[order]
    same = lsn[1:] == lsn[:-1]
    if (same & (ordinal[1:] == ordinal[:-1])).any():
        at = lsn[1:][same & (ordinal[1:] == ordinal[:-1])][0]
        return [f"{manifest.path}: a change of the commit at {lsn_text(int(at))} is there twice"]
    if len(ordinal) + manifest.boundaries != manifest.changes:
        return [f"{manifest.path}: {manifest.changes} changes are named, the files hold {len(ordinal)} of them"]
    if not manifest.transactions:  # rows read in a snapshot, before the position it was taken at: of no commit
        return []
    ends = np.append(~same, True) if len(lsn) else np.zeros(0, bool)
    holes = int(ordinal[ends].sum()) - len(ordinal)
    if holes < 0 or holes > manifest.boundaries:
        return [f"{manifest.path}: {holes} ordinals are missing between the first and last change of their commits"]
    if len(lsn) and not manifest.from_lsn <= int(lsn[0]) <= int(lsn[-1]) < manifest.to_lsn:
        return [f"{manifest.path}: a commit lies outside the stretch the batch names"]
    return []


def slot_problems(settings: Settings, lake: Lake, source: Source) -> list[str]:
    """What is wrong between the source's slot and the log: another server, or more acknowledged than is durable."""
    problems: list[str] = []
    for attempt in range(TRIES):
        if attempt:
            time.sleep(AGAIN)
        try:
            epoch, durable = durable_position(lake)
            with replication(settings, source) as connection:
                refuse_a_foreign_slot(epoch, inspect(connection, source.slot_name(settings)), durable)
            return []
        except CaptureError as error:
            problems = [str(error)]  # unless a capture moved both between the two looks
        except psycopg.OperationalError:
            return ["the source does not answer, so its slot cannot be compared: run `stripe-platform up`"]
    return problems
