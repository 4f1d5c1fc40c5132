"""kill -9 at random instants while a Debezium stream is landed from Kafka: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resources.lake import LocalLake
from stripe_platform.cdc import kafka
from stripe_platform.cdc.bench import PEERS
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.replay import Event
from stripe_platform.cdc.verify import verify
from stripe_platform.settings import load_settings

CDC = Path(__file__).parents[1] / "cdc"
sys.path.insert(0, str(CDC))
from debezium_events import SOURCE, landed, row, transaction  # noqa: E402
from debezium_peers import broker, create_topics  # noqa: E402

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not PEERS.exists(), reason="run `make peers` first")]
KILLS, TRANSACTIONS = 25, 2_000
READING = """
import sys
sys.path.insert(0, sys.argv[1])
from debezium_events import CATALOGUE, ENCODING, SOURCE
from pathlib import Path
from resources.lake import LocalLake
from stripe_platform.cdc import capture
from stripe_platform.cdc.intake import intake
from stripe_platform.cdc.kafka import Topics
from stripe_platform.settings import load_settings
capture.BATCH_ROWS = 300
print("reads", flush=True)
intake(load_settings(), lambda positions: Topics(sys.argv[2], "pay", positions, idle_seconds=1.0), stream="pay",
       catalogue=CATALOGUE, encoding=ENCODING, lake=LocalLake(Path(sys.argv[3])), source=SOURCE)
print("whole", flush=True)
"""


def test_a_reading_of_topics_killed_at_random_lands_every_change_once(own_home, tmp_path):
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FAULT_SEED={seed}")
    dice, told = random.Random(seed), []  # noqa: S311 - a replayable run
    for n in range(TRANSACTIONS):
        changes = [("c", row(n * 10 + k)) for k in range(dice.randint(1, 8))]
        told += transaction(n + 1, 1_000 * (n + 1), *changes, previous=1_000 * n + 50 if n else None)
    expected = [(item["value"]["after"]["id"], item["value"]["transaction"]["total_order"])
                for item in told if "op" in item["value"]]
    lake, killed = LocalLake(tmp_path / "lake"), 0
    with broker() as address:
        create_topics(address, ["pay.transaction", "pay.shop.orders"], 4)
        kafka.write(address, (Event(**item) for item in told))
        while True:
            process = subprocess.Popen([sys.executable, "-c", READING, str(CDC), address, str(lake.root)],
                                       stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            process.stdout.readline()
            if killed < KILLS:
                time.sleep(dice.uniform(0.0, 0.6))
                process.send_signal(signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
                process.stdout.close()
                continue
            assert process.communicate(timeout=120)[0].endswith("whole\n")
            break
    assert [(r["id"], r["_ord"]) for r in landed(lake)] == expected
    assert len(Chain.load(lake).manifests) > 10
    assert verify(load_settings(), lake=lake, source=SOURCE).problems == []
