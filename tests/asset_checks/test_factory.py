"""Declared checks as Dagster runs them: gates, events per day, verdicts that outlive the run."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pandas as pd
import psycopg
import pytest

from asset_checks.factory import MAX_PARTITION_EVENTS, build
from asset_checks.judge import ROWS, Check
from asset_checks.rules import none_of
from asset_checks.stores import RESOURCES
from resources.warehouse import WarehouseResource
from stripe_platform.settings import Settings
from stripe_platform.warehouse.bootstrap import bootstrap
from stripe_platform.warehouse.certify import UncertifiedInputError, certified

pytestmark = pytest.mark.servers
DAILY = dg.DailyPartitionsDefinition("2026-01-01", timezone="UTC")
RAW, MART = dg.AssetKey(["raw", "charges"]), dg.AssetKey(["marts", "fct_charges"])
CARD = "4242424242424242"


@dg.asset(key=RAW, partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())
def charges() -> None: ...


@dg.asset(key=MART, deps=[RAW], partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())
def fct_charges() -> None: ...


def made(bad_days: set[str], *, blocking: bool = True, raises: bool = False) -> Check:
    def profile(_stores, days):
        if raises:
            raise psycopg.errors.InvalidTextRepresentation(f"invalid input syntax: {CARD}")
        return pd.DataFrame({
            "partition": [day.isoformat() for day in days], ROWS: 7,
            "negative_amounts": [int(day.isoformat() in bad_days) for day in days]})

    return Check(RAW, "sound", "All is well.", profile, none_of("negative_amounts"), blocking=blocking)


class Ran:
    """One run over a range of days, on an instance of its own."""

    def __init__(self, check: Check, first: str, last: str) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        resources = dict.fromkeys(RESOURCES) | {"warehouse": WarehouseResource()}
        definitions = dg.Definitions(
            [charges, fct_charges], asset_checks=build([check]), resources=resources,
            jobs=[dg.define_asset_job("all", dg.AssetSelection.all())])
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        self.result = definitions.resolve_job_def("all").execute_in_process(
            instance=self.instance, tags=tags, raise_on_error=False)
        self.evaluations = [
            event.asset_check_evaluation_data for event in self.result.all_events
            if event.event_type_value == "ASSET_CHECK_EVALUATION"]

    @property
    def mart_ran(self) -> bool:
        return any(event.step_key == "marts__fct_charges" and event.event_type_value == "STEP_START"
                   for event in self.result.all_events)


@pytest.fixture
def run():
    """Makes runs; their instances are disposed of at the end."""
    made: list[Ran] = []

    def go(check: Check, first: str, last: str) -> Ran:
        made.append(Ran(check, first, last))
        return made[-1]

    yield go
    for ran in made:
        ran.instance.dispose()


@pytest.fixture
def verdicts(warehouse: Settings) -> psycopg.Connection:
    bootstrap(warehouse)
    with psycopg.connect(warehouse.need("warehouse_dsn"), autocommit=True) as connection:
        yield connection


def stored(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute("select partition, outcome from ops.check_verdicts").fetchall())


def test_a_good_range_passes_with_an_evaluation_per_day_and_a_summary(run, verdicts):
    ran = run(made(set()), "2026-06-01", "2026-06-03")
    assert ran.result.success
    assert ran.mart_ran
    assert [(e.partition, e.passed) for e in ran.evaluations] == [
        ("2026-06-01", True), ("2026-06-02", True), ("2026-06-03", True), (None, True)]
    assert ran.evaluations[-1].metadata["rows_scanned"].value == 21
    assert set(stored(verdicts).values()) == {"passed"}


def test_a_bad_day_stops_what_comes_after_and_a_later_run_too(run, verdicts):
    ran = run(made({"2026-06-02"}), "2026-06-01", "2026-06-03")
    assert not ran.result.success
    assert not ran.mart_ran
    assert stored(verdicts) == {"2026-06-01": "passed", "2026-06-02": "failed", "2026-06-03": "passed"}
    certified(verdicts, [RAW], [dt.date(2026, 6, 3)])
    with pytest.raises(UncertifiedInputError, match=r"raw/charges of 2026-06-02.*sound failed"):
        certified(verdicts, [RAW], [dt.date(2026, 6, 2)])


def test_what_could_not_be_evaluated_stops_what_comes_after(run, verdicts):
    ran = run(made(set(), raises=True), "2026-06-01", "2026-06-02")
    assert not ran.result.success
    assert not ran.mart_ran
    assert set(stored(verdicts).values()) == {"not_evaluated"}
    assert ran.evaluations[-1].metadata["not_evaluated"].value == 2


def test_a_failure_that_does_not_block_lets_the_run_go_on_and_is_recorded(run, verdicts):
    ran = run(made({"2026-06-01"}, blocking=False), "2026-06-01", "2026-06-02")
    assert ran.result.success
    assert ran.mart_ran
    assert stored(verdicts)["2026-06-01"] == "failed"


def test_a_good_day_does_not_hide_a_bad_one_before_it(run, verdicts):
    ran = run(made({"2026-06-01"}), "2026-06-01", "2026-06-03")
    (newest,) = ran.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(RAW, "sound")]).values()
    assert newest.status.value == "FAILED"
    assert [e.partition for e in ran.evaluations if not e.passed] == ["2026-06-01", None]


def test_a_long_range_writes_a_bounded_number_of_events_and_every_verdict(run, verdicts):
    ran = run(made(set()), "2026-03-01", "2026-06-08")
    assert len(ran.evaluations) == 1
    assert len(stored(verdicts)) == 100
    bad = {(dt.date(2026, 3, 1) + dt.timedelta(days=n)).isoformat() for n in range(60)}
    ran = run(made(bad), "2026-03-01", "2026-06-08")
    assert len(ran.evaluations) == MAX_PARTITION_EVENTS + 1
    assert sum(outcome == "failed" for outcome in stored(verdicts).values()) == 60


def test_no_value_reaches_events_verdicts_or_logs(run, verdicts, capfd):
    ran = run(made(set(), raises=True), "2026-06-01", "2026-06-01")
    log = [repr(record) for record in ran.instance.all_logs(ran.result.run_id)]
    table = [repr(row) for row in verdicts.execute("select * from ops.check_verdicts")]
    shown = "".join(capfd.readouterr())
    assert log
    assert not any(CARD in text for text in (*log, *table, shown))


def test_verdicts_that_cannot_be_stored_fail_the_step(run, warehouse):
    ran = run(made(set()), "2026-06-01", "2026-06-01")
    assert not ran.result.success
    assert not ran.mart_ran


def test_two_checks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="share a name"):
        build([made(set()), made(set())])
