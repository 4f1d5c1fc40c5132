"""Runs whose process was killed: found and closed by Dagster's own monitoring, whoever executed them."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from killing import start

from stripe_platform.embedded.servers import INSTANCE_TEMPLATE


@dg.asset
def long_work() -> None:
    time.sleep(600)


defs = dg.Definitions([long_work], jobs=[dg.define_asset_job("work", [long_work])], executor=dg.in_process_executor)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance with the deployment's launcher and monitoring, its storage in files."""
    deployed = yaml.safe_load(INSTANCE_TEMPLATE.read_text().replace("@", ""))
    kept = {name: deployed[name] for name in ("run_launcher", "run_monitoring")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as found:
        yield found


def work() -> None:
    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def("work").execute_in_process(instance=instance)


def started(instance: dg.DagsterInstance) -> str:
    """Id of the run, once its step works."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for run in instance.get_runs():
            if instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START):
                return run.run_id
        time.sleep(0.05)
    raise AssertionError("the run did not begin")


def monitored(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        assert [error for error in execute_run_monitoring_iteration(context, logging.getLogger()) if error] == []
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def test_a_run_whose_process_was_killed_is_closed_and_one_that_lives_is_left_alone(instance):
    process = start(work)
    run_id = started(instance)
    assert monitored(instance, run_id).status == dg.DagsterRunStatus.STARTED
    os.kill(process, signal.SIGKILL)
    while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT):
        time.sleep(0.01)
    assert monitored(instance, run_id).status == dg.DagsterRunStatus.FAILURE  # nobody has waited for it: a zombie
    os.waitpid(process, 0)


def test_another_process_of_the_same_number_is_not_the_runs(instance):
    process = start(work)
    run_id = started(instance)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    run = instance.create_run_for_job(defs.resolve_job_def("work"), status=dg.DagsterRunStatus.STARTED)
    at = time.time() - 3600  # said an hour ago, by a process that had our own number
    entry = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)[-1]
    instance.store_event(entry._replace(run_id=run.run_id, timestamp=at, dagster_event=entry.dagster_event._replace(
        event_specific_data=dg._core.events.EngineEventData.in_process(os.getpid()))))
    assert monitored(instance, run_id).status == dg.DagsterRunStatus.FAILURE
