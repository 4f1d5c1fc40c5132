"""The sensor: one run per set of new batches, retried a bounded number of times, nothing lost between ticks."""

import datetime as dt
import json

import dagster as dg
import pytest
from cdc_source import FIRST, accounts, close, owner, reference

from stripe_platform.cdc import sensors
from stripe_platform.cdc.sensors import ATTEMPT_TAG, ATTEMPTS, BATCH_TAG, BEGINNINGS, CARRIED, build_sensor
from stripe_platform.partitions import DAILY

DAY = FIRST.isoformat()


class Rule(dg.Config):
    breaks: bool = False


@dg.asset(partitions_def=DAILY)
def carried(config: Rule) -> None:
    if config.breaks:
        raise ValueError("a rule that these batches break")


arrivals = dg.define_asset_job("arrivals", [carried])
defs = dg.Definitions(assets=[carried], jobs=[arrivals], sensors=[build_sensor(arrivals)])


class Ticks:
    """Evaluates the sensor as the daemon does: the cursor of one tick is the next one's."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.cursor = instance, None

    def __call__(self) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=defs.get_repository_def())
        result = defs.get_repository_def().get_sensor_def("new_cdc_batches")(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result

    def run(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A run of the request in some state, as the daemon would have left it."""
        return self.instance.add_run(dg.DagsterRun(job_name="arrivals", run_id=dg._core.utils.make_new_run_id(),
                                                   status=status, tags=dict(request.tags)))


    def fails(self, request: dg.RunRequest) -> None:
        """The request's run, executed, with a step that fails."""
        done = defs.resolve_job_def("arrivals").execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=False,
            run_config={"ops": {"carried": {"config": {"breaks": True}}}})
        assert not done.success


@pytest.fixture
def tick(source):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(instance)


@pytest.fixture
def connection(source):
    with owner(source) as connection:
        reference(connection)
        yield connection


def only(result: dg.SensorResult) -> dg.RunRequest:
    (request,) = result.run_requests or ()
    return request


def test_new_commits_ask_for_one_run_of_the_open_ledger_day(tick, connection):
    request = only(tick())
    assert request.partition_key == DAY
    assert request.run_key == f"cdc:{request.tags[BATCH_TAG]}:1"
    tick.run(request, dg.DagsterRunStatus.SUCCESS)
    assert not tick().run_requests
    assert not tick().run_requests
    accounts(connection, 1, 1)
    assert only(tick()).tags[BATCH_TAG] != request.tags[BATCH_TAG]


def test_while_the_run_is_out_nothing_else_is_asked_for(tick, connection):
    request = only(tick())
    tick.run(request, dg.DagsterRunStatus.STARTED)
    accounts(connection, 1, 1)
    result = tick()
    assert not result.run_requests
    assert "carries 2026-06-01" in result.skip_reason.skip_message


def test_a_failed_run_is_tried_again_under_another_name_and_not_for_ever(tick, connection):
    names = []
    for _attempt in range(ATTEMPTS):
        request = only(tick())
        names.append((request.tags[BATCH_TAG], request.tags[ATTEMPT_TAG], request.run_key))
        tick.fails(request)
    assert not tick().run_requests
    assert len({name[0] for name in names}) == 1
    assert [name[1] for name in names] == ["1", "2", "3"]
    accounts(connection, 1, 1)
    assert only(tick()).partition_key == DAY  # later batches are carried on


def test_runs_that_were_killed_use_up_no_attempt_but_are_not_begun_for_ever(tick, connection):
    for _ in range(ATTEMPTS + 1):
        tick.run(only(tick()), dg.DagsterRunStatus.FAILURE)  # no step failed: its process died
    for _ in range(ATTEMPTS):
        tick.fails(only(tick()))
    assert not tick().run_requests
    accounts(connection, 1, 1)
    for n in range(BEGINNINGS):
        request = only(tick())
        assert request.tags[ATTEMPT_TAG] == str(n + 1)
        tick.run(request, dg.DagsterRunStatus.FAILURE)
    assert not tick().run_requests


def test_a_run_that_a_user_cancels_again_and_again_is_given_up_as_a_failed_one(tick, connection):
    for _ in range(ATTEMPTS):
        tick.run(only(tick()), dg.DagsterRunStatus.CANCELED)
    assert not tick().run_requests


def test_a_cursor_of_the_release_before_is_read_on(tick, connection):
    request = only(tick())
    content = json.loads(tick.cursor)
    del content["failed"]
    tick.cursor = json.dumps(content)
    assert only(tick()).run_key == request.run_key


def test_a_tick_that_was_killed_before_its_run_began_asks_for_the_same_run(tick, connection):
    first = only(tick())
    assert only(tick()).run_key == first.run_key
    tick.cursor = None  # killed before the cursor was saved
    assert only(tick()).run_key == first.run_key


def test_several_days_are_one_range_run(tick, connection):
    for n in range(3):
        accounts(connection, n, 1)
        close(connection, FIRST + dt.timedelta(days=n))
    request = only(tick())
    assert request.partition_key is None
    assert request.tags["dagster/asset_partition_range_start"] == DAY
    assert request.tags["dagster/asset_partition_range_end"] == "2026-06-03"


def test_batches_that_another_job_carried_start_nothing(tick, connection):
    sensors._capture(sensors.load_settings(), sensors.open_lake(sensors.load_settings()))
    for asset in CARRIED:
        tick.instance.report_runless_asset_event(dg.AssetMaterialization(
            asset, partition=DAY, metadata={"through_seq": dg.MetadataValue.json({DAY: 1})}))
    assert not tick().run_requests
    accounts(connection, 1, 1)
    assert only(tick()).partition_key == DAY


def test_batches_wait_for_a_running_ingest(tick, connection):
    tick.instance.add_run(dg.DagsterRun(job_name="ingest", run_id=dg._core.utils.make_new_run_id(),
                                        status=dg.DagsterRunStatus.STARTED))
    result = tick()
    assert not result.run_requests
    assert "ingest is running" in result.skip_reason.skip_message
    assert json.loads(tick.cursor)["done"] == 0


def test_the_sensor_ticks_often_enough_and_runs_by_default():
    sensor = defs.get_repository_def().get_sensor_def("new_cdc_batches")
    assert sensor.minimum_interval_seconds + sensors.BUDGET_SECONDS < 60
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
