"""The assets of the way from the log to raw, run as the daemon runs them, over a folder and over S3."""

from __future__ import annotations

import datetime as dt

import boto3
import dagster as dg
import pytest
from cdc_source import FIRST, accounts, close, owner, raw_state, reference, source_state
from moto.server import ThreadedMotoServer

from resources.lake import LakeResource, open_lake
from resources.warehouse import WarehouseResource, connect_postgres
from stripe_platform.cdc.assets import CDC_ASSETS
from stripe_platform.cdc.capture import ensure_slot
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.cdc.verify import verify
from stripe_platform.keys import OLTP_TABLES, UNDATED, key
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.raw_assets import RAW_ASSETS

LAST = FIRST + dt.timedelta(days=2)
MOVED = dg.define_asset_job("moved", dg.AssetSelection.groups("cdc", "raw", "snapshots"))
FEW = dg.define_asset_job("few", dg.AssetSelection.assets(key("cdc", "batches"), key("cdc", "accounts"),
                                                          key("raw", "accounts")))


def run(job: str, first: dt.date, last: dt.date, instance: dg.DagsterInstance,
        *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions(
        assets=[*CDC_ASSETS, *RAW_ASSETS], jobs=[MOVED, FEW], executor=dg.in_process_executor,
        resources={"lake": LakeResource(), "warehouse": WarehouseResource()})
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=raise_on_error,
        tags={"dagster/asset_partition_range_start": first.isoformat(),
              "dagster/asset_partition_range_end": last.isoformat()})


@pytest.fixture
def bucket(monkeypatch):
    """An S3 lake on a server of its own."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                        ("AWS_DEFAULT_REGION", "us-east-1"), ("STRIPE_PLATFORM_LAKE_URL", "s3://lake/one"),
                        ("STRIPE_PLATFORM_S3_ENDPOINT_URL", f"http://{host}:{port}")):
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="lake")
    yield
    server.stop()


def three_days() -> list[tuple]:
    settings = load_settings()
    ensure_slot(settings)
    with owner(settings) as connection:
        reference(connection)
        for n in range(3):
            accounts(connection, 10 * n, 5)
            close(connection, FIRST + dt.timedelta(days=n))
        return source_state(connection, "accounts")


def test_a_range_of_days_is_one_run_from_the_log_to_raw_and_snapshots(oltp, warehouse, lake, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", FIRST.isoformat())
    expected = three_days()
    dated = [t for t in OLTP_TABLES if t.dated]
    with dg.DagsterInstance.ephemeral() as instance:
        result = run("moved", FIRST, LAST, instance)
        made = {(m.materialization.asset_key.to_user_string(), m.materialization.partition): m.materialization.metadata
                for m in result.get_asset_materialization_events()}
    assert len(made) == 3 * (1 + 3 * len(dated)) + 2 * len(UNDATED)
    metadata = made["raw/accounts", LAST.isoformat()]
    assert metadata["rows_by_day"].value == {"2026-06-01": 5, "2026-06-02": 5, "2026-06-03": 5}
    assert metadata["dagster/row_count"].value == 15
    assert made["snapshots/accounts", LAST.isoformat()]["rows_by_day"].value == {
        "2026-06-01": 5, "2026-06-02": 10, "2026-06-03": 15}
    with connect_postgres(load_settings().need("warehouse_dsn")) as connection:
        assert raw_state(connection, "accounts") == expected


def test_the_log_says_on_its_asset_how_it_does_and_how_far_it_is_proved(oltp, warehouse, lake, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", FIRST.isoformat())
    three_days()
    with dg.DagsterInstance.ephemeral() as instance:

        def told(name: str) -> dict:
            assert run("moved", FIRST, LAST, instance).success
            event = instance.get_latest_materialization_event(dg.AssetKey(["cdc", name]))
            return {key: value.value for key, value in event.asset_materialization.metadata.items()}

        before = told("batches")
        assert (before["slot_status"], before["tables_verified"], before["tables_differing"]) == ("reserved", 0, 0)
        assert told("accounts")["verified_through"] == "never"
        proof = reconcile(load_settings())
        after = told("batches")
        assert after["tables_verified"] == len(proof.tables)
        assert after["verified_through"]["accounts"] == proof.lsn == told("accounts")["verified_through"]


def test_the_lake_may_be_a_bucket(oltp, warehouse, bucket, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", FIRST.isoformat())
    expected = three_days()
    with dg.DagsterInstance.ephemeral() as instance:
        assert run("few", FIRST, LAST, instance).success
    with connect_postgres(load_settings().need("warehouse_dsn")) as connection:
        assert raw_state(connection, "accounts") == expected
    assert verify(load_settings(), lake=open_lake(load_settings())).problems == []


def test_the_open_day_can_be_carried_again_and_a_day_beyond_it_is_refused(oltp, warehouse, lake, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", FIRST.isoformat())
    three_days()
    opened = LAST + dt.timedelta(days=1)
    settings = load_settings()
    with dg.DagsterInstance.ephemeral() as instance, owner(settings) as connection:
        assert run("few", FIRST, LAST, instance).success
        for n in (100, 101):
            accounts(connection, n, 1)
            assert run("few", opened, opened, instance).success
            with connect_postgres(settings.need("warehouse_dsn")) as raw:
                assert raw_state(raw, "accounts") == source_state(connection, "accounts")
        next_day = opened + dt.timedelta(days=1)
        beyond = run("few", next_day, next_day, instance, raise_on_error=False)
    assert not beyond.success
    (failure,) = beyond.get_step_failure_events()
    assert "ledger day 2026-06-05 has not begun at the source, the open day is 2026-06-04" in str(
        failure.step_failure_data.error)


def test_the_fraud_scores_travel_in_steps_of_their_own(monkeypatch):
    """oltp/charges -> ... -> marts -> model -> oltp/fraud_assessments -> cdc -> raw must be no circle of steps."""
    steps = {spec.key.to_user_string(): asset.op.name for asset in [*CDC_ASSETS, *RAW_ASSETS] for spec in asset.specs}
    for layer in ("cdc", "snapshots", "raw"):
        same = [name for name, step in steps.items() if step == steps[f"{layer}/fraud_assessments"]]
        assert same == [f"{layer}/fraud_assessments"]
