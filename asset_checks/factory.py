"""The one check factory: declared checks become Dagster asset checks, one step per asset.

The check specs stay unpartitioned on purpose: in Dagster 1.13 a partitioned spec judged over a range leaves its keys
PLANNED. Instead every partition key gets an evaluation of its own, then a summary closes the range.
"""
# No `from __future__ import annotations` here: Dagster resolves the step's context class from its annotation.

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from asset_checks.judge import WHOLE, Check, Verdict, judge, judge_together
from asset_checks.stores import RESOURCES, Stores
from stripe_platform.keys import PARTITION, RANGE_END, RANGE_START
from stripe_platform.warehouse import certify

# An evaluation is two rows in the run storage. A longer range names only its failing days one by one (as many as
# this); every day's verdict is in ops.check_verdicts whatever the length.
MAX_PARTITION_EVENTS = 31


def build(checks: Iterable[Check]) -> list[dg.AssetChecksDefinition]:
    """Dagster definitions of the declared checks, one step per asset."""
    steps: dict[str, list[Check]] = {}
    for check in checks:
        path = check.asset.path
        steps.setdefault("_".join(path) if check.together is None else f"{path[0]}_{check.name}", []).append(check)
    return [_definition(name, group) for name, group in steps.items()]


def _definition(step: str, checks: Sequence[Check]) -> dg.AssetChecksDefinition:
    by_key = {dg.AssetCheckKey(check.asset, check.name): check for check in checks}
    if len(by_key) != len(checks):
        raise ValueError(f"two checks of {step} share a name")

    @dg.multi_asset_check(
        name=f"checks_{step}",
        specs=[
            dg.AssetCheckSpec(check.name, asset=check.asset, description=check.description, blocking=check.blocking)
            for check in checks
        ],
        can_subset=True,
        required_resource_keys=set(RESOURCES),
    )
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckEvaluation | dg.AssetCheckResult]:
        resources = context.op_execution_context.resources
        stores = Stores(resources.oltp, resources.warehouse, resources.mongo, resources.lake, resources.models,
                        resources.reference)
        chosen = [check for key, check in by_key.items() if key in context.selected_asset_check_keys]
        if chosen and chosen[0].together is not None:
            yield from _evaluate_together(chosen, stores, context.run.run_id)
            return
        for check in chosen:
            yield from _evaluate(check, stores, _partitions(context, check), context.run.run_id)

    return evaluate


def _evaluate(
    check: Check, stores: Stores, partitions: Sequence[str], run_id: str
) -> Iterator[dg.AssetCheckEvaluation | dg.AssetCheckResult]:
    """Judge, record the verdicts durably, then tell Dagster: the verdict must outlive a run killed in between."""
    started = time.monotonic()
    verdicts = judge(check, stores, partitions)
    record(stores, check, verdicts, run_id)
    seconds = round(time.monotonic() - started, 3)
    if check.partitioned:
        yield from _partition_events(check, verdicts)
    yield _summary(check, verdicts, seconds)


def _evaluate_together(checks: Sequence[Check], stores: Stores, run_id: str) -> Iterator[dg.AssetCheckResult]:
    """As `_evaluate`, for many small tables with one profile."""
    started = time.monotonic()
    verdicts = judge_together(checks, stores)
    seconds = round(time.monotonic() - started, 3)
    for check, verdict in zip(checks, verdicts, strict=True):
        record(stores, check, [verdict], run_id)
        yield _summary(check, [verdict], seconds)


def record(stores: Stores, check: Check, verdicts: Sequence[Verdict], run_id: str) -> None:
    """Store the verdicts where `certified()` and `stripe-platform checks` read them."""
    with stores.warehouse() as connection:
        certify.record_verdicts(
            connection, asset_key=check.asset, check_name=check.name, blocking=check.blocking, run_id=run_id,
            outcomes=[(v.partition, v.outcome, v.rows_scanned) for v in verdicts])


def _partition_events(check: Check, verdicts: Sequence[Verdict]) -> Iterator[dg.AssetCheckEvaluation]:
    shown = verdicts if len(verdicts) <= MAX_PARTITION_EVENTS else [v for v in verdicts if not v.passed]
    # Dagster shows the newest row of a check: failing days come last, so that a later good day cannot hide them.
    for verdict in sorted(shown[:MAX_PARTITION_EVENTS], key=lambda v: not v.passed):
        yield dg.AssetCheckEvaluation(
            asset_key=check.asset, check_name=check.name, passed=verdict.passed, blocking=check.blocking,
            partition=verdict.partition, severity=dg.AssetCheckSeverity.ERROR, description=None,
            metadata=_metadata(verdict))


def _summary(check: Check, verdicts: Sequence[Verdict], seconds: float) -> dg.AssetCheckResult:
    bad = [v for v in verdicts if not v.passed]
    counts = Counter(v.outcome for v in verdicts)
    metadata: dict[str, dg.MetadataValue] = {
        "passed": dg.MetadataValue.int(counts["passed"]),
        "failed": dg.MetadataValue.int(counts["failed"]),
        "not_evaluated": dg.MetadataValue.int(counts["not_evaluated"]),
        "rows_scanned": dg.MetadataValue.int(sum(v.rows_scanned for v in verdicts)),
        "seconds": dg.MetadataValue.float(seconds),
    }
    if bad:
        metadata["not_passed"] = dg.MetadataValue.json(
            {v.partition: [v.outcome, *v.reasons] for v in bad[:MAX_PARTITION_EVENTS]})
    return dg.AssetCheckResult(
        asset_key=check.asset, check_name=check.name, passed=bool(verdicts) and not bad,
        severity=dg.AssetCheckSeverity.ERROR, metadata=metadata,
        description=None if verdicts else "not evaluated: no day of this asset was ever materialized")


def _metadata(verdict: Verdict) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "outcome": dg.MetadataValue.text(verdict.outcome),
        "rows_scanned": dg.MetadataValue.int(verdict.rows_scanned),
    }
    if verdict.reasons:
        metadata["reasons"] = dg.MetadataValue.text("; ".join(verdict.reasons))
    return metadata


def _partitions(context: dg.AssetCheckExecutionContext, check: Check) -> list[str]:
    """Days of the run; started without days (from the UI, say), every day that was ever materialized.

    Read from the run's tags: to Dagster a run of nothing but checks has no partitions.
    """
    if not check.partitioned:
        return [WHOLE]
    tags = context.run.tags
    if PARTITION in tags:
        return [tags[PARTITION]]
    if RANGE_START in tags:
        first, last = (dt.date.fromisoformat(tags[name]) for name in (RANGE_START, RANGE_END))
        return [(first + dt.timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]
    return sorted(context.instance.get_materialized_partitions(check.asset))
