"""Transactions larger than memory should be: what waits for its END goes to a file, and the batches are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from debezium_events import delivered, event, landed, read, records, row, transaction, unchanged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.lake import LocalLake
from stripe_platform.cdc import spool
from stripe_platform.cdc.capture import CaptureError
from stripe_platform.cdc.jsonl import Files

ROOM = 165  # MB that a reading may take, whatever it reads, beside what the imports take
READING = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from debezium_events import CATALOGUE, ENCODING, SOURCE
from resources.lake import LocalLake
from stripe_platform.bench import peak_mb
from stripe_platform.cdc.intake import intake
from stripe_platform.cdc.jsonl import Files
from stripe_platform.settings import load_settings
before = peak_mb()
report = intake(load_settings(), lambda positions: Files([Path(sys.argv[2])], positions), stream="pay",
                catalogue=CATALOGUE, encoding=ENCODING, lake=LocalLake(Path(sys.argv[3])), source=SOURCE)
print(json.dumps([report.transactions, report.rows["orders"], report.refused,
                  peak_mb() - before]))
"""


@pytest.fixture
def lake(own_home, tmp_path):
    return LocalLake(tmp_path / "lake")


def files(lake: LocalLake) -> list[tuple[str, bytes]]:
    """Batches and manifests, byte by byte."""
    return [(path, lake.read(path)) for path in sorted([*lake.list("cdc/batches"), *lake.list("cdc/manifests")])]


change = st.tuples(st.sampled_from("cuudt"), st.integers(1, 9)).map(
    lambda pair: (pair[0], None if pair[0] == "t" else unchanged(pair[1], "2.50") if pair[0] == "u" else row(pair[1])))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(change, max_size=12), min_size=1, max_size=5), st.randoms(use_true_random=False),
       st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_what_went_through_the_file_gives_the_same_bytes_as_what_stayed_in_memory(
        own_home, tmp_path_factory, bulks, dice, width, bound, again):
    told = [item for n, changes in enumerate(bulks, 1) for item in transaction(n, 1_000 * n, *changes)]
    found = delivered(records([*told, *told[:again]], width), dice)
    lakes = []
    for limit in (spool.SPILL_CHANGES, bound):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spool, "SPILL_CHANGES", limit)
            lakes.append(LocalLake(tmp_path_factory.mktemp("lake")))
            if found:
                read(lakes[-1], found)
    assert files(lakes[0]) == files(lakes[1])


@pytest.mark.parametrize("changes", [200_000, pytest.param(1_000_000, marks=pytest.mark.volume)])
def test_a_transaction_of_any_size_takes_the_same_memory(own_home, tmp_path, changes):
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        first, *_middle, last = transaction(1, 100, *[("c", row(1))])
        last["value"]["event_count"] = changes
        file.write(json.dumps(first) + "\n")
        for n in range(1, changes + 1):
            file.write(json.dumps(event("c", row(n, "n" * 400), order=n)) + "\n")
        file.write(json.dumps(last) + "\n")
    done = subprocess.run([sys.executable, "-c", READING, Path(__file__).parent, path, tmp_path / "lake"],
                          check=True, capture_output=True, text=True)
    transactions, rows, refused, peak = json.loads(done.stdout)
    print(f"{peak} MB beside the imports")
    assert (transactions, rows, refused) == (1, changes, 0)
    assert peak < ROOM


def test_nothing_of_the_file_is_left_and_it_is_used_again(lake, monkeypatch):
    monkeypatch.setattr(spool, "SPILL_CHANGES", 2)
    sizes = []
    taken = spool.Spool.drop

    def watched(self, held):
        taken(self, held)
        sizes.append(Path(f"/proc/self/fd/{self._file.fileno()}").stat().st_size)

    monkeypatch.setattr(spool.Spool, "drop", watched)
    read(lake, [*transaction(1, 100, *[("c", row(n)) for n in range(9)]),
                *transaction(2, 300, *[("c", row(n)) for n in range(9, 18)])])
    assert sizes == [0, 0]
    assert [r["id"] for r in landed(lake)] == list(range(18))
    assert [path for path in lake.scratch().rglob("*") if path.is_file()] == []


def test_a_repetition_of_what_is_in_the_file_is_known(lake, monkeypatch):
    monkeypatch.setattr(spool, "SPILL_CHANGES", 2)
    told = transaction(1, 100, *[("c", row(n)) for n in range(9)])
    report = read(lake, [*told[:8], *told[1:8], *told[8:]])
    assert (report.duplicates, [r["id"] for r in landed(lake)]) == (7, list(range(9)))
    assert read(lake, [*told[:8], *told[1:8], *told[8:], *told]).duplicates == 9


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(lake, monkeypatch):
    told = transaction(1, 100, *[("c", row(n)) for n in range(9)])
    with monkeypatch.context() as patch, Path("/dev/full").open("wb", buffering=0) as full:
        patch.setattr(spool, "SPILL_CHANGES", 2)
        patch.setattr(spool.tempfile, "TemporaryFile", lambda **_options: full)
        with pytest.raises(CaptureError, match=r"No space left on device.*make room there, then read again"):
            read(lake, told)
    assert read(lake, told).rows == {"orders": 9}


def test_many_wide_records_are_handed_over_in_small_pieces(tmp_path):
    path = tmp_path / "wide.jsonl"
    path.write_text("".join(json.dumps({"topic": "t", "value": {"x": "y" * (3 << 20)}}) + "\n" for _ in range(5)))
    found = Files([path], {})
    pieces = []
    while not found.exhausted():
        pieces.append(len(found.poll(0)))
    assert pieces == [3, 2, 0]


def test_half_a_character_is_refused_and_its_transaction_landed(lake):
    report = read(lake, transaction(1, 100, ("c", row(1)), ("c", row(2, "\ud800")), ("c", row(3))))
    assert (report.refused, [r["id"] for r in landed(lake)]) == (1, [1, 3])
    assert "half a character" in lake.read(lake.list("cdc/quarantine")[0]).decode()


def test_an_order_that_is_no_place_in_a_transaction_is_refused(lake):
    told = transaction(1, 100, ("c", row(1)), ("c", row(2)))
    told[2]["value"]["transaction"]["total_order"] = 1 << 70
    assert (read(lake, told).refused, [r["id"] for r in landed(lake)]) == (1, [1])
