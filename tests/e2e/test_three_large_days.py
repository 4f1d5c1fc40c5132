"""Three days of ten million changes each: every store equal to the cent, and the log proved against its source.

`VOLUME_CHANGES` is the number of changes a day, ten million by default: hours of work for two cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.volume
CHANGES = int(os.environ.get("VOLUME_CHANGES", "10_000_000"))
CHANGES_PER_CHARGE = 6.6  # a charge of full life: intent, charge, outcome, movement, fees, ledger; refunds and disputes
DAYS = 3
SECONDS_PER_MILLION = 30
STORES = ("oltp", "raw", "marts", "documents")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """A data folder with servers of its own, on disk."""
    folder = tmp_path_factory.mktemp("large")
    yield folder
    run(folder, "down")


def run(folder: Path, *words: str) -> str:
    """A command in the data folder; the last line it printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE_PLATFORM_", "MONGODB_"))}
    done = subprocess.run(
        [Path(sys.executable).parent / "stripe-platform", *words], env=own | {"STRIPE_PLATFORM_HOME": str(folder)},
        check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def test_three_large_days_are_equal_to_the_cent_in_every_store_and_proved_against_the_source(home):
    per_day = math.ceil(CHANGES / CHANGES_PER_CHARGE)
    report = json.loads(run(home, "demo", "--start", "2026-06-01", "--days", str(DAYS), "--per-day", str(per_day),
                            "--json"))
    proof = json.loads(run(home, "cdc", "verify", "--json"))
    seconds = proof["equality"]["seconds"] / (proof["rows_compared"] / 1e6)
    print(json.dumps({"changes": proof["changes"], "rows": proof["rows_compared"], "verify s per 10^6 rows": seconds,
                      "demo seconds": report["seconds"],
                      "by layer": {layer: counts["seconds"] for layer, counts in report["layers"].items()}}))
    assert proof["changes"] >= DAYS * CHANGES
    sums = [report["amounts"][store] for store in STORES]
    assert sums[0], "charges were made"
    assert all(each == sums[0] for each in sums), sums
    assert (report["checks"]["failed"], proof["problems"]) == (0, [])
    assert seconds <= SECONDS_PER_MILLION
