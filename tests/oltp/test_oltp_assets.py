"""The OLTP tables as assets: a range is one run, each table says its rows by day, ciphertext columns are tagged."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from resources.postgres import OltpResource
from stripe_platform.feeds import FeedResource, FeedSpec
from stripe_platform.keys import OLTP_TABLES, key
from stripe_platform.oltp.assets import OLTP_ASSETS
from stripe_platform.oltp.schema import load_schema
from stripe_platform.settings import Settings


def materialize(first: str, last: str) -> dict[str, dict]:
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        resources = {"feed": FeedResource(), "oltp": OltpResource()}
        result = dg.materialize(OLTP_ASSETS, resources=resources, instance=instance, tags=tags)
        events = result.get_asset_materialization_events()
    return {
        event.asset_key.path[1]: {k: v.value for k, v in event.materialization.metadata.items()}
        for event in events if event.asset_key
    }  # fmt: skip


def test_a_range_of_days_is_one_run_that_says_its_rows_by_day_and_a_repeat_skips_them(both: Settings):
    FeedSpec.simulated(days=2, per_day=100, dispute_lag_days=2).remember(both)
    said = materialize("2026-06-01", "2026-06-03")
    assert set(said) == {t.name for t in OLTP_TABLES} - {"fraud_assessments"}
    by_day = said["charges"]["rows_by_day"]
    assert set(by_day) == {"2026-06-01", "2026-06-02", "2026-06-03"}
    assert said["charges"]["rows"] == sum(by_day.values()) > 100
    assert by_day["2026-06-03"] == 0
    assert said["charges"]["feed"] == "simulated"
    assert said["charges"]["days_skipped"] == 0
    assert materialize("2026-06-01", "2026-06-03")["charges"]["days_skipped"] == 3


def test_every_table_has_owner_kind_partitions_freshness_and_its_columns():
    asset, undated = OLTP_ASSETS
    for table in OLTP_TABLES:
        if table.name == "fraud_assessments":
            continue
        spec = (asset if table.dated else undated).specs_by_key[key("oltp", table.name)]
        assert spec.owners
        assert spec.group_name == "oltp"
        assert "postgres" in spec.kinds
        assert spec.freshness_policy is not None
        columns = {c.name: c for c in spec.metadata["dagster/column_schema"].columns}
        sensitive = {name for name, c in columns.items() if c.tags.get("sensitive")}
        assert sensitive == set(load_schema()[table.name].sensitive)
        assert not columns[table.key[0]].constraints.nullable
    assert isinstance(asset.partitions_def, dg.DailyPartitionsDefinition)
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    assert asset.partitions_def.get_first_partition_key() <= dt.date(2026, 6, 1).isoformat()
