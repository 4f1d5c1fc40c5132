"""Sealed manifests: the same chain, wherever its parts lie and whoever dies or reads meanwhile."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cdc_source import FIRST, accounts, close, owner, reference
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from killing import die, in_child
from lakes import either_lake, s3_endpoint

from resources.lake import Lake, LakeError, LocalLake, open_lake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc import sealing, segments
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.manifest import BatchFile, Chain, ChainError, Epoch, Manifest, save_epoch
from stripe_platform.cdc.metrics import sealing_metrics
from stripe_platform.cdc.replay import events
from stripe_platform.cdc.sealing import seal
from stripe_platform.cdc.segments import path_of, segment_path
from stripe_platform.cdc.source import OLTP
from stripe_platform.cdc.verify import verify
from stripe_platform.settings import load_settings

__all__ = ["either_lake", "s3_endpoint"]

EPOCH = Epoch(1, "slot", "1", 1, 100)
DAYS = 10  # batches of a day


def batch(seq: int, previous: str | None) -> Manifest:
    """One batch of two tables; every tenth closes a day."""
    files = tuple(BatchFile(table, f"cdc/batches/{seq:012d}/{table}.parquet", 1, 9, f"{seq:064x}", {"c": 1},
                            {"id": "string", f"odd \n  }} {table}": "int64"}, "v1") for table in ("charges", "refunds"))
    closes = FIRST + dt.timedelta(days=seq // DAYS - 1) if seq % DAYS == 0 else None
    return Manifest(seq, previous, "oltp", EPOCH.slot, "1", 1, 1, EPOCH.name, seq * 100, seq * 100 + 100, 1,
                    2 + (closes is not None), int(closes is not None), None, None, closes, files, {},
                    ((seq, seq),) if seq % 7 == 0 else ())


def written(lake: Lake, count: int) -> list[Manifest]:
    """A log of so many batches, each in a single manifest."""
    save_epoch(lake, EPOCH)
    made: list[Manifest] = []
    for seq in range(1, count + 1):
        made.append(batch(seq, made[-1].digest if made else None))
        assert lake.put_if_absent(made[-1].path, made[-1].encode())
    return made


@pytest.fixture
def log(tmp_path: Path) -> LocalLake:
    return LocalLake(tmp_path / "log")


@pytest.fixture
def any_log(either_lake: Lake) -> Lake:
    """A log's place, on disk and in S3."""
    return either_lake


def names(lake: Lake) -> tuple[list[str], list[str]]:
    return ([p.rpartition("/")[2].split(".")[0].lstrip("0") for p in lake.list(folder)]
            for folder in (segments.FOLDER, segments.SINGLES))


def test_a_sealed_log_is_the_log_that_was_sealed(any_log):
    made = written(any_log, 35)
    days = Chain.load(any_log).days
    assert seal(any_log, 20) == 20
    assert seal(any_log) == 14
    sealed, singles = names(any_log)
    assert (sealed, singles) == (["1", "21"], ["35"])
    chain = Chain.load(any_log)
    assert (chain.manifests, chain.days) == (made, days)
    assert [m.digest for m in chain.manifests] == [m.digest for m in made]
    assert chain.closed == [FIRST, FIRST + dt.timedelta(days=1), FIRST + dt.timedelta(days=2)]
    assert [m.files_of("charges") for m in chain.manifests] == [m.files_of("charges") for m in made]
    assert chain.manifests[3].files_of("customers") == []
    assert chain.days_of("refunds", FIRST) == [*chain.closed, FIRST + dt.timedelta(days=3)]
    assert [manifests.read(any_log, seq) for seq in (1, 20, 21, 35)] == [made[seq - 1] for seq in (1, 20, 21, 35)]
    assert (manifests.last(any_log), manifests.last_closed(any_log)) == (made[-1], FIRST + dt.timedelta(days=2))
    with pytest.raises(LakeError, match="000000000036"):
        manifests.read(any_log, 36)


@given(data=st.data())
@trials(max_examples=25, deadline=None)
def test_however_it_is_cut_and_whatever_singles_a_kill_left_the_chain_is_the_same(tmp_path_factory, data):
    lake = LocalLake(tmp_path_factory.mktemp("log"))
    made = written(lake, data.draw(st.integers(1, 24)))
    singles = {m.path: m.encode() for m in made}
    for _cut in range(data.draw(st.integers(0, 4))):
        seal(lake, data.draw(st.integers(1, len(made))))
        for path in data.draw(st.sets(st.sampled_from(sorted(singles)))):
            lake.put(path, singles[path])
        assert Chain.load(lake).manifests == made
        assert manifests.last(lake) == made[-1]
        assert manifests.last_closed(lake) == next((m.closes for m in reversed(made) if m.closes), None)
        assert [s for _seq, s in segments.left_over(lake) if not s] == []
    seal(lake)
    assert lake.list(segments.SINGLES) == [made[-1].path]
    assert Chain.load(lake).manifests == made


@pytest.mark.parametrize("point", ["before the segment", "before the first single goes", "between the singles"])
def test_a_sealer_killed_at_each_step_leaves_the_chain_and_the_next_one_ends_its_work(any_log, monkeypatch, point):
    made, kind = written(any_log, 12), type(any_log)
    seal(any_log, 4)

    def work() -> None:
        if point == "before the segment":
            monkeypatch.setattr(kind, "put_if_absent", die)
        else:
            delete, left = kind.delete, iter(range(0 if point.startswith("before") else 3))
            monkeypatch.setattr(kind, "delete", lambda self, path: delete(self, path)
                                if next(left, None) is not None else die())
        seal(any_log)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert len(any_log.list(segments.SINGLES)) == {"before the segment": 8, "before the first single goes": 8,
                                                "between the singles": 5}[point]
    assert Chain.load(any_log).manifests == made
    assert seal(any_log) == (7 if point == "before the segment" else 0)
    assert any_log.list(segments.SINGLES) == [made[-1].path]
    assert Chain.load(any_log).manifests == made


@pytest.mark.parametrize("listed", [segments.SINGLES, segments.FOLDER])
def test_a_reader_that_listed_what_a_sealer_then_took_away_still_gets_the_chain(tmp_path, listed):
    class Raced(LocalLake):
        raced = False

        def list(self, prefix: str) -> list[str]:
            found = super().list(prefix)
            if prefix == listed and not self.raced:
                self.raced = True
                assert seal(LocalLake(self.root)) == 19
            return found

    made = written(LocalLake(tmp_path), 20)
    raced = Raced(tmp_path)
    assert Chain.load(raced).manifests == made
    assert raced.raced
    again = Raced(tmp_path / "b")
    made = written(LocalLake(tmp_path / "b"), 20)
    assert manifests.last_closed(again) == made[-1].closes
    assert [m.seq for m in Chain.load(again).manifests] == list(range(1, 21))


def test_of_sealers_that_meet_one_wins_each_segment(any_log):
    made = written(any_log, 60)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: seal(open_lake(load_settings()), 10 * n), range(1, 7)))
    assert Chain.load(any_log).manifests == made
    assert seal(any_log) + 1 == len(any_log.list(segments.SINGLES)) == 1


def reseal(lake: Lake, first: int, rows: list[bytes]) -> None:
    lake.delete(segment_path(first))
    assert segments.write(lake, first, rows)


@pytest.mark.parametrize(("what", "sentence"), [
    ("a byte of the file", r"cdc/sealed/000000000011.parquet cannot be read as a segment"),
    ("a value in a manifest", r"000000000014.json does not follow the batch before it"),
    ("the last manifest's value", r"000000000021.json does not follow the batch before it"),
    ("a manifest left out", r"cdc/sealed/000000000020.parquet is missing"),
    ("two manifests exchanged", r"does not follow the batch before it"),
    ("the segment gone", r"cdc/sealed/000000000011.parquet is missing: nothing after it may be applied"),
    ("the first segment gone", r"cdc/sealed/000000000001.parquet is missing"),
    ("the last segment gone", r"cdc/manifests/000000000021.json is missing"),
    ("a segment that overlaps", r"cdc/sealed/000000000016.parquet overlaps"),
])
def test_what_was_done_to_a_sealed_log_is_named(any_log, what, sentence):
    written(any_log, 35)
    for through in (10, 20, 34):
        seal(any_log, through)
    rows = list(segments.Segment.load(any_log, 11).manifests)
    if what == "a byte of the file":
        data = bytearray(any_log.read(segment_path(11)))
        data[len(data) // 2] ^= 1
        data[-6] ^= 1
        any_log.put(segment_path(11), bytes(data))
    elif what.endswith("gone"):
        first = {"the segment gone": 11, "the first segment gone": 1, "the last segment gone": 21}[what]
        any_log.delete(segment_path(first))
    elif what == "a segment that overlaps":
        assert segments.write(any_log, 16, rows[5:])
    else:
        if what == "a manifest left out":
            del rows[4]
        elif what == "two manifests exchanged":
            rows[3], rows[4] = rows[4], rows[3]
        else:
            place = 2 if what == "a value in a manifest" else -1
            rows[place] = rows[place].replace(b'"transactions": 1', b'"transactions": 2')
        reseal(any_log, 11, rows)
    with pytest.raises(ChainError, match=sentence):
        Chain.load(any_log)


def test_a_single_that_differs_from_its_segment_stops_the_sealer_and_is_named_by_the_proof(log, oltp):
    written(log, 12)
    seal(log)
    forged = dataclasses.replace(manifests.read(log, 5), transactions=9)
    log.put(path_of(5), forged.encode())
    with pytest.raises(ChainError, match=r"000000000005.json differs from what its segment holds"):
        seal(log)
    assert log.size(path_of(5)) is not None
    assert any("000000000005.json differs" in problem for problem in verify(oltp, lake=log).problems)


def test_manifests_that_do_not_follow_are_not_sealed(any_log):
    made = written(any_log, 12)
    any_log.put(path_of(6), dataclasses.replace(made[5], transactions=9).encode())
    with pytest.raises(ChainError, match=r"000000000007.json does not follow the batch before it"):
        seal(any_log)
    any_log.put(path_of(6), dataclasses.replace(made[5], changes=9).encode())
    with pytest.raises(ChainError, match=r"000000000006.json counts other changes"):
        seal(any_log)
    any_log.delete(path_of(6))
    with pytest.raises(ChainError, match="does not follow"):
        seal(any_log)
    assert len(any_log.list(segments.SINGLES)) == 11
    assert any_log.list(segments.FOLDER) == []


def test_a_capture_begins_without_reading_the_log_behind_it(log):
    class Counting(LocalLake):
        reads = 0

        def read(self, path: str) -> bytes:
            self.reads += 1
            return super().read(path)

    written(log, 300)
    seal(log)
    counting = Counting(log.root)
    assert manifests.last(counting).seq == 300
    assert counting.reads == 1


def test_a_chain_takes_one_more_batch_only_where_it_follows():
    chain = Chain()
    for seq in range(1, DAYS + 2):
        chain.append(batch(seq, chain.manifests[-1].digest if chain.manifests else None))
    assert (chain.day_of(DAYS), chain.day_of(DAYS + 1), chain.open_day(FIRST)) == (
        FIRST, None, FIRST + dt.timedelta(days=1))
    for wrong in (batch(DAYS + 2, "0" * 64), batch(DAYS + 3, chain.manifests[-1].digest)):
        with pytest.raises(ChainError, match="does not follow the batches known so far"):
            chain.append(wrong)


def test_a_capture_seals_what_it_lands_and_goes_on_from_there(source, store, monkeypatch):
    monkeypatch.setattr(sealing, "FEW", 3)
    with owner(source) as connection:
        reference(connection)
        for n in range(6):
            accounts(connection, n, 1)
            capture(source)
        before = list(events(store, "p"))
        assert store.list(segments.FOLDER) == []
        close(connection, FIRST)
        capture(source)
        assert store.list(segments.FOLDER) == [segment_path(1)]
        accounts(connection, 6, 1)
        assert capture(source).batches == [Chain.load(store).manifests[-1].seq]
    assert capture(source).open_day == FIRST + dt.timedelta(days=1)
    report = verify(source, lake=store)
    assert report.problems == []
    assert (report.batches, report.closed_through) == (8, str(FIRST))
    assert list(events(store, "p"))[:len(before)] == before
    assert OLTP.lake(source).url == store.url


def test_an_open_day_is_sealed_where_it_has_many_batches_and_a_failing_sealer_stops_no_capture(
        source, store, monkeypatch, caplog):
    monkeypatch.setattr(sealing, "MANY", 3)
    with owner(source) as connection:
        reference(connection)
        for n in range(4):
            with monkeypatch.context() as patch:
                if n == 3:
                    patch.setattr(segments, "write", lambda *_: 1 / 0)
                accounts(connection, n, 1)
                assert capture(source).rows["accounts"] == 1
        assert "manifests could not be sealed" in caplog.text
        failing = sealing_metrics(source, OLTP)
        assert (failing.single_manifests, failing.sealing_failures, failing.sealing_failures_in_a_row) == (4, 1, 1)
        assert "could not be sealed 1 times in a row" in failing.alarms[0]
        accounts(connection, 9, 1)
        capture(source)
    mended = sealing_metrics(source, OLTP)
    assert (mended.single_manifests, mended.sealing_failures, mended.sealing_failures_in_a_row) == (1, 1, 0)
    assert mended.alarms == []
    assert store.list(segments.FOLDER) == [segment_path(1)]
    assert [m.seq for m in Chain.load(store).manifests] == [1, 2, 3, 4, 5]
