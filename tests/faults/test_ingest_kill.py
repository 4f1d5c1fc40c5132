"""kill -9 in the middle of an import: what is run again gives the rows of an import that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "ingest"))
from ingest_snapshot import differences, snapshot
from stripe_objects import account, bring_world, charge, customer, event, intent, method

from stripe_platform.keyring import open_keyring

pytestmark = [pytest.mark.faults, pytest.mark.servers]


def _objects(count):
    for i in range(count):
        yield event(
            charge(f"ch_{i}", f"cus_{i % 50}", payment_intent=f"pi_{i}", payment_method=f"pm_{i % 50}"),
            "charge.succeeded",
            at=1_700_000_000 + i,
            key=f"evt_{i}",
            account="acct_1",
        )
        made = intent(f"pi_{i}", f"cus_{i % 50}", payment_method=f"pm_{i % 50}")
        yield event(made, "payment_intent.created", at=1_700_000_000 + i, key=f"evt_i{i}", account="acct_1")
    for i in range(50):
        yield from (method(f"pm_{i}", f"cus_{i}"), customer(f"cus_{i}"))
    yield account()


def test_killed_and_run_again_is_as_never_killed(oltp, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, _objects(1_500))))
    command = [sys.executable, "-c", "from stripe_platform.cli import main; main()", "ingest", str(file), "--json"]
    ring = open_keyring(oltp)
    with psycopg.connect(oltp.need("oltp_owner_dsn"), autocommit=True) as owner:
        bring_world(owner)
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as conn:
        killed = 0
        for _ in range(3):
            landed = conn.execute("select count(*) from ingest.objects").fetchone()
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and running.poll() is None:
                if conn.execute("select count(*) from ingest.objects").fetchone() != landed:
                    break
                time.sleep(0.05)
            if running.poll() is None:
                os.kill(running.pid, signal.SIGKILL)
                killed += 1
            running.wait()
        assert killed > 0
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
        assert (report["lost"], report["received"], report["normalised"]) == (0, 3_101, 3_101)
        once = snapshot(conn, ring)
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(again.stdout.splitlines()[-1])["duplicates"] == 3_101
        assert differences(once, snapshot(conn, ring)) == []
        assert conn.execute("select count(*) from oltp.charges where payment_intent_id is not null").fetchone() == (
            1_500,
        )
        assert conn.execute("select count(*) from ingest.pending_references").fetchone() == (0,)
