"""One contract for the lake, held by the local folder and by S3."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lakes import either_lake, s3_endpoint

from resources.lake import Lake, LakeError, LocalLake

__all__ = ["either_lake", "s3_endpoint"]


@pytest.fixture
def store(either_lake: Lake) -> Lake:
    return either_lake


def test_what_was_put_is_read_listed_and_measured(store):
    store.put("cdc/a/1.json", b"one")
    store.put("cdc/b/2.json", b"two!", durable=False)
    store.put("cdc/a/1.json", b"uno")
    assert store.read("cdc/a/1.json") == b"uno"
    assert store.open("cdc/b/2.json").read() == b"two!"
    assert store.size("cdc/b/2.json") == 4
    assert store.list("cdc") == ["cdc/a/1.json", "cdc/b/2.json"]
    assert store.list("cdc/a") == ["cdc/a/1.json"]
    assert store.local_path("cdc/b/2.json").read_bytes() == b"two!"


def test_a_missing_file_is_one_sentence_and_no_size(store):
    assert store.size("nothing") is None
    assert store.list("nothing") == []
    for reading in (store.read, store.open, store.local_path):
        with pytest.raises(LakeError, match=r"^nothing is missing in the lake .*restore it"):
            reading("nothing")


def test_only_one_of_many_conditional_writers_wins(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("m/1.json", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert store.read("m/1.json") == b"%d" % won.index(True)


def test_files_are_moved_in_together_and_scratch_is_left_empty(store):
    made = {}
    for n in range(5):
        local = store.scratch() / f"{n}.tmp"
        local.write_bytes(b"%d" % n)
        made[f"batch/{n}.parquet"] = local
    store.put_files(made)
    assert [store.read(path) for path in store.list("batch")] == [b"0", b"1", b"2", b"3", b"4"]
    assert [p for p in store.scratch().iterdir() if p.is_file()] == []
    store.delete("batch/0.parquet")
    store.delete("batch/0.parquet")
    assert store.size("batch/0.parquet") is None


def test_pruning_removes_empty_folders_and_no_file(store):
    for path in ("cdc/a/1.json", "cdc/a/deep/2.json", "cdc/b/3.json"):
        store.put(path, b"x")
    store.delete("cdc/a/deep/2.json")
    store.delete("cdc/b/3.json")
    store.prune("cdc")
    assert store.list("cdc") == ["cdc/a/1.json"]
    if isinstance(store, LocalLake):
        assert sorted(p.name for p in store.root.rglob("*") if p.is_dir() and "scratch" not in p.name) == ["a", "cdc"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../b", ""])
def test_a_path_that_leaves_the_lake_is_refused(store, path):
    with pytest.raises(LakeError, match="must be relative"):
        store.put(path, b"x")


def test_a_local_put_is_on_disk_before_its_name_appears(tmp_path, monkeypatch):
    """File first, then rename, then the folder: the order that a power cut may interrupt anywhere."""
    lake, steps = LocalLake(tmp_path), []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), real_sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), real_replace(self, to))[1])
    (tmp_path / "a").mkdir()
    lake.put("a/1", b"x")
    assert steps == ["fsync", "rename", "fsync"]
