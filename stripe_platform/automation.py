"""Jobs, the schedule and the sensors: what runs together, and what starts it."""

from __future__ import annotations

import dagster as dg

from stripe_platform import keys

SCORES = dg.AssetSelection.assets(keys.key("oltp", "fraud_assessments"))
MOVED = dg.AssetSelection.groups("cdc", "raw", "snapshots")
SERVED = dg.AssetSelection.groups("staging", "marts", "documents", "features")

INGEST = dg.define_asset_job(
    "ingest", (dg.AssetSelection.groups("oltp") - SCORES) | MOVED,
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
    dg.AssetSelection.groups("cdc", "raw", "staging", "marts"),
    description="Carry newly captured batches of the open ledger day into raw and the marts they touch.",
)
NIGHTLY = dg.define_asset_job(
    "nightly", (dg.AssetSelection.groups("oltp") - SCORES) | MOVED | SERVED,
    description="Close yesterday and carry it through every layer.",
)
JOBS = [INGEST, TRANSFORM, TRAIN, ARRIVALS, NIGHTLY]

# Local calendars are simulated and closed by the demo: the schedule is seeded as stopped, production starts it.
SCHEDULES = [
    dg.build_schedule_from_partitioned_job(
        NIGHTLY, name="close_day", hour_of_day=0, minute_of_hour=5, default_status=dg.DefaultScheduleStatus.STOPPED,
    )
]


def sensors() -> list[dg.SensorDefinition]:
    from stripe_platform.cdc.sensors import build_sensor

    return [build_sensor(ARRIVALS)]
