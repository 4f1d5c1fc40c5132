"""The sensor under kill -9: the daemon that ticks, the code server that evaluates, the processes that execute runs.

All are the deployment's own: run storage, queue, monitoring, launcher, code server. `FAULT_SEED` replays a run,
`SENSOR_STORM` says how many kills. Afterwards the sensor comes to rest by itself, and every batch is in raw.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest
from beside import beside
from company import TABLES, pay, raw_differing
from dagster._core.definitions.run_request import InstigatorType
from killing import in_child, start
from oltp_shop import Shop
from psycopg import sql

from resources.lake import open_lake
from stripe_platform import runs
from stripe_platform.cdc import sensors
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.sensors import ATTEMPT_TAG, BATCH_TAG, Cursor
from stripe_platform.cdc.verify import verify
from stripe_platform.embedded import servers as embedded
from stripe_platform.embedded import state
from stripe_platform.keys import DATED
from stripe_platform.oltp.calendar import close_day
from stripe_platform.settings import Settings, load_settings

pytestmark = [pytest.mark.faults, pytest.mark.servers]
KILLS = int(os.environ.get("SENSOR_STORM", "50"))
DAYS = 6  # ledger days of the storm, all but the last closed in its course
MOST_KILLED, KILLING_RUNS = sensors.BEGINNINGS // 2, ("run", "server_and_run", "everything")
START_SECONDS = 25  # a run that has not begun by then is given up by the monitoring
PATIENCE = 300.0
OPEN = [s for s in dg.DagsterRunStatus if s not in (
    dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)]


class Deployment:
    """Code server and daemon over one instance, each a process that may be killed."""

    def __init__(self, home: Path) -> None:
        self.socket, self.log = home / "code.sock", (home / "code.log").open("a")
        self.server: psutil.Popen | None = None

    def serve(self) -> None:
        """Start the code server, and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        self.server = psutil.Popen(
            [Path(sys.executable).with_name("dagster"), "api", "grpc", "-s", self.socket, "--location-name", "storm",
             "-f", Path(__file__).with_name("arrivals_location.py")], stdout=self.log, stderr=subprocess.STDOUT)
        assert in_child(self._answers) == 0, "the code server does not answer"

    def _answers(self) -> None:
        from dagster._core.errors import DagsterUserCodeUnreachableError
        from dagster._grpc.client import DagsterGrpcClient

        until = time.monotonic() + 120
        while True:
            try:
                DagsterGrpcClient(socket=str(self.socket)).ping("here")
                return
            except DagsterUserCodeUnreachableError:
                assert time.monotonic() < until
                time.sleep(0.1)

    def daemon(self) -> int:
        """The daemon's process: sensors, queue and monitoring as `dagster-daemon run` has them, but oftener."""
        return start(self._run_daemon)

    def _run_daemon(self) -> None:
        from dagster._core.workspace.load_target import GrpcServerTarget
        from dagster._daemon import sensor
        from dagster._daemon.controller import daemon_controller_from_instance
        from dagster._daemon.daemon import MonitoringDaemon, SensorDaemon
        from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

        sensor.MIN_INTERVAL_LOOP_TIME = 0.2
        target = GrpcServerTarget(host="localhost", port=None, socket=str(self.socket), location_name="storm")
        with dg.DagsterInstance.get() as instance, daemon_controller_from_instance(
            instance, target, log_level="error", gen_daemons=lambda found: [
                SensorDaemon(found.get_sensor_settings()), QueuedRunCoordinatorDaemon(interval_seconds=0.2),
                MonitoringDaemon(interval_seconds=1)]) as controller:
            controller.check_daemon_loop()

    def workers(self) -> list[psutil.Process]:
        """Processes that execute runs, of this code server and of killed ones."""
        return [p for p in psutil.process_iter() if executes_a_run(p)]

    def kill_server(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait(30)

    def end(self) -> None:
        self.kill_server()
        for worker in self.workers():
            worker.kill()


def executes_a_run(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return (any("spawn_main" in word for word in process.cmdline())
                and process.environ().get("STORM_OF") == os.environ["STORM_OF"])
    return False


class Storm:
    """Every method kills something in the middle of its work."""

    def __init__(self, deployment: Deployment, dice: random.Random) -> None:
        self.of, self.dice, self.counts, self.runs_killed = deployment, dice, Counter[str](), 0

    def strike(self) -> None:
        name = self.dice.choices(["daemon", "request", "run", "server", "server_and_run", "everything"],
                                 [30, 24, 20, 10, 8, 8])[0]
        if self.runs_killed == MOST_KILLED:  # more would use up what its batches may begin
            name = "request"
        self.runs_killed = 0 if name == "request" else self.runs_killed + (name in KILLING_RUNS)
        self.counts[name] += 1
        getattr(self, name)()

    def _after(self, seconds: float) -> None:
        time.sleep(self.dice.uniform(0, seconds))

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        daemon = self.of.daemon()
        try:
            yield
        finally:
            os.kill(daemon, 9)
            os.waitpid(daemon, 0)

    def daemon(self) -> None:
        """The daemon, wherever it stands."""
        with self._ticking():
            self._after(4.0)

    def request(self) -> None:
        """The daemon, about when it asks for a run: what it asked for before is carried by then."""
        before = done()
        with self._ticking():
            waited(lambda: done() > before)
        with self._ticking():
            self._after(2.5)

    def run(self) -> None:
        """A process that executes a run."""
        with self._ticking():
            waited(lambda: bool(self.of.workers()))
            self._after(10.0)
            self._kill_workers()

    def _kill_workers(self) -> None:
        for worker in self.of.workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def server(self) -> None:
        """The code server, which evaluates ticks; the runs that it started go on without it."""
        with self._ticking():
            self._after(3.0)
            self.of.kill_server()
        self.of.serve()

    def server_and_run(self) -> None:
        """The code server with the runs that it watches: the daemon lives on, as where memory ran out."""
        with self._ticking():
            waited(lambda: bool(self.of.workers()))
            self._after(10.0)
            self.of.kill_server()
            self._kill_workers()
            self.of.serve()

    def everything(self) -> None:
        """Daemon, code server and runs; what comes up then closes what was under way, as `stripe-platform ui`."""
        with self._ticking():
            self._after(8.0)
            self.of.end()
        with dg.DagsterInstance.get() as instance:
            runs.close_interrupted(instance, runs.BY_UI)
        self.of.serve()


def waited(look: Callable[[], object], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, f"not reached within {seconds:.0f} s: {standing()}"
        time.sleep(0.05)


def open_runs() -> int:
    with psycopg.connect(os.environ["STRIPE_PLATFORM_DAGSTER_DSN"]) as conn:
        if conn.execute("select to_regclass('runs')").fetchone() == (None,):
            return 0
        found = conn.execute("select count(*) from runs where status = any(%s)", [[s.value for s in OPEN]]).fetchone()
    return found[0] if found else 0


def standing() -> str:
    """What the daemon sees: runs by state, and the cursor."""
    with dg.DagsterInstance.get() as instance:
        return f"{Counter(run.status.value for run in instance.get_runs())}, {cursor(instance)}"


def cursor(instance: dg.DagsterInstance) -> Cursor:
    found = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    data = found[0].instigator_data if found else None
    return Cursor.parse(getattr(data, "cursor", None))


def done() -> int:
    with dg.DagsterInstance.get() as instance:
        return cursor(instance).done


def at_rest(settings: Settings) -> bool:
    """Whether the sensor has nothing left to do: no run is open, its cursor is the log's end."""
    with dg.DagsterInstance.get() as instance:
        end = Chain.load(open_lake(settings)).manifests[-1].seq
        seen = cursor(instance)
        return seen.done == seen.through == end and not open_runs()


@pytest.fixture
def instance_home(servers, shop: Shop, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The deployment's instance on a run storage of its own, and a calendar of some days."""
    name = f"dagster_{secrets.token_hex(6)}"
    with psycopg.connect(servers.superuser("warehouse"), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} owner dagster").format(sql.Identifier(name)))
        dsn = servers.url("STRIPE_PLATFORM_DAGSTER_DSN", name)
        state.write_instance(own_home, embedded.INSTANCE_TEMPLATE, dsn)
        written = own_home / "dagster" / "dagster.yaml"
        text = written.read_text()
        assert "start_timeout_seconds: 300" in text
        written.write_text(text.replace("start_timeout_seconds: 300", f"start_timeout_seconds: {START_SECONDS}"))
        first = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=DAYS - 1)
        for variable, value in (("STRIPE_PLATFORM_DAGSTER_DSN", dsn), ("DAGSTER_HOME", str(own_home / "dagster")),
                                ("STRIPE_PLATFORM_FIRST_DAY", first.isoformat()), ("STORM_OF", name)):
            monkeypatch.setenv(variable, value)
        yield own_home
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_after_fifty_kills_the_sensor_has_carried_every_batch_and_none_twice(shop: Shop, instance_home: Path):
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FAULT_SEED={seed}")
    settings, over, made = load_settings(), threading.Event(), Counter[str]()
    struck = 0

    def live() -> None:
        dice, day = random.Random(seed + 1), settings.first_day  # noqa: S311 - a replayable run
        with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
            while not over.wait(0.15):
                pay(conn, shop, dice)
                made["payments"] += 1
                if made["days"] < (DAYS - 1) * struck // KILLS:
                    with conn.transaction():
                        close_day(conn, day + dt.timedelta(days=made["days"]))
                    made["days"] += 1

    deployment = Deployment(instance_home)
    storm = Storm(deployment, random.Random(seed))  # noqa: S311 - a replayable run
    try:
        deployment.serve()
        with beside(live, over):
            for _ in range(KILLS):
                storm.strike()
                struck += 1
        capture(settings)
        daemon = deployment.daemon()
        waited(lambda: at_rest(settings))
        os.kill(daemon, 9)
        os.waitpid(daemon, 0)
    finally:
        deployment.end()
    with dg.DagsterInstance.get() as instance:
        found = instance.get_runs()
        left = sensors._uncarried(instance, Chain.load(open_lake(settings)), 0, settings.first_day)
    states, names = Counter(run.status.value for run in found), Counter(
        (run.tags[BATCH_TAG], run.tags[ATTEMPT_TAG]) for run in found)
    carried = Counter(run.tags[BATCH_TAG] for run in found if run.status == dg.DagsterRunStatus.SUCCESS)
    worst = max(int(run.tags[ATTEMPT_TAG]) for run in found)
    print(f"FAULT_SEED={seed}: {dict(storm.counts)}, {dict(made)}, runs {dict(states)}, most attempts {worst}")
    assert left == ([], []), f"FAULT_SEED={seed}"
    assert verify(settings).problems == [], f"FAULT_SEED={seed}"
    assert raw_differing(settings, [name for name in TABLES if name in DATED]) == [], f"FAULT_SEED={seed}"
    assert set(names.values()) == {1}, f"FAULT_SEED={seed}"
    assert set(carried.values()) == {1}, f"FAULT_SEED={seed}"
    assert set(carried) == {run.tags[BATCH_TAG] for run in found}, f"FAULT_SEED={seed}: given up"
    assert made["payments"] > KILLS
