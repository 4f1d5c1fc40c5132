"""The picture of the change log: from what was seen, what is in the log, and what is proven."""

from __future__ import annotations

import dataclasses
import datetime as dt
import struct
from dataclasses import replace

import pytest

from stripe_platform import pictures
from stripe_platform.cdc import dashboard, proof, quarantined
from stripe_platform.cdc.dashboard import Sample, add, changes_by_day, picture, samples, unproven
from stripe_platform.cdc.manifest import Chain, Manifest, canonical
from stripe_platform.settings import load_settings

DAY = dt.date(2026, 6, 1)


def sample(n: int = 0) -> Sample:
    at = dt.datetime(2026, 6, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=n)
    return Sample(at.isoformat(), float(n), n * 1000, n * 5000, 900.0, n)


def batch(seq: int, changes: int, closes: dt.date | None = None) -> Manifest:
    return Manifest(seq, None, "oltp", "slot", "1", 1, 1, "000001-00000001", seq * 100, (seq + 1) * 100, 1, changes, 0,
                    None, None, closes)


def test_the_newest_samples_are_kept_and_a_torn_file_is_none(store, monkeypatch):
    monkeypatch.setattr(dashboard, "KEPT", 3)
    for n in range(5):
        add(store, sample(n))
    assert [each.seconds_behind for each in samples(store)] == [2.0, 3.0, 4.0]
    store.put(dashboard.HEALTH, b'[{"at": "2026')
    assert samples(store) == []
    assert add(store, sample(9)) == [sample(9)]


def test_changes_are_counted_by_ledger_day_the_open_one_last():
    log = Chain([batch(1, 5), batch(2, 7, DAY), batch(3, 2)])
    assert changes_by_day(log, DAY) == {DAY: 12, DAY + dt.timedelta(days=1): 2}


def test_the_least_proven_table_comes_first(store):
    log = Chain([batch(1, 5)])
    equal, other = proof.TableProof("refunds"), proof.TableProof("charges", buckets_differing=1)
    proof.publish(store, proof.Proof("oltp", "0/64", "2026-06-01T00:00:00+00:00", tables=[equal, other]))
    found = unproven(store, log, ["refunds", "charges", "payouts"])
    assert list(found.items()) == [("charges", None), ("payouts", None), ("refunds", 100)]


def test_the_picture_is_small_enough_for_a_runs_metadata():
    by_day = {DAY + dt.timedelta(days=n): n * 1000 for n in range(42)}
    proofs = {f"table_{n:02}": (n * 10**6) or None for n in range(60)}
    seen = [replace(sample(n * 20), unacknowledged_bytes=n * 7919 % 500 * 2**20, raw_put_aside=n * 31 % 97,
                    documents_put_aside=n * 17 % 89) for n in range(500)]
    png = picture(seen, by_day, proofs)
    width, height = struct.unpack(">II", png[16:24])
    assert (png[:4], width > 600, height > 300, len(png) < pictures.LARGEST) == (b"\x89PNG", True, True, True)


def test_samples_of_a_release_that_counted_less_are_kept_and_leave_a_gap(store):
    old = dataclasses.asdict(sample(1))
    for name in ("raw_put_aside", "documents_put_aside"):
        del old[name]
    store.put(dashboard.HEALTH, canonical([old]))
    seen = add(store, replace(sample(2), raw_put_aside=3, documents_put_aside=0))
    assert [(s.raw_put_aside, s.documents_put_aside) for s in seen] == [(None, None), (3, 0)]
    assert picture(seen, {DAY: 1}, {})[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("error")
def test_every_range_of_time_has_an_axis():
    for seconds in (1, 7, 60, 200, 3_600, 9_700, 10_700, 86_400, 300_000, 5_000_000, 60_000_000):
        at = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
        seen = [replace(sample(), at=(at + dt.timedelta(seconds=n * seconds / 4)).isoformat()) for n in range(5)]
        assert picture(seen, {}, {})[:4] == b"\x89PNG"


def test_a_store_that_does_not_answer_is_not_counted_and_holds_nothing_up(source, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_WAREHOUSE_DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1:1")
    assert quarantined.by_store(load_settings()) == {"raw": None, "documents": None}


def test_a_log_without_anything_has_a_picture_too():
    assert picture([], {}, {})[:4] == b"\x89PNG"
