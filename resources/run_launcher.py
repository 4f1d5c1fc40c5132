"""Dagster's launcher of runs on this machine, which knows when a run's process is gone."""

from __future__ import annotations

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
STEP_OF_CLOCK = 60.0  # seconds by which the system's idea of a process's start may move


class WatchedRunLauncher(DefaultRunLauncher):
    """Named in `dagster.yaml`. Runs, daemon and command line are on one machine.

    A code server closes the runs whose processes die before it does. Where it dies with them, or the process is the
    command line's, nobody did: the run held its place in the queue, and the sensor waited for it for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for every started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process that said it executes this run lives; one that said nothing yet counts as alive."""
        said = [(entry.timestamp, entry.dagster_event.engine_event_data.metadata["pid"].value)
                for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
                if entry.dagster_event is not None and "pid" in entry.dagster_event.engine_event_data.metadata]
        if not said:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "no process has said that it executes this run")
        at, pid = said[-1][0], int(str(said[-1][1]))
        try:
            process = psutil.Process(pid)
            if process.status() not in GONE and process.create_time() < at + STEP_OF_CLOCK:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
        except psutil.NoSuchProcess:
            pass
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"the process that executed this run (pid {pid}) ended without a word; run it again")
