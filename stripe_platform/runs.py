"""Running jobs in this process, as the command line and CI do: one range is one run."""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

from stripe_platform.keys import RANGE_END, RANGE_START

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# Tags that tell who executes a run.
BY_COMMAND_LINE, BY_UI = "stripe_platform/launched_by", GRPC_INFO_TAG
IN_PROGRESS = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


class RunFailedError(RuntimeError):
    """A job ended in failure; the message names the step, the reason and where to look."""


@dataclass
class RunReport:
    """What one run did: seconds by layer, and the last metadata of every asset it materialized."""

    job: str
    run_id: str
    seconds: float
    layers: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)


def close_interrupted(instance: dg.DagsterInstance, launcher: str) -> int:
    """Mark as failed the runs of `launcher` that stand open; returns how many.

    A killed process cannot do it itself, and a run that never ends holds its place in the queue for ever. The
    caller holds the lock that proves the launcher gone.
    """
    interrupted = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS))
        # A run repeated in the UI inherits the command line's tag: who launched it last executes it.
        if next((tag for tag in (BY_UI, BY_COMMAND_LINE) if tag in run.tags), None) == launcher
    ]
    for run in interrupted:
        instance.report_run_failed(run, "The process that executed this run ended without a word; run it again.")
    return len(interrupted)


def run_job(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    first: dt.date | None,
    last: dt.date | None,
    *,
    select: list[dg.AssetKey] | None = None,
) -> RunReport:
    """Execute `job` for days `first`..`last` (None: without days) in this process; `RunFailedError` when it fails."""
    started = time.monotonic()
    days = {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()} if first and last else {}
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        run_config=QUIET,
        tags={BY_COMMAND_LINE: job, **days},
        asset_selection=select,
        raise_on_error=False,
    )
    report = RunReport(job, result.run_id, time.monotonic() - started)
    if not result.success:
        raise RunFailedError(f"{job} failed: {_reason(result)} (run {result.run_id[:8]} in `make ui`)")
    layer_of: dict[str | None, str] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            key = materialization.asset_key
            layer_of[event.step_key] = key.path[0]
            report.metadata[key.to_user_string()] = {k: v.value for k, v in materialization.metadata.items()}
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_SUCCESS and event.step_key:
            seconds[layer_of.get(event.step_key, "checks")] += event.step_success_data.duration_ms / 1000
    report.layers = dict(seconds)
    return report


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE and str(event.step_key).startswith("checks_"):
            layer, table = str(event.step_key).removeprefix("checks_").split("_", 1)
            return f"a blocking check of {layer}/{table} did not pass: see `stripe-platform checks --select {layer}`"
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            # The first line: a database puts the row's values into the lines after it.
            text = error.message.strip().split("\n")[0] if error else "no reason was recorded"
            return f"{event.step_key}: {text}"
    return "a blocking check did not pass: see `stripe-platform checks`"
