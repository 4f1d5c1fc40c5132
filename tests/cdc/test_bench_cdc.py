"""`bench cdc` on small numbers: every side is measured, and a figure counts only when everything was landed."""

from __future__ import annotations

import pytest

from stripe_platform.bench import Report
from stripe_platform.cdc import bench
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import apply_bench

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not bench.PEERS.exists(), reason="run `make peers` first")]


def test_every_side_reads_the_whole_backlog_and_is_held_against_its_bar(servers, own_home):
    report = Report("cdc")
    bench.land(report, load_settings(), servers.superuser("oltp"), changes=20_000, rounds=1)
    bench.snapshot(report, load_settings(), servers.superuser("oltp"), rows=20_000, rounds=1)
    apply_bench.apply(report, load_settings(), servers.superuser("warehouse"), stored=3_000, changed=2_000, rounds=1)
    bench.memory(report, load_settings(), servers.superuser("oltp"), sizes=(10_000, 20_000))
    told = report.as_json()
    assert {"land/debezium", "land/raw drain", "snapshot/debezium", "apply/copy"} == told["ratios"].keys()
    assert set(told["ratios"]) < set(told["bars"])
    assert all(figure["median"] > 0 for figure in told["figures"].values())
    assert len([name for name in told["figures"] if name.startswith("peak memory")]) == 3
