"""The whole drill: kill -9 of a primary under load, failover, return, switchover."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import psycopg
import pytest

from stripe_platform.embedded import standby
from stripe_platform.embedded.drill import drill
from stripe_platform.embedded.load import Load
from stripe_platform.embedded.pair import Pair, make_payers
from stripe_platform.embedded.scratch import scratch

pytestmark = pytest.mark.faults


def test_nothing_promised_is_lost_and_the_change_log_goes_on(tmp_path):
    report = drill(tmp_path, seconds=5)
    print(json.dumps({name: report[name] for name in ("rto_seconds", "replay_lag_p99_ms", "switchback_seconds")}))
    assert report["acknowledged"] > 100
    assert (report["lost"], report["doubled"]) == (0, 0)
    cdc = report["cdc"]
    assert (cdc["lost"], cdc["doubled"], cdc["equal"], cdc["problems"]) == (0, 0, True, [])
    assert len(cdc["epochs"]) == 3
    assert all(cdc["epochs"].values())
    assert list(tmp_path.iterdir()) == []
    assert [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(tmp_path))] == []


@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_synchronous_commits_survive_a_standby_that_was_cut_off_and_asynchronous_ones_do_not(tmp_path, synchronous):
    """The standby stops receiving before the kill and never gets what was on its way: the proof can fail."""
    with scratch(tmp_path, "cut-off") as home:
        pair = Pair.below(home, fsync=False)
        pair.start_first()
        with psycopg.connect(pair.url("payments_owner")) as connection:
            payers = make_payers(connection, 4)
        pair.start_second(synchronous=synchronous)
        load = Load(pair.url("payments_app"), payers, home)
        try:
            standby.wait_until(lambda: len(load.acknowledged()) > 100, "the load did not begin")
            receiver = receiver_of(pair)
            os.kill(receiver, signal.SIGSTOP)
            time.sleep(1)
            standby.kill(pair.first)
            os.kill(receiver, signal.SIGKILL)
            standby.wait_until(lambda: not psutil.pid_exists(receiver) and standby.answers(pair.second), "gone")
            promised = {ack.charge_id for ack in load.acknowledged()}
            standby.promote(pair.second)
        finally:
            load.stop(0)
        with psycopg.connect(pair.url_of(pair.second, "payments_app")) as connection:
            there = {charge for (charge,) in connection.execute("select id from oltp.charges")}
        assert bool(promised - there) is not synchronous


def receiver_of(pair: Pair) -> int:
    with pair.second.connect() as connection:
        row = connection.execute("select pid from pg_stat_wal_receiver").fetchone()
    assert row is not None
    return row[0]
