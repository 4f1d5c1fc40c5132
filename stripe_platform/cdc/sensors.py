"""`new_cdc_batches`: drains the slot and starts one run for the ledger days whose batches no run has carried yet.

The cursor moves only past batches that a run carried successfully: a killed tick or a failed run loses nothing. A
request is named by its batches' digest and its attempt, so that Dagster starts it once and a retry is another name.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dagster as dg

from resources.lake import Lake, open_lake
from stripe_platform.cdc.capture import CaptureBusyError, capture
from stripe_platform.cdc.manifest import Chain
from stripe_platform.keys import DATED, RANGE_END, RANGE_START, key
from stripe_platform.partitions import DAILY
from stripe_platform.settings import Settings, load_settings

INTERVAL_SECONDS = 15
BUDGET_SECONDS = 20.0  # a tick is cut at 60 s and would then save no cursor
ATTEMPTS = 3  # of which a step failed
BEGINNINGS = 10  # of all: a run whose process was killed, or that never began, says nothing against its batches
BATCH_TAG, ATTEMPT_TAG = "cdc/batch", "cdc/attempt"
CARRIED = tuple(key("raw", name) for name in DATED)
IN_PROGRESS = (
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True)
class Cursor:
    """`done`: batches up to here were carried or given up; `through` beyond it: a request for those between is out.

    `attempt` numbers its runs, `failed` of them ended because a step failed.
    """

    done: int = 0
    through: int = 0
    digest: str = ""
    attempt: int = 0
    days: tuple[str, ...] = ()
    failed: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        if not text:
            return cls()
        content = json.loads(text)
        return cls(**(content | {"days": tuple(content["days"])}))

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def finished(self) -> Cursor:
        return Cursor(done=self.through, through=self.through)

    def request(self) -> dg.RunRequest:
        """The run of this cursor's days: one day as its partition, several as one range run."""
        tags = {BATCH_TAG: self.digest, ATTEMPT_TAG: str(self.attempt)}
        run_key = f"cdc:{self.digest}:{self.attempt}"
        if len(self.days) == 1:
            return dg.RunRequest(run_key=run_key, partition_key=self.days[0], tags=tags)
        return dg.RunRequest(run_key=run_key, tags=tags | {RANGE_START: self.days[0], RANGE_END: self.days[-1]})


def build_sensor(job: dg.JobDefinition | dg.UnresolvedAssetJobDefinition, *,
                 busy_jobs: Sequence[str] = ("ingest", "nightly"),
                 before: Callable[[Settings], str] | None = None) -> dg.SensorDefinition:
    """The sensor for a job over cdc, raw and what hangs on them. While one of `busy_jobs` runs, batches wait for it.

    `before`: brings what other databases feed into the source, and says what it did.
    """

    @dg.sensor(
        name="new_cdc_batches", job=job, minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Captures new commits and carries their ledger days to raw and the marts.")
    def new_cdc_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return tick(context, load_settings(), (*busy_jobs, job.name), before)

    return new_cdc_batches


def tick(context: dg.SensorEvaluationContext, settings: Settings, busy_jobs: Sequence[str],
         before: Callable[[Settings], str] | None = None) -> dg.SensorResult:
    """One evaluation: capture, look after the request that is out, else ask for what is new."""
    lake = open_lake(settings)
    note = "; ".join([*([before(settings)] if before else []), _capture(settings, lake)])
    cursor = Cursor.parse(context.cursor)
    if cursor.through > cursor.done:
        cursor, waiting = _look_after(context, cursor)
        if waiting is not None:
            return waiting
    busy = [r for name in busy_jobs for r in context.instance.get_runs(
        dg.RunsFilter(job_name=name, statuses=list(IN_PROGRESS)), limit=1)]
    if busy:
        return _skip(cursor, f"{note}; {busy[0].job_name} is running, its batches wait for it")
    chain = Chain.load(lake)
    newest = chain.manifests[-1].seq if chain.manifests else 0
    days, missing = _uncarried(context.instance, chain, cursor.done, settings.first_day)
    if missing:
        return _skip(cursor, f"{note}; ledger day {missing[0]} has no partition yet")
    if not days:
        return _skip(Cursor(done=newest, through=newest), f"{note}; nothing new")
    digest = hashlib.sha256("".join(m.digest for m in chain.manifests[cursor.done:]).encode()).hexdigest()[:32]
    cursor = Cursor(cursor.done, newest, digest, 1, tuple(day.isoformat() for day in days))
    return dg.SensorResult(run_requests=[cursor.request()], cursor=cursor.text())


def _capture(settings: Settings, lake: Lake) -> str:
    try:
        report = capture(settings, lake=lake, wait_seconds=0.0, budget_seconds=BUDGET_SECONDS)
    except CaptureBusyError:
        return "another capture is running"
    return f"captured {report.total} rows in {len(report.batches)} batches"


def _look_after(context: dg.SensorEvaluationContext, cursor: Cursor) -> tuple[Cursor, dg.SensorResult | None]:
    """What became of the request that is out: done, still running, or to be tried again."""
    runs = context.instance.get_runs(
        dg.RunsFilter(tags={BATCH_TAG: cursor.digest, ATTEMPT_TAG: str(cursor.attempt)}), limit=1)
    if not runs:  # the tick that asked was killed before the run was made: the same name asks once
        return cursor, dg.SensorResult(run_requests=[cursor.request()], cursor=cursor.text())
    if runs[0].status in IN_PROGRESS:
        return cursor, _skip(cursor, f"run {runs[0].run_id} carries {', '.join(cursor.days)}")
    if runs[0].status == dg.DagsterRunStatus.SUCCESS:
        return cursor.finished(), None
    failed = cursor.failed + (not _interrupted(context.instance, runs[0]))
    if failed >= ATTEMPTS or cursor.attempt >= BEGINNINGS:
        context.log.error(
            f"ledger days {', '.join(cursor.days)} were not carried in {cursor.attempt} runs, {failed} of which failed,"
            f" last run {runs[0].run_id}: repair the cause and materialize them; batches that follow are carried on")
        return cursor.finished(), None
    again = dataclasses.replace(cursor, attempt=cursor.attempt + 1, failed=failed)
    return again, dg.SensorResult(run_requests=[again.request()], cursor=again.text())


def _interrupted(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run ended without a step that failed and without a user who cancelled it."""
    return run.status == dg.DagsterRunStatus.FAILURE and not instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records


def _uncarried(instance: dg.DagsterInstance, chain: Chain, done: int,
               first_day: dt.date) -> tuple[list[dt.date], list[dt.date]]:
    """(days with rows that no run carried, those of them without a partition), in order."""
    newest: dict[dt.date, int] = {}
    for manifest, day in zip(chain.manifests[done:], chain.days[done:], strict=True):
        if manifest.rows:
            newest[day or chain.open_day(first_day)] = manifest.seq
    wanted = sorted(day for day, seq in newest.items() if _carried(instance, day) < seq)
    return wanted, [day for day in wanted if not DAILY.has_partition_key(day.isoformat())]


def _carried(instance: dg.DagsterInstance, day: dt.date) -> int:
    """Number of the last batch that every raw table's newest materialization of this day took in."""
    return min(_carried_by(instance, asset, day.isoformat()) for asset in CARRIED)


def _carried_by(instance: dg.DagsterInstance, asset: dg.AssetKey, day: str) -> int:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[day]), limit=1).records
    event = records[0].asset_materialization if records else None
    if event is None or "through_seq" not in event.metadata:
        return 0
    by_day = event.metadata["through_seq"].value
    return int(by_day[day]) if isinstance(by_day, dict) else 0


def _skip(cursor: Cursor, reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.text())
