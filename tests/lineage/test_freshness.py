"""An asset is fresh when the due day stands, whatever else was backfilled last."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from stripe_platform.lineage.freshness import freshness

DAILY = dg.DailyPartitionsDefinition("2026-06-01", timezone="UTC")
CLOSED = dt.date(2026, 6, 10)


@dg.asset(key=["raw", "charges"], partitions_def=DAILY)
def charges() -> None: ...


@dg.asset(key=["fraud", "model"])
def model() -> None: ...


DEFS = dg.Definitions(assets=[charges, model])


def _states(instance: dg.DagsterInstance) -> dict[str, str]:
    return {row["asset"]: row["state"] for row in freshness(DEFS, instance, CLOSED)}


def test_an_asset_that_was_never_materialized_has_failed():
    with dg.DagsterInstance.ephemeral() as instance:
        assert _states(instance) == {"raw/charges": "failed", "fraud/model": "failed"}


def test_an_asset_whose_due_day_stands_is_fresh():
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([charges], partition_key="2026-06-10", instance=instance)
        dg.materialize([model], instance=instance)
        assert _states(instance) == {"raw/charges": "fresh", "fraud/model": "fresh"}


def test_backfilling_an_old_day_does_not_make_an_asset_fresh():
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([charges], partition_key="2026-06-09", instance=instance)
        dg.materialize([charges], partition_key="2026-06-01", instance=instance)
        assert _states(instance)["raw/charges"] == "late"
