"""Jobs, the schedule and the sensors: what runs together, and what starts it."""

import datetime as dt

import dagster as dg

import asset_checks
from stripe_platform import keys

SCORES = dg.AssetSelection.assets(keys.key("oltp", "fraud_assessments"))
MOVED = dg.AssetSelection.groups("cdc", "raw", "snapshots")
# In runs of their own: in a run over days Dagster plans every asset once per day, days or not (8,400 events in a demo).
SMALL_TABLES = dg.AssetSelection.assets(*(
    keys.key(layer, name) for layer in ("oltp", "cdc", "raw") for name in keys.UNDATED)) | dg.AssetSelection.groups(
        "reference") | dg.AssetSelection.assets(*(keys.key("documents", name) for name in keys.SERVED))
SERVED = dg.AssetSelection.groups("staging", "marts", "documents", "features") - SMALL_TABLES

INGEST = dg.define_asset_job(
    "ingest", ((dg.AssetSelection.groups("oltp") - SCORES) | MOVED) - SMALL_TABLES,
    description="Bring a day into the OLTP (local) or observe it (production), close it, capture it, land it in raw.",
)
TRANSFORM = dg.define_asset_job(
    "transform", SERVED,
    description="Marts, documents and features of a day, from certified raw partitions only.",
)
TRAIN = dg.define_asset_job(
    "train", dg.AssetSelection.groups("fraud") | SCORES,
    description="Train the fraud model and send the assessed days' scores back through the OLTP's front door.",
)
ARRIVALS = dg.define_asset_job(
    "arrivals",
    dg.AssetSelection.groups("cdc", "raw", "staging", "marts") - SMALL_TABLES,
    description="Carry newly captured batches of the open ledger day into raw and the marts they touch.",
)
NIGHTLY = dg.define_asset_job(
    "nightly", ((dg.AssetSelection.groups("oltp") - SCORES) | MOVED | SERVED) - SMALL_TABLES,
    description="Close yesterday and carry it through every layer.",
)
SMALL = dg.define_asset_job(
    "small_tables", SMALL_TABLES,
    description="Carry the tables without days of their own to raw: whatever the change log holds of them.",
)
CHECKS = [dg.AssetCheckKey(check.asset, check.name) for check in asset_checks.declared()]
JUDGE = dg.define_asset_job(
    "judge", dg.AssetSelection.checks(*CHECKS),
    description="Judge again what stands: nothing is written but verdicts. Without days, every day there is.",
)
JOBS = [INGEST, TRANSFORM, TRAIN, ARRIVALS, NIGHTLY, SMALL, JUDGE]


# Local calendars are simulated and closed by the demo: the schedule is seeded as stopped, production starts it.
@dg.schedule(
    job=NIGHTLY, cron_schedule="5 0 * * *", execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.STOPPED,
)
def close_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Five minutes into a UTC day: close the day that is over and carry it through every layer."""
    yesterday = (context.scheduled_execution_time - dt.timedelta(days=1)).date().isoformat()
    return dg.RunRequest(run_key=yesterday, partition_key=yesterday)


SCHEDULES = [close_day]


@dg.run_status_sensor(
    name="small_tables_follow", run_status=dg.DagsterRunStatus.SUCCESS, monitored_jobs=[NIGHTLY, ARRIVALS],
    request_job=SMALL, default_status=dg.DefaultSensorStatus.RUNNING,
)
def small_tables_follow(context: dg.RunStatusSensorContext) -> dg.RunRequest:
    """Behind every run that captured changes: the small tables' share of them."""
    return dg.RunRequest(run_key=context.dagster_run.run_id)


def sensors() -> list[dg.SensorDefinition]:
    from stripe_platform.cdc.sensors import build_sensor
    from stripe_platform.reference.sync import follow

    return [build_sensor(ARRIVALS, before=follow), small_tables_follow]
