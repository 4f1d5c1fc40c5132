"""A hot standby, its promotion and the way back, on two real servers; and the reader of changes that follows them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pyarrow as pa
import pytest

from resources.lake import LocalLake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import CaptureError, capture
from stripe_platform.cdc.slot import OPTIONS
from stripe_platform.cdc.verify import verify
from stripe_platform.embedded import captured, lag, standby
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.pair import PUBLICATION, SLOT, Pair, make_payers
from stripe_platform.embedded.scratch import clear, scratch
from stripe_platform.embedded.standby import Member

servers = pytest.mark.servers
TABLES = ("accounts", "currencies", "customers", "payment_methods")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A primary with schema and slot, alone; the standby is the test's to start."""
    with scratch(tmp_path, "pair") as home:
        pair = Pair.below(home, fsync=False)
        pair.start_first()
        yield pair


def lake(pair: Pair) -> LocalLake:
    return LocalLake(pair.home / "lake")


def pay(pair: Pair, member: Member, number: int = 2) -> None:
    """Some committed rows on the member, which must be the primary."""
    with psycopg.connect(pair.url_of(member, "payments_owner")) as connection:
        make_payers(connection, number)


def pay_more(pair: Pair, member: Member) -> None:
    """One row that the others do not have."""
    with psycopg.connect(pair.url_of(member, "payments_owner")) as connection:
        connection.execute("insert into oltp.customers (id, country, currency, token, created)"
                           " values ('cus_more', 'FR', 'eur', 'more', now())")


def touch(pair: Pair, member: Member) -> None:
    """One more committed change."""
    with psycopg.connect(pair.url_of(member, "payments_owner")) as connection:
        connection.execute("update oltp.customers set delinquent = not delinquent")


def customers(pair: Pair, member: Member) -> int:
    with psycopg.connect(pair.url_of(member, "payments_owner")) as connection:
        row = connection.execute("select count(*) from oltp.customers").fetchone()
    assert row is not None
    return row[0]


def comparison(pair: Pair) -> captured.Comparison:
    with psycopg.connect(pair.url("payments_owner"), options=OPTIONS) as connection:
        return captured.compare(lake(pair), connection, TABLES)


@servers
def test_the_change_log_goes_on_from_the_promoted_standby_nothing_lost_or_doubled(pair):
    pair.start_second()
    pay(pair, pair.first)
    capture(pair.settings)
    touch(pair, pair.first)
    standby.wait_for_slot(pair.first, pair.second, SLOT)
    touch(pair, pair.first)  # committed, not captured: only the copied slot can give it
    standby.kill(pair.first)
    assert not standby.answers(pair.first)
    standby.promote(pair.second)
    assert customers(pair, pair.second) == 2
    assert verify(pair.settings).problems == []  # whole before the first capture there, too
    touch(pair, pair.second)
    assert capture(pair.settings).rows == {"customers": 6}
    assert [e.timeline for e in manifests.load_epochs(lake(pair))] == [1, 2]
    found = comparison(pair)
    assert (found.lost, found.doubled, found.equal) == (0, 0, True)
    assert verify(pair.settings).problems == []
    assert capture(pair.settings).total == 0


@servers
def test_a_reader_never_holds_what_a_standby_lacks_and_is_refused_where_it_was_let_ahead(pair):
    pair.start_second(synchronous=False)
    pay(pair, pair.first)
    capture(pair.settings)
    standby.wait_for_slot(pair.first, pair.second, SLOT)
    pair.second.cluster.stop()
    touch(pair, pair.first)
    held = capture(pair.settings, budget_seconds=1)
    assert (held.total, held.reached_end) == (0, False)
    standby.lead(pair.first)  # the standby is no longer waited for
    assert capture(pair.settings).total == 2
    standby.kill(pair.first)
    pair.second.cluster.start()
    standby.promote(pair.second)
    with pytest.raises(CaptureError, match="on another server or timeline"):
        capture(pair.settings)
    assert verify(pair.settings).problems
    assert len(manifests.load_epochs(lake(pair))) == 1


@servers
def test_a_killed_primary_comes_back_without_what_only_it_had_and_takes_over_the_whole_log(pair):
    pair.start_second(synchronous=False)
    pay(pair, pair.first)
    standby.wait_until(lambda: customers(pair, pair.second) == 2, "not replayed")
    pair.second.cluster.stop()
    pay_more(pair, pair.first)  # never on the standby
    standby.kill(pair.first)
    pair.second.cluster.start()
    standby.promote(pair.second)
    standby.lead(pair.second)
    standby.admit(pair.second, pair.first, pair.standby_password)
    assert standby.rejoin(pair.first, pair.second, pair.standby_password) == "rewound"
    standby.lead(pair.second, [pair.first])
    standby.wait_in_sync(pair.second, pair.first)
    assert customers(pair, pair.first) == 2
    with pair.first.connect() as connection:
        assert connection.execute("select count(*) from pg_replication_slots where not synced").fetchone() == (0,)
    pay_more(pair, pair.second)
    with pytest.raises(ServerError, match="was not shut down in order"):
        standby.shutdown_position(pair.second)
    pair.second.cluster.stop()
    assert standby.has_replayed(pair.first, standby.shutdown_position(pair.second))
    standby.promote(pair.first)
    assert customers(pair, pair.first) == 3
    standby.lead(pair.first)
    standby.admit(pair.first, pair.second, pair.standby_password)
    standby.follow(pair.second, pair.first, pair.standby_password)
    standby.lead(pair.first, [pair.second])
    standby.wait_in_sync(pair.first, pair.second)


@servers
def test_the_comparison_finds_a_lost_a_doubled_and_a_changed_row(pair):
    pay(pair, pair.first)
    capture(pair.settings)
    assert comparison(pair).equal
    pay_more(pair, pair.first)
    lost = comparison(pair)
    assert (lost.lost, lost.doubled, lost.equal) == (1, 0, False)
    capture(pair.settings)
    assert comparison(pair).equal
    with psycopg.connect(pair.url("payments_owner")) as connection:
        connection.execute(f"alter publication {PUBLICATION} drop table oltp.customers")
        connection.execute("update oltp.customers set delinquent = true where id = 'cus_more'")
    capture(pair.settings)
    changed = comparison(pair)
    assert (changed.lost, changed.doubled, changed.equal) == (0, 0, False)


def test_a_change_captured_in_two_epochs_is_counted_as_doubled():
    twice = pa.table({"_epoch": ["000001-00000001", "000002-00000002", "000002-00000002"],
                      "_commit_lsn": [10, 10, 20], "_ord": [1, 1, 1]})
    assert captured._repeated(twice) == 1


def test_percentiles_are_samples():
    assert lag.percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert lag.percentile([3.0], 0.99) == 3.0


@servers
def test_a_killed_owner_leaves_neither_servers_nor_files(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from stripe_platform.embedded.pair import Pair\nfrom stripe_platform.embedded.scratch import scratch\n"
        "with scratch(Path(sys.argv[1]), 'pair') as home:\n"
        "    pair = Pair.below(home, fsync=False)\n"
        "    pair.first.cluster.make()\n    pair.first.cluster.start()\n"
        "    print(pair.first.cluster.data, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    data = Path(done.stdout.strip())
    until = time.monotonic() + 30
    while (data.exists() or list(tmp_path.iterdir())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not data.exists()
    assert list(tmp_path.iterdir()) == []
    assert [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(data))] == []


def test_the_folder_of_a_dead_owner_is_cleared_by_the_next_and_that_of_a_living_one_is_not(tmp_path):
    left = tmp_path / "pair-left"
    left.mkdir()
    with scratch(tmp_path, "pair") as first, scratch(tmp_path, "pair") as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()
        (first / "note.json").write_text(json.dumps({}))
    assert list(tmp_path.iterdir()) == []
    clear(first)  # of what is gone: harmless
