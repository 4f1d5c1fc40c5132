"""Debezium's events in the reader's place, delivered in every way that Kafka, restarts and hands can deliver them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from debezium_events import (
    CATALOGUE,
    DATA,
    ENCODING,
    LEFT_OUT,
    SOURCE,
    Delivered,
    boundary,
    delivered,
    event,
    landed,
    read,
    records,
    row,
    transaction,
    unchanged,
    write_lines,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.lake import LocalLake
from stripe_platform.cdc import jsonl, manifest
from stripe_platform.cdc.capture import CaptureError
from stripe_platform.cdc.compact import encode
from stripe_platform.cdc.debezium_values import DEFAULT
from stripe_platform.cdc.intake import intake, of_lake
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.replay import events
from stripe_platform.cdc.verify import verify
from stripe_platform.settings import load_settings


@pytest.fixture
def lake(own_home, tmp_path):
    return LocalLake(tmp_path / "lake")


HISTORY = [
    *transaction(7, 100, ("c", row(1)), ("c", row(2)), ("u", unchanged(1, "2.50"))),
    *transaction(9, 300, ("d", row(2)), ("c", row(3)), ("u", row(1, None))),
    *transaction(8, 500, ("d", row(3)), ("c", row(4, "moved"))),
    *transaction(10, 700, ("t", None), ("c", row(5))),
]
STAMPS = [("c", 1, 149, 1), ("c", 2, 149, 2), ("u", 1, 149, 3), ("d", 2, 349, 1), ("c", 3, 349, 2), ("u", 1, 349, 3),
          ("d", 3, 549, 1), ("c", 4, 549, 2), ("t", None, 749, 1), ("c", 5, 749, 2)]


def stamps(lake: LocalLake) -> list[tuple]:
    return [(r["_op"], r["id"], r["_commit_lsn"], r["_ord"]) for r in landed(lake)]


def test_changes_arrive_typed_with_their_place_in_the_log(lake):
    report = read(lake, HISTORY)
    assert (report.transactions, report.rows, report.order) == (4, {"orders": 10}, "total")
    assert stamps(lake) == STAMPS
    first, _second, third = landed(lake)[:3]
    assert (first["note"], first["amount"], first["words"], first["raw"]) == ("n", "1.50", "{a,NULL}", b"\x00\x01")
    assert first["at"].isoformat() == "2026-06-01T00:00:00.500000+00:00"
    assert (third["_unchanged"], third["note"], third["amount"]) == (["note", "words", "raw"], None, "2.50")
    assert LEFT_OUT not in repr(landed(lake))
    assert verify(load_settings(), lake=lake, source=SOURCE).problems == []


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 26), max_size=3), st.integers(1, 3))
def test_any_interleaving_and_any_stop_land_every_change_once_in_order(own_home, tmp_path_factory, dice, stops, width):
    lake = LocalLake(tmp_path_factory.mktemp("lake"))
    told = delivered(records(HISTORY, width), dice)
    for stop in [*sorted(stops), len(told)]:
        read(lake, told[:stop])
    assert stamps(lake) == STAMPS
    assert read(lake, told).batches == []
    assert verify(load_settings(), lake=lake, source=SOURCE).problems == []


def test_a_transaction_whose_events_have_not_all_come_is_not_begun(lake):
    told = records(HISTORY)
    late = [r for r in told if (r.place, r.offset) != (f"{DATA}/0", 4)]
    report = read(lake, late)
    assert (report.transactions, report.waiting) == (1, 3)
    assert stamps(lake) == STAMPS[:3]
    read(lake, told)
    assert stamps(lake) == STAMPS


def test_what_a_restarted_connector_delivers_again_is_counted_and_changes_nothing(lake):
    report = read(lake, [*HISTORY[:10], *HISTORY[:10], *HISTORY[10:]])
    assert stamps(lake) == STAMPS
    assert report.duplicates == 6


def test_a_missing_transaction_stops_the_reading_before_it(lake):
    told = [*transaction(1, 100, ("c", row(1))), *transaction(3, 500, ("c", row(3)), previous=350)]
    with pytest.raises(CaptureError, match="transactions that end between 150 and 350 are missing"):
        read(lake, told)
    found = read(lake, [*told[:3], *transaction(2, 300, ("c", row(2)), previous=150), *told[3:]])
    assert found.transactions == 3


def test_a_change_that_a_batch_of_a_stream_lacks_is_found_by_its_ordinal(lake):
    """Where a stream's commit ends stands at seven of eight bytes, as the rows of a first copy do."""
    read(lake, records(transaction(1, 806, ("c", row(1)), ("c", row(2)), ("c", row(3)))))
    newest = manifest.last(lake)
    (file,) = newest.files
    rows = pq.read_table(pa.BufferReader(lake.read(file.path)))
    assert (rows["_ord"].to_pylist(), rows["_commit_lsn"][0].as_py() % 8) == ([1, 2, 3], 7)
    data = encode(rows.take([0, 2]))
    lake.put(file.path, data)
    less = dataclasses.replace(file, rows=2, ops={"c": 2}, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    lake.put(newest.path, dataclasses.replace(newest, files=(less,), changes=newest.changes - 1).hashed().encode())
    (problem,) = verify(load_settings(), lake=lake, source=SOURCE).problems
    assert "1 ordinals are missing" in problem


def test_a_log_that_went_back_is_not_taken_for_a_repetition(lake):
    read(lake, HISTORY)
    restored = transaction(11, 400, ("c", row(9)))
    restored[-1]["value"]["ts_ms"] += 60_000
    with pytest.raises(CaptureError, match="the source was restored"):
        read(lake, [*HISTORY, *restored])


@pytest.mark.parametrize("killed", ["finish", "put_if_absent", "status"])
def test_a_reading_that_ends_at_any_step_is_read_on_without_loss_or_repetition(lake, monkeypatch, killed):
    class Killed(BaseException):
        pass

    def dies(*_args, **_options):
        raise Killed

    target = {"finish": "stripe_platform.cdc.batches.BatchWriter.finish",
              "put_if_absent": "resources.lake.LocalLake.put_if_absent",
              "status": "stripe_platform.cdc.event_stream.EventStream.settle"}[killed]
    read(lake, HISTORY[:5])
    with monkeypatch.context() as patch:
        patch.setattr(target, dies)
        with pytest.raises(Killed):
            read(lake, HISTORY)
    read(lake, HISTORY)
    assert stamps(lake) == STAMPS


def test_offsets_are_committed_behind_durable_batches_and_again_after_a_crash_between(lake):
    seen = []

    class Watched(Delivered):
        def commit(self, positions):
            seen.append((len(Chain.load(lake).manifests), dict(positions)))

    def run():
        intake(load_settings(), lambda positions: Watched(records(HISTORY), positions), stream="pay",
               catalogue=CATALOGUE, encoding=ENCODING, lake=lake, source=SOURCE)

    run()
    assert seen == [(1, {f"{DATA}/0": 10, "pay.transaction/0": 8})]
    run()
    assert seen[1:] == [(1, {f"{DATA}/0": 10, "pay.transaction/0": 8})]


POISON = {
    "an unknown column": (row(6, extra=1), "has the column extra that the catalogue does not know"),
    "a missing column": ({"id": 6}, "lacks the column note"),
    "a number for a decimal": (row(6, amount=1.5), "set decimal.handling.mode=string"),
    "bytes that are not base64": (row(6, raw="secret!"), "binary values must be base64"),
    "an array of arrays in Java": (row(6, words=["[Ljava.lang.String;@5fcf7a86"]), "more than one dimension"),
    "a local time": (row(6, at="2026-06-01T00:00:00+02:00"), "ISO 8601 text in UTC"),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_poison_event_is_quarantined_with_place_rule_and_remedy_and_nothing_else_is_lost(lake, kind):
    values, rule = POISON[kind]
    told = [*transaction(1, 100, ("c", row(1)), ("c", values), ("c", row(2))), *transaction(2, 300, ("c", row(3)))]
    report = read(lake, told)
    assert (report.refused, [s[1] for s in stamps(lake)]) == (1, [1, 2, 3])
    (path,) = lake.list("cdc/quarantine")
    (entry,) = json.loads(lake.read(path))
    assert (entry["place"], entry["offset"], entry["topic"]) == (f"{DATA}/0", 1, DATA)
    assert rule in entry["rule"]
    assert "secret" not in entry["rule"]
    assert Chain.load(lake).manifests[0].stream["refused"] == 1
    assert verify(load_settings(), lake=lake, source=SOURCE).problems == []


def test_a_line_that_is_no_json_is_what_its_transaction_lacks(lake, tmp_path):
    told = transaction(1, 100, ("c", row(1)), ("c", row(2)))
    lines = [json.dumps(item) for item in told]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join([lines[0], lines[1], lines[2][:40], lines[3], ""]))
    report = intake(load_settings(), lambda positions: jsonl.Files([file], positions), stream="pay",
                    catalogue=CATALOGUE, encoding=ENCODING, lake=lake, source=SOURCE)
    assert (report.refused, [s[1] for s in stamps(lake)]) == (1, [1])
    assert "no JSON" in lake.read(lake.list("cdc/quarantine")[0]).decode()


def test_without_transaction_metadata_each_key_keeps_its_order_and_the_batch_says_so(lake):
    told = [event(op, values, order=None, lsn=lsn) for lsn, op, values in (
        (5, "r", row(1)), (6, "c", row(2)), (7, "u", row(1, "later")), (7, "d", row(2)))]
    told.insert(3, {"topic": DATA, "key": {"id": 9}, "value": None})  # a tombstone
    report = read(lake, told, partitions=2)
    assert (report.order, report.skipped) == ("per key only", 1)
    assert [(op, key) for op, key, _lsn, _ord in stamps(lake)] == [("c", 1), ("c", 2), ("u", 1), ("d", 2)]
    assert Chain.load(lake).manifests[0].stream["order"] == "per key only"
    assert read(lake, told, partitions=2).batches == []
    assert verify(load_settings(), lake=lake, source=SOURCE).problems == []
    with pytest.raises(CaptureError, match="with and without transaction metadata"):
        read(lake, [*told, *HISTORY], partitions=2)


def test_flattened_records_are_read_by_their_key_alone(lake):
    told = [{"topic": DATA, "key": {"id": 1}, "value": row(1) | {"__op": op, "__deleted": gone, "__source_ts_ms": 1}}
            for op, gone in (("c", "false"), ("u", "false"), ("d", "true"))]
    report = read(lake, told)
    assert (report.order, [s[:2] for s in stamps(lake)]) == ("per key only", [("c", 1), ("u", 1), ("d", 1)])


def test_a_table_in_no_catalogue_is_refused_unless_its_events_describe_it(lake):
    told = transaction(1, 100, ("c", row(1)))
    assert read(lake, told, catalogue={}).refused == 1
    assert "types are not guessed" in lake.read(lake.list("cdc/quarantine")[0]).decode()
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": [
        {"field": "id", "type": "int64"},
        {"field": "price", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
         "parameters": {"scale": "2", "connect.decimal.precision": "18"}},
        {"field": "day", "type": "int32", "name": "io.debezium.time.Date"},
        {"field": "at", "type": "int64", "name": "io.debezium.time.Timestamp"}]}]}
    change = event("c", {"id": 1, "price": "bg==", "day": 20_605, "at": 1_767_225_601_000})
    change["value"] = {"schema": schema, "payload": change["value"]}
    other = LocalLake(lake.root.parent / "other")
    read(other, [boundary("BEGIN", 1, 100), change, boundary("END", 1, 150, 1)], catalogue={}, encoding=DEFAULT)
    (found,) = landed(other)
    assert (found["id"], found["price"], str(found["day"]), str(found["at"])) == (
        1, "1.10", "2026-06-01", "2026-01-01 00:00:01")


def test_the_default_encoding_without_schemas_is_read_by_the_catalogue(lake):
    change = row(1, amount="bg==", note="__debezium_unavailable_value")
    read(lake, transaction(1, 100, ("u", change)), encoding=DEFAULT)
    assert (landed(lake)[0]["amount"], landed(lake)[0]["_unchanged"]) == ("1.10", ["note"])


def test_a_file_delivered_again_under_another_name_changes_nothing(lake, tmp_path):
    first = write_lines(tmp_path / "a.jsonl", HISTORY[:10])
    second = tmp_path / "b.jsonl.gz"
    second.write_bytes(gzip.compress("".join(json.dumps(item) + "\n" for item in HISTORY[10:]).encode()))
    copy = write_lines(tmp_path / "again.jsonl", HISTORY[:10])

    def run(*files):
        return intake(load_settings(), lambda positions: jsonl.Files(files, positions), stream="pay",
                      catalogue=CATALOGUE, encoding=ENCODING, lake=lake, source=SOURCE)

    assert run(first).transactions == 2
    assert run(copy).batches == []
    assert run(first, copy, second).transactions == 2
    assert stamps(lake) == STAMPS


def test_a_file_is_read_to_its_end_however_many_pieces_it_is_read_in(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "AT_ONCE", 2)
    file = write_lines(tmp_path / "events.jsonl", HISTORY)
    report = intake(load_settings(), lambda positions: jsonl.Files([file], positions), stream="pay",
                    catalogue=CATALOGUE, encoding=ENCODING, lake=lake, source=SOURCE)
    assert (stamps(lake), report.waiting) == (STAMPS, 0)


def test_a_lake_of_another_log_is_refused(lake):
    read(lake, HISTORY)
    with pytest.raises(CaptureError, match="was begun by debezium:pay, not by debezium:other"):
        read(lake, HISTORY, stream="other")


def test_what_is_replayed_is_read_back_as_it_was(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("stripe_platform.cdc.capture.BATCH_ROWS", 4)
    read(lake, HISTORY)
    assert len(Chain.load(lake).manifests) > 1
    file = tmp_path / "replayed.jsonl.gz"
    assert jsonl.write(file, events(lake, "pay", SOURCE, placeholder=LEFT_OUT)) == len(HISTORY)
    other = LocalLake(tmp_path / "other")
    report = intake(load_settings(), lambda positions: jsonl.Files([file], positions), stream="pay",
                    catalogue=of_lake(lake), encoding=ENCODING, lake=other, source=SOURCE)
    assert report.refused == 0
    assert landed(other) == landed(lake)
    assert {f.schema_id for m in Chain.load(other).manifests for f in m.files} == {
        f.schema_id for m in Chain.load(lake).manifests for f in m.files}

