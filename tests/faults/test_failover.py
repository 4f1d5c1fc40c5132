"""The whole drill: kill -9 of a primary under load, failover, return, switchover."""

from __future__ import annotations

import json

import psutil
import pytest

from stripe_platform.embedded.drill import drill

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
