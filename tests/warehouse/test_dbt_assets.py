"""The dbt models as Dagster runs them: a range is one run, uncertified input stops it before dbt starts."""

from __future__ import annotations

import dagster as dg
import pytest
from history import Store, day, story

from resources.warehouse import WarehouseResource
from stripe_platform.keys import OLTP_TABLES, key
from stripe_platform.warehouse.certify import record_verdicts
from stripe_platform.warehouse.dbt_assets import DBT_ASSETS, dbt_resource

pytestmark = pytest.mark.servers


def certify(store: Store, days: range) -> None:
    for table in (t for t in OLTP_TABLES if t.dated):
        record_verdicts(store.conn, asset_key=key("raw", table.name), check_name="rows", blocking=True, run_id="r",
                        outcomes=[(day(n).isoformat(), "passed", 1) for n in days])


def run(
    instance: dg.DagsterInstance, days: range, *, groups: tuple[str, ...] = ("facts",)
) -> dg.ExecuteInProcessResult:
    selected = [asset for asset in DBT_ASSETS if asset.op.name.removeprefix("dbt_") in groups]
    defs = dg.Definitions(assets=selected, resources={"dbt": dbt_resource(), "warehouse": WarehouseResource()},
                          executor=dg.in_process_executor)
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, raise_on_error=False, tags={
        "dagster/asset_partition_range_start": day(days[0]).isoformat(),
        "dagster/asset_partition_range_end": day(days[-1]).isoformat()})


def materialized(result: dg.ExecuteInProcessResult, mart: str) -> list[dg.AssetMaterialization]:
    return [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()
            if e.asset_key == key("marts", mart)]


def test_a_range_is_one_run_with_rows_by_day_days_rewritten_and_tests_as_checks(store: Store):
    story(store, range(1, 8))
    store.build(range(1, 8))
    story(store, range(8, 11))
    certify(store, range(1, 11))
    with dg.instance_for_test() as instance:
        result = run(instance, range(8, 11), groups=("reference", "facts"))
        assert result.success
        charges = materialized(result, "fct_charges")
        assert [m.partition for m in charges] == [day(n).isoformat() for n in (8, 9, 10)]
        metadata = charges[0].metadata
        assert metadata["dagster/row_count"].value == 8
        assert metadata["rows_by_day"].value == {day(8).isoformat(): 0, day(9).isoformat(): 1, day(10).isoformat(): 0}
        # The dispute of the 8th is about a charge of the 1st; the 10th deleted the only charge of the 6th.
        assert metadata["event_days"].value == [day(n).isoformat() for n in (1, 6, 9)]
        verdicts = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
        assert verdicts["charge_id_is_unique"]
        assert verdicts["account_id_is_unique"]
        assert verdicts["daily_revenue_equals_its_facts"]
        assert not verdicts["every_charge_has_a_rate"]  # dollars of the 9th: a warning, not a failure
        (view,) = [m for m in result.get_asset_materialization_events() if m.asset_key == key("staging", "stg_charges")]
        assert view.partition is None
        assert not list((store.logs.parent / "home" / "dbt").iterdir())  # artefacts stay only after a failure


def test_uncertified_input_stops_the_marts_before_dbt_touches_them(store: Store):
    story(store)
    certify(store, range(1, 5))
    with dg.instance_for_test() as instance:
        result = run(instance, range(1, 6), groups=("facts",))
        assert not result.success
        (failure,) = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
        assert "raw/accounts of 2026-06-05 is not certified" in str(failure.cause or failure)
    assert store.one("select to_regclass('marts.fct_charges') is null") == (True,)


def test_every_asset_has_owner_kind_description_columns_and_freshness():
    for definition in DBT_ASSETS:
        for spec in definition.specs:
            assert spec.owners, spec.key
            assert spec.description, spec.key
            assert spec.freshness_policy, spec.key
            assert spec.group_name == spec.key.path[0]
            assert "dagster/column_schema" in spec.metadata, spec.key
