"""Tables that nobody declared, by what a stream, a catalogue and the file of sources tell of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from debezium_events import SOURCE, Delivered, change, column, landed, records
from debezium_peers import DEPLOYED
from typer.testing import CliRunner

from resources.lake import LocalLake
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.capture import CaptureError, capture
from stripe_platform.cdc.catalogue import CatalogueError, TableVersion
from stripe_platform.cdc.debezium_schemas import declared_version
from stripe_platform.cdc.debezium_values import DEFAULT, OURS
from stripe_platform.cdc.evolution import Path as Way
from stripe_platform.cdc.evolution import step
from stripe_platform.cdc.intake import IntakeReport, intake
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.cdc.source import OLTP
from stripe_platform.cdc.stream_tables import Described
from stripe_platform.cdc.verify import verify
from stripe_platform.cli import app
from stripe_platform.settings import load_settings

ANY = replace(SOURCE, tables={})


@pytest.fixture
def lake(own_home, tmp_path):
    return LocalLake(tmp_path / "lake")


def take(lake: LocalLake, *told: list[dict], encoding=OURS, source=ANY, catalogue=None, ask=None) -> IntakeReport:
    items = [item for part in told for item in part]
    found = [replace(record, key=item["key"]) for record, item in zip(
        records([{**item, "key": {"id": 0}} for item in items]), items, strict=True)]
    return intake(load_settings(), lambda positions: Delivered(found, positions), stream="pay", catalogue=catalogue,
                  encoding=encoding, lake=lake, source=source, ask=ask)


def versions(lake: LocalLake) -> list[TableVersion]:
    return catalogue.versions(lake, "orders")


def rules(lake: LocalLake) -> str:
    return "\n".join(entry["rule"] for path in lake.list("cdc/quarantine") for entry in json.loads(lake.read(path)))


ID, NOTE = column("id", "int64", optional=False), column("note", "string")


def test_a_column_that_comes_goes_or_changes_its_type_makes_a_new_version(lake):
    more = column("more", "int32", optional=False, default=5)
    wide = column("more", "int64", optional=False, default=5)
    report = take(lake, change([ID, NOTE], "c", {"id": 1, "note": "a"}, lsn=100),
                  change([ID, NOTE, more], "c", {"id": 2, "note": "b", "more": 6}, lsn=200),
                  change([ID, NOTE, wide], "u", {"id": 1, "note": "c", "more": 1 << 40}, lsn=300),
                  change([ID, wide], "d", {"id": 2, "more": None}, lsn=400))
    assert (report.transactions, report.refused) == (4, 0)
    assert [[(c.name, c.type) for c in v.columns] for v in versions(lake)] == [
        [("id", "bigint"), ("note", "text")], [("id", "bigint"), ("note", "text"), ("more", "integer")],
        [("id", "bigint"), ("note", "text"), ("more", "bigint")], [("id", "bigint"), ("more", "bigint")]]
    way = Way(catalogue.Lineage.load(lake, Chain.load(lake), "orders"))
    assert way.step_to(2).added == {"more": "5"}
    assert (way.step_to(3).retyped, way.step_to(4).dropped) == (("more",), ("note",))


def test_what_a_version_told_stays_its_own_though_a_later_one_of_the_batch_tells_otherwise(lake):
    more = column("more", "int32", optional=False, default=5)
    take(lake, change([ID, NOTE], "c", {"id": 1, "note": "a"}, lsn=100),
         change([ID, NOTE, more], "c", {"id": 2, "note": "b", "more": 6}, lsn=200),
         change([ID, NOTE], "c", {"id": 3, "note": "c"}, lsn=300))
    way = Way(catalogue.Lineage.load(lake, Chain.load(lake), "orders"))
    assert (len(Chain.load(lake).manifests), way.step_to(2).added) == (1, {"more": "5"})


def test_a_stream_that_is_read_on_later_keeps_its_versions(lake):
    first = change([ID, NOTE], "c", {"id": 1, "note": "a"}, lsn=100)
    take(lake, first)
    take(lake, first, change([ID, NOTE], "c", {"id": 2, "note": "a"}, lsn=200),
         change([ID, NOTE], "t", None, lsn=300))
    assert [v.key for v in versions(lake)] == [("id",)]
    assert [r["_op"] for r in landed(lake)] == ["c", "c", "t"]


@pytest.mark.parametrize("added", [
    column("at", "string", "io.debezium.time.ZonedTimestamp"),
    column("at", "string", "io.debezium.time.ZonedTimestamp", default="1970-01-01T00:00:00.000000Z", optional=False),
    column("by", "string", default="CURRENT_USER"), column("raw", "bytes"),
    column("uid", "string", "io.debezium.data.Uuid", default="00000000-0000-0000-0000-000000000000"),
    column("n", "int32", default=0, optional=False)], ids=lambda field: f"{field['field']} {field.get('default')}")
def test_what_older_rows_have_is_not_guessed_from_a_default_that_debezium_may_have_made_up(lake, added):
    take(lake, change([ID], "c", {"id": 1}, lsn=100),
         change([ID, added], "c", {"id": 2, added["field"]: None}, lsn=200))
    way = Way(catalogue.Lineage.load(lake, Chain.load(lake), "orders"))
    with pytest.raises(CatalogueError, match="what older rows have in it is not known"):
        way.step_to(2)


@pytest.mark.parametrize(("told", "kind", "named", "printed"), [
    (("NUMERIC", 18, 2), "string", None, "numeric(18,2)"), (("NUMERIC", 131089, 0), "string", None, "numeric"),
    (("VARCHAR", 40, 0), "string", None, "character varying(40)"), (("BPCHAR", 5, 0), "string", None, "character(5)"),
    (("TIMESTAMP", 22, 0), "int64", "io.debezium.time.MicroTimestamp", "timestamp(0) without time zone"),
    (("TIMESTAMPTZ", 35, 6), "string", "io.debezium.time.ZonedTimestamp", "timestamp with time zone"),
    (("INET", 2147483647, 0), "string", None, "inet"),
    (("MOOD", 2147483647, 0), "string", "io.debezium.data.Enum", "mood"),
    (("CENTS", 19, 0), "int64", None, "int8"), (("JSON", 2147483647, 0), "string", "io.debezium.data.Json", "json")])
def test_the_type_that_the_connector_passes_on_is_the_columns(lake, told, kind, named, printed):
    take(lake, change([ID, column("x", kind, named, told=told)], "c", {"id": 1, "x": None}, lsn=100))
    assert versions(lake)[0].columns[1].type == printed


@pytest.mark.parametrize(("kind", "named", "parameters", "value", "text"), [
    ("bytes", "org.apache.kafka.connect.data.Decimal", {"scale": "2"}, "bg==", "1.10"),
    ("struct", "io.debezium.data.VariableScaleDecimal", {}, {"scale": 1, "value": "Cw=="}, "1.1"),
    ("int32", "io.debezium.time.Time", {}, 3_723_400, "01:02:03.4"),
    ("int64", "io.debezium.time.NanoTime", {}, 3_723_400_000_000, "01:02:03.4"),
    ("int64", "org.apache.kafka.connect.data.Timestamp", {}, 1_767_225_601_500, "2026-01-01 00:00:01.500000"),
    ("int64", "io.debezium.time.NanoTimestamp", {}, 1_767_225_601_500_000_000, "2026-01-01 00:00:01.500000"),
    ("map", None, {}, {"b": "1", "a": None}, '"a"=>NULL, "b"=>"1"'),
    ("string", "io.debezium.data.Tsvector", {}, "'cat':1", "'cat':1")])
def test_every_mode_of_a_value_lands_as_its_text(lake, kind, named, parameters, value, text):
    report = take(lake, change([ID, column("x", kind, named, parameters=parameters)], "c", {"id": 1, "x": value},
                               lsn=100), encoding=DEFAULT)
    assert (report.refused, str(landed(lake)[0]["x"])) == (0, text)


@pytest.mark.parametrize(("columns", "value", "rule"), [
    (column("x", "string", told=("BYTEA", 2147483647, 0)), "00ff", "binary.handling.mode=bytes"),
    (column("x", "double", told=("NUMERIC", 18, 2)), 1.5, "decimal.handling.mode=string"),
    (column("x", "int64", "org.apache.kafka.connect.data.Timestamp", told=("TIMESTAMP", 29, 6)), 5,
     "time.precision.mode=microseconds"),
    (column("x", "int64", "io.debezium.time.MicroDuration"), 5, "interval.handling.mode=string"),
    (column("x", "struct", "io.debezium.data.SparseDoubleVector"), {}, "leave the column out of the publication")])
def test_a_mode_that_loses_is_refused_with_its_remedy(lake, columns, value, rule):
    assert take(lake, change([ID, columns], "c", {"id": 1, "x": value}, lsn=100)).refused == 1
    assert rule in rules(lake)


def test_rows_of_a_table_without_a_key_come_and_go_whole(lake):
    columns = [column("a", "int32"), NOTE]
    report = take(lake, change(columns, "c", {"a": 1, "note": "x"}, lsn=100, key=()),
                  change(columns, "u", {"a": 1, "note": "y"}, lsn=200, key=(), before={"a": 1, "note": "x"}),
                  change(columns, "d", {"a": 1, "note": "y"}, lsn=300, key=()),
                  change(columns, "u", {"a": 1, "note": "z"}, lsn=400, key=()))
    assert (versions(lake)[0].key, versions(lake)[0].identity) == ((), "f")
    assert [(r["_op"], r["note"]) for r in landed(lake)] == [("c", "x"), ("d", "x"), ("c", "y"), ("d", "y")]
    assert report.refused == 1
    assert "replica identity full" in rules(lake)


def test_a_declared_key_names_rows_that_have_none(lake):
    columns = [column("a", "int32"), NOTE]
    told = change(columns, "c", {"a": 1, "note": "x"}, lsn=100, key=())
    assert take(lake, told, source=replace(SOURCE, tables={"orders": ("b",)})).refused == 1
    assert "shop.orders has no column b: correct its key in the file of sources" in rules(lake)
    take(LocalLake(lake.root / "other"), told, source=replace(SOURCE, tables={"orders": ("note", "a")}))
    assert versions(LocalLake(lake.root / "other"))[0].key == ("note", "a")


def test_a_truncation_of_a_table_of_which_nothing_came_is_no_change(lake):
    report = take(lake, change([ID], "t", None, lsn=100), change([ID], "c", {"id": 1}, lsn=200))
    assert (report.rows, report.skipped, report.refused) == ({"orders": 1}, 1, 0)


def test_a_column_with_a_name_of_the_logs_own_keeps_its_values_and_its_place_in_the_key(lake):
    columns = [column("_op", "int64", optional=False), NOTE]
    take(lake, change(columns, "c", {"_op": 7, "note": "x"}, lsn=100, key=("_op",)))
    assert versions(lake)[0].key == ("source _op",)
    assert (landed(lake)[0]["source _op"], landed(lake)[0]["_op"]) == (7, "c")


def known(*columns: tuple[str, str], numbers: bool = True) -> TableVersion:
    made = declared_version("shop", "orders", ("id",), list(columns))
    return replace(made, columns=tuple(replace(c, number=n if numbers else None)
                                       for n, c in enumerate(made.columns, 1)))


def test_without_schemas_and_catalogue_one_sentence_says_what_is_needed(lake):
    assert take(lake, change(None, "c", {"id": 1}, lsn=100)).refused == 1
    assert ("value.converter.schemas.enable=true, or the source's dsn, or name its types in the file of sources"
            in rules(lake))


def test_without_schemas_an_older_row_is_read_as_the_table_was(lake):
    now = known(("id", "bigint"), ("note", "text"), ("more", "integer"))
    take(lake, change(None, "c", {"id": 1, "note": "a"}, lsn=100),
         change(None, "c", {"id": 2, "note": "b", "more": 3}, lsn=200), ask=lambda *_table: Described(now))
    assert [[c.name for c in v.columns] for v in versions(lake)] == [["id", "note"], ["id", "note", "more"]]
    assert step(*versions(lake)).added == {"more": None}


def test_without_schemas_a_column_that_is_gone_at_the_source_is_known_from_the_lake(lake):
    before = known(("id", "bigint"), ("note", "text"))
    first = change(None, "c", {"id": 1, "note": "a"}, lsn=100)
    take(lake, first, ask=lambda *_table: Described(before))
    report = take(lake, first, change(None, "c", {"id": 2, "note": "b"}, lsn=200),
                  change(None, "c", {"id": 3}, lsn=300), ask=lambda *_table: Described(known(("id", "bigint"))))
    assert (report.refused, [len(v.columns) for v in versions(lake)]) == (0, [2, 1])


def test_without_schemas_a_column_that_the_connector_left_out_is_refused(lake):
    now = known(("id", "bigint"), ("odd", "lseg"), ("note", "text"))
    assert take(lake, change(None, "c", {"id": 1, "note": "a"}, lsn=100), ask=lambda *_t: Described(now)).refused == 1
    assert "lacks the column odd: set include.unknown.datatypes=true" in rules(lake)
    report = take(lake, change(None, "c", {"id": 1, "note": "a"}, lsn=300),
                  ask=lambda *_t: Described(now, frozenset({"odd"})))
    assert report.rows == {"orders": 1}


def test_a_catalogue_that_changed_while_the_stream_was_read_is_asked_again(lake):
    answers = [Described(known(("id", "bigint"), ("note", kind))) for kind in ("integer", "text")]
    asked = []

    def ask(*table):
        asked.append(table)
        return answers[min(len(asked) - 1, 1)]

    first = [change(None, "c", {"id": 1, "note": 7}, lsn=100), change(None, "c", {"id": 1, "note": "seven"}, lsn=200)]
    report = take(lake, *first, ask=ask)
    assert (report.refused, [v.columns[1].type for v in versions(lake)]) == (0, ["integer", "text"])
    before = len(asked)
    poison = [change(None, "c", {"id": n, "note": 7}, lsn=300 + 100 * n) for n in range(5)]
    assert take(lake, *first, *poison, ask=ask).refused == 5
    assert len(asked) - before <= 3  # a poison row asks once, not each time


@pytest.fixture
def file(own_home, tmp_path, monkeypatch):
    """A file of sources with types, and a stream without schemas."""
    path = tmp_path / "sources.toml"
    path.write_text('[sources.shop]\ndsn = "SHOP_STREAM_DSN"\nschema = "shop"\n[sources.shop.tables.orders]\n'
                    'key = ["id"]\ntypes = {id = "bigint", price = "numeric(12,2)", mood = "shop.mood"}\n')
    monkeypatch.setenv("STRIPE_PLATFORM_SOURCES", str(path))
    monkeypatch.setenv("STRIPE_PLATFORM_LAKE", str(tmp_path / "lake"))
    return path


def command(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["cdc", *map(str, words)])


def test_a_source_of_the_file_is_read_from_files_by_command_and_its_slot_is_left_alone(file, tmp_path, monkeypatch):
    events = tmp_path / "events.jsonl"
    events.write_text("".join(json.dumps(item) + "\n" for item in change(
        None, "c", {"id": 1, "price": "1.50", "mood": "ok"}, lsn=100)))
    done = command("capture", "--source", "shop", "--from-files", events, "--topics", "pay", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["rows"] == {"orders": 1}
    assert command("verify", "--source", "shop", "--log-only").exit_code == 0
    done = command("verify", "--source", "shop")
    assert (done.exit_code, "prove the log alone with --log-only" in " ".join(done.output.split())) == (1, True)


def test_a_type_that_there_is_not_is_named(file):
    file.write_text(file.read_text().replace("bigint", "bigin"))
    done = command("capture", "--source", "shop", "--from-files", file)
    assert "bigin is no type as `format_type` prints it" in " ".join(str(done.exception).split())


def test_the_reference_is_read_from_its_slot_alone(file):
    done = command("capture", "--source", "reference", "--from-files", file)
    assert done.exit_code == 2
    assert "slot alone" in " ".join(done.output.split())


def test_a_connector_of_any_source_differs_from_ours_in_names_and_in_describing_its_events():
    ours, others = (json.loads((DEPLOYED / name).read_text())["config"] for name in ("connector.json", "source.json"))
    differing = {name: value for name, value in others.items() if ours.get(name) != value}
    assert ours.keys() <= others.keys()
    assert differing == {
        "topic.prefix": "${env:DEBEZIUM_PREFIX}", "slot.name": "${env:DEBEZIUM_SLOT}",
        "publication.name": "${env:DEBEZIUM_PUBLICATION}", "column.propagate.source.type": ".*",
        "key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true",
        "topic.creation.transactions.include": ".*\\.transaction"}


def test_a_lake_that_a_stream_feeds_is_not_read_on_from_a_slot_nor_compared_with_one(source, tmp_path):
    lake = LocalLake(tmp_path / "fed")
    take(lake, change([ID], "c", {"id": 1}, lsn=100))
    for read, rule in ((capture, "read on with --from-kafka"), (reconcile, "prove the log alone with --log-only")):
        with pytest.raises(CaptureError, match=f"is fed by a Debezium stream.*{rule}"):
            read(source, lake=lake, source=OLTP)
    assert verify(source, lake=lake, source=OLTP).problems == []
