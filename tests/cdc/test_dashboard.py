"""The picture of the change log: from what was seen, what is in the log, and what is proven."""

from __future__ import annotations

import datetime as dt
import struct
from dataclasses import replace

from stripe_platform import pictures
from stripe_platform.cdc import dashboard, proof
from stripe_platform.cdc.dashboard import Sample, add, changes_by_day, picture, samples, unproven
from stripe_platform.cdc.manifest import Chain, Manifest

DAY = dt.date(2026, 6, 1)


def sample(n: int = 0) -> Sample:
    at = dt.datetime(2026, 6, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=n)
    return Sample(at.isoformat(), float(n), n * 1000, n * 5000, 900.0, n)


def batch(seq: int, changes: int, closes: dt.date | None = None) -> Manifest:
    return Manifest(seq, None, "oltp", "slot", "1", 1, 1, "000001-00000001", seq * 100, (seq + 1) * 100, 1, changes, 0,
                    None, None, closes)


def chain(*batches: Manifest) -> Chain:
    days: list[dt.date | None] = []
    for n, _ in enumerate(batches):
        days.append(next((b.closes for b in batches[n:] if b.closes), None))
    return Chain(batches, tuple(days))


def test_the_newest_samples_are_kept_and_a_torn_file_is_none(store, monkeypatch):
    monkeypatch.setattr(dashboard, "KEPT", 3)
    for n in range(5):
        add(store, sample(n))
    assert [each.seconds_behind for each in samples(store)] == [2.0, 3.0, 4.0]
    store.put(dashboard.HEALTH, b'[{"at": "2026')
    assert samples(store) == []
    assert add(store, sample(9)) == [sample(9)]


def test_changes_are_counted_by_ledger_day_the_open_one_last():
    log = chain(batch(1, 5), batch(2, 7, DAY), batch(3, 2))
    assert changes_by_day(log, DAY) == {DAY: 12, DAY + dt.timedelta(days=1): 2}


def test_the_least_proven_table_comes_first(store):
    log = chain(batch(1, 5))
    equal, other = proof.TableProof("refunds"), proof.TableProof("charges", buckets_differing=1)
    proof.publish(store, proof.Proof("oltp", "0/64", "2026-06-01T00:00:00+00:00", tables=[equal, other]))
    found = unproven(store, log, ["refunds", "charges", "payouts"])
    assert list(found.items()) == [("charges", None), ("payouts", None), ("refunds", 100)]


def test_the_picture_is_small_enough_for_a_runs_metadata():
    by_day = {DAY + dt.timedelta(days=n): n * 1000 for n in range(42)}
    proofs = {f"table_{n:02}": (n * 10**6) or None for n in range(60)}
    seen = [replace(sample(n * 20), unacknowledged_bytes=n * 7919 % 500 * 2**20) for n in range(500)]
    png = picture(seen, by_day, proofs)
    width, height = struct.unpack(">II", png[16:24])
    assert (png[:4], width > 600, height > 300, len(png) < pictures.LARGEST) == (b"\x89PNG", True, True, True)


def test_a_log_without_anything_has_a_picture_too():
    assert picture([], {}, {})[:4] == b"\x89PNG"
