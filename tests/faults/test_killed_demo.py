"""`demo` killed with kill -9 wherever it stands, and run again: it ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import psycopg
import pytest
from platforms import Platform

from stripe_platform.embedded import servers

pytestmark = pytest.mark.faults
DEMO = ("demo", "--per-day", "300")
DAYS = 42  # 28 with charges and the tail in which their disputes arrive
PATIENCE = 600.0  # seconds until a place must have been reached
Place = Callable[[Platform], bool]


@pytest.fixture(scope="module")
def undisturbed(new_platform) -> dict:
    """What a demo of the same seed reports when nobody disturbs it."""
    return new_platform("undisturbed").json(*DEMO)


def ask(platform: Platform, name: str, query: str) -> int:
    """One number from a store; 0 while its address, the server or the table is not there yet."""
    try:
        with psycopg.connect(platform.dsn(name), connect_timeout=5) as connection:
            row = connection.execute(query).fetchone()
    except (KeyError, psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return 0
    return int(row[0]) if row else 0


def half_of_the_days_closed(platform: Platform) -> bool:
    return ask(platform, "OLTP_OWNER_DSN", "select count(*) from ops.day_ledger") >= DAYS // 2


def some_batches_durable(platform: Platform) -> bool:
    return len(list((platform.home / "lake/cdc/manifests").glob("*.json"))) >= 3


def some_days_compacted(platform: Platform) -> bool:
    return len(list((platform.home / "lake/cdc/daily/charges").glob("*.parquet"))) >= 3


def some_raw_tables_applied(platform: Platform) -> bool:
    return ask(platform, "WAREHOUSE_DSN", "select count(distinct table_name) from raw._applied") >= 3


def a_model_of_dbt_is_built(platform: Platform) -> bool:
    return ask(platform, "WAREHOUSE_DSN", "select count(*) from pg_stat_activity where application_name = 'dbt'"
               " and state in ('active', 'idle in transaction') and xact_start is not null") > 0


def the_model_trains(platform: Platform) -> bool:
    return step_runs(platform, "fraud__model")


def step_runs(platform: Platform, step: str) -> bool:
    """Whether the newest run is inside this step."""
    return ask(platform, "DAGSTER_DSN", f"""
        select count(*) filter (where dagster_event_type = 'STEP_START')
             - count(*) filter (where dagster_event_type in ('STEP_SUCCESS', 'STEP_FAILURE'))
        from event_logs where step_key = '{step}'
          and run_id = (select run_id from runs order by id desc limit 1)""") > 0


def demo_killed(platform: Platform, place: Place, *, servers_too: bool = False) -> None:
    """Start the demo; when `place` is reached, kill its whole process group, and the servers when asked."""
    with (platform.home / "killed.out").open("w+") as output:
        process = platform.popen(*DEMO, stdout=output, own_session=True)
        until, running = time.monotonic() + PATIENCE, []
        try:
            while not place(platform):
                output.seek(0)
                assert process.poll() is None, f"the demo ended before {place.__name__}: {output.read()[-2000:]}"
                assert time.monotonic() < until, f"{place.__name__} was not reached in {PATIENCE:.0f} s"
                time.sleep(0.01)
            running = server_processes(platform) if servers_too else []
        finally:
            with suppress(ProcessLookupError):  # it ended by itself: the assertion above says how
                os.killpg(process.pid, signal.SIGKILL)
            for server in running:
                with suppress(psutil.NoSuchProcess):  # a session that ended with its client
                    server.kill()
        assert process.wait() == -signal.SIGKILL, f"the demo was faster than the kill at {place.__name__}"
    psutil.wait_procs(running, timeout=30)
    states = {row["state"] for row in servers.status(platform.home)}
    assert states == ({"stopped"} if servers_too else {"running"})


def server_processes(platform: Platform) -> list[psutil.Process]:
    """The platform's servers, and after them all their children: nobody is left to end in order."""
    mains = [psutil.Process(int(row["pid"])) for row in servers.status(platform.home)]
    return [*mains, *(child for main in mains for child in main.children(recursive=True))]


def ends_like(platform: Platform, undisturbed: dict) -> None:
    report = platform.json(*DEMO)
    assert report["marts"] == undisturbed["marts"]
    assert report["checks"] == undisturbed["checks"]
    assert (report["checks"]["failed"], report["checks"]["not_evaluated"]) == (0, 0)
    assert report["model"] == undisturbed["model"]
    for layer in ("oltp", "raw", "marts", "documents", "features"):
        got, expected = dict(report["layers"][layer]), dict(undisturbed["layers"][layer])
        del got["seconds"], expected["seconds"]
        assert got == expected, layer
    open_runs = ask(platform, "DAGSTER_DSN", "select count(*) from runs where status not in ('SUCCESS', 'FAILURE')")
    assert open_runs == 0
    assert platform.json("cdc", "verify")["problems"] == []
    assert platform.json("doctor") == {"problems": []}


def test_a_demo_killed_in_every_layer_ends_like_an_undisturbed_one(new_platform, undisturbed):
    platform = new_platform("killed")
    for place in (half_of_the_days_closed, some_batches_durable, some_days_compacted, some_raw_tables_applied,
                  a_model_of_dbt_is_built, the_model_trains):
        demo_killed(platform, place)
    ends_like(platform, undisturbed)


def test_a_demo_whose_servers_die_with_it_ends_like_an_undisturbed_one(new_platform, undisturbed):
    platform = new_platform("all_killed")
    for place in (half_of_the_days_closed, some_raw_tables_applied, a_model_of_dbt_is_built):
        demo_killed(platform, place, servers_too=True)
    ends_like(platform, undisturbed)
