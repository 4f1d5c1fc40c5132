"""Level C as a check: at one position of its log a captured table equals what the log folds to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from asset_checks.judge import ROWS
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cdc.manifest import batch_numbers
from stripe_platform.cdc.proof import Kind
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.cdc.source import Source
from stripe_platform.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

SAYS = "At one position of the log the source's rows and the log's fold are the same, by key and content."
RULES = (equal("rows_at_the_source", "rows_of_the_log"), *none_of("unreadable_logs", *get_args(Kind)))
FLOORS = {"batches_read": 1}  # an empty log proves nothing; a table may be empty
COUNTS = (ROWS, "rows_at_the_source", "rows_of_the_log", "batches_read", "unreadable_logs", *get_args(Kind))


def proofs(source: Source, stores: Stores, tables: Sequence[str]) -> pd.DataFrame:
    """Counts by table: of what changed since its last proof, of every row when its week is over."""
    settings = load_settings()
    lake = source.lake(settings, stores.lake())
    batches_read = len(batch_numbers(lake))
    if not batches_read:
        return frame({table: dict.fromkeys(COUNTS, 0) for table in tables})
    proof = reconcile(settings, source=source, lake=lake, tables=tables, whole=False)
    return frame({each.table: {
        ROWS: each.total, "rows_at_the_source": each.rows, "rows_of_the_log": each.rows_of_log,
        "batches_read": batches_read, "unreadable_logs": int(each.problem is not None),
        **{kind: each.counts.get(kind, 0) for kind in get_args(Kind)}} for each in proof.tables})
