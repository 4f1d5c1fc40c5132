"""Any database as a source, from its entry in a file to the warehouse, by the commands a user has."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from debezium_events import change, column, write_lines
from typer.testing import CliRunner

from stripe_platform.cdc.catalogue import tables, versions
from stripe_platform.cdc.describe import asker
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.sources import SourceError, find, load
from stripe_platform.cli import app
from stripe_platform.settings import MissingSettingError, load_settings


@pytest.fixture
def configured(shop, tmp_path, monkeypatch):
    """Writes the file of sources and names it to the settings."""
    def write(text: str):
        path = tmp_path / "sources.toml"
        path.write_text(text)
        monkeypatch.setenv("STRIPE_PLATFORM_SOURCES", str(path))
        return load_settings()

    return write


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["cdc", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


ENTRY = """
[sources.bakery]
dsn = "SHOP_DSN"
owner_dsn = "SHOP_OWNER_DSN"
schema = "bakery"
slot = "{slot}"
publication = "bakery"
[sources.bakery.tables.loaves]
where = "region = 'eu'"
columns = ["id", "region", "grams"]
key = ["region", "id"]
[sources.bakery.tables."shelf.places"]
"""


def test_case_25_a_source_of_the_file_goes_from_its_tables_to_raw_with_filter_columns_and_key(shop, configured):
    shop.db.execute("create schema bakery; create schema shelf")
    shop.db.execute("create table bakery.loaves (id integer, region text, grams numeric, recipe text,"
                    " primary key (id, region))")
    shop.db.execute("create table shelf.places (id integer primary key, v text)")
    settings = configured(ENTRY.format(slot=f"b_{shop.source.slot}"))
    assert run("publish", "--source", "bakery")["tables"] == ["loaves", "shelf.places"]
    run("publish", "--source", "bakery")  # twice is harmless
    shop.db.execute("insert into bakery.loaves values (1, 'eu', 500.50, 'secret'), (2, 'us', 400, 'secret')")
    shop.db.execute("insert into shelf.places values (1, 'a')")
    assert run("capture", "--source", "bakery")["rows"] == {"loaves": 1, "shelf.places": 1}
    run("canary", "--source", "bakery")
    run("capture", "--source", "bakery")
    assert run("verify", "--source", "bakery")["problems"] == []
    assert run("slot", "--source", "bakery")["wal_status"] == "reserved"
    lake = find(settings, "bakery").lake(settings)
    assert tables(Chain.load(lake)) == ["loaves", "shelf.places"]
    assert run("apply", "--source", "bakery") == {"rows": {"loaves": 1, "shelf.places": 1}, "stopped": {}}
    loaves = shop.warehouse.execute("select id, region, grams::text from raw.bakery__loaves").fetchall()
    assert loaves == [(1, "eu", "500.50")]
    assert shop.warehouse.execute('select id, v from raw."bakery__shelf.places"').fetchall() == [(1, "a")]
    key = [row[0] for row in shop.warehouse.execute(
        "select a.attname from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k (n, position)"
        " join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n"
        " where i.indrelid = 'raw.bakery__loaves'::regclass and i.indisprimary order by k.position")]
    assert key == ["region", "id"]


def test_a_table_that_stopped_holds_no_other_and_the_rename_is_declared_by_command(shop, configured):
    configured(ENTRY.format(slot=f"h_{shop.source.slot}").replace("bakery", "hats"))
    shop.db.execute("create schema hats; create schema if not exists shelf")
    shop.db.execute("create table hats.loaves (id integer, region text, grams numeric, primary key (region, id))")
    shop.db.execute("create table if not exists shelf.places (id integer primary key, v text)")
    run("publish", "--source", "hats")
    for name in ("hats", "bakery"):  # either tells what is published by both
        shop.db.execute(f"drop event trigger if exists stripe_platform_{name}")
    shop.db.execute("insert into shelf.places values (50, 'a')")
    run("snapshot", "--source", "hats")
    shop.db.execute("alter table shelf.places rename v to w")
    shop.db.execute("insert into shelf.places values (51, 'b')")
    shop.db.execute("alter table shelf.places rename w to x")
    shop.db.execute("insert into shelf.places values (52, 'c')")
    shop.db.execute("insert into hats.loaves values (1, 'eu', 2)")
    run("capture", "--source", "hats")
    stopped = CliRunner().invoke(app, ["cdc", "apply", "--source", "hats", "--json"])
    assert stopped.exit_code == 1
    report = json.loads(stopped.stdout.splitlines()[-1])
    assert report["rows"] == {"loaves": 1}
    assert "cdc rename --table places v w" in report["stopped"]["shelf.places"]
    for names in (["v", "w"], ["w", "x"]):
        told = CliRunner().invoke(app, ["cdc", "rename", "--source", "hats", "--table", "shelf.places", *names])
        assert told.exit_code == 0, told.output
    assert run("apply", "--source", "hats")["stopped"] == {}
    rows = shop.warehouse.execute('select id, x from raw."hats__shelf.places" where id >= 50 order by id').fetchall()
    assert rows == [(50, "a"), (51, "b"), (52, "c")]


@pytest.mark.parametrize(("text", "sentence"), [
    ('[sources.shop]\ndsn = "X"\n', "source shop: tables is missing"),
    ('[sources.shop]\ndsn = "postgresql://u:secret@h/d"\n[sources.shop.tables.t]\n', "names an environment variable"),
    ('[sources.oltp]\ndsn = "X"\n[sources.oltp.tables.t]\n', "cannot be called so"),
    ('[sources.shop]\ndsn = "X"\nslots = "s"\n[sources.shop.tables.t]\n', "slots is not known, one of"),
    ('[sources.shop]\ndsn = "X"\n[sources.shop.tables.t]\nfilter = "true"\n', "table t: filter is not known"),
    ("[sources.shop", "is not TOML"),
])
def test_a_file_that_cannot_be_used_is_one_sentence_without_secrets(configured, text, sentence):
    settings = configured(text)
    with pytest.raises(SourceError, match=sentence) as caught:
        load(settings)
    assert "secret@" not in str(caught.value)


def test_a_table_may_be_named_with_its_schema_also_where_that_is_the_sources_own(configured):
    source = load(configured('[sources.shop]\ndsn = "X"\nschema = "shelf"\n[sources.shop.tables]\n'
                             '"shelf.jars" = {key = ["id"]}\nlids = {key = ["size"]}\n"attic.jars" = {}\n'))["shop"]
    assert [source.place_of(each.name) for each in source.published] == [
        ("shelf", "jars"), ("shelf", "lids"), ("attic", "jars")]
    assert [source.key_of(*place) for place in (("shelf", "jars"), ("shelf", "lids"), ("attic", "jars"))] == [
        ("id",), ("size",), ()]


def test_a_name_or_a_variable_that_is_missing_is_named(configured, tmp_path, monkeypatch):
    settings = configured('[sources.shop]\ndsn = "NOWHERE_DSN"\n[sources.shop.tables.t]\n')
    with pytest.raises(SourceError, match="there is no source shp: one of shop"):
        find(settings, "shp")
    with pytest.raises(MissingSettingError, match="NOWHERE_DSN is not set: set it to the connection URL"):
        find(settings, "shop").conninfo(settings)
    monkeypatch.setenv("STRIPE_PLATFORM_SOURCES", str(tmp_path / "none.toml"))
    with pytest.raises(SourceError, match="cannot be read"):
        load(load_settings())


def test_the_source_describes_a_table_for_a_stream_as_its_log_describes_it(shop):
    shop.db.execute("create type hue as enum ('red', 'blue'); create domain cents as bigint;"
                    " create domain prices as cents[]")
    shop.table("described", "b int, a text, h hue, c cents, p prices, hs hue[], n numeric(10,2)[], i interval day to"
                            " second(2), v varchar(9), g int generated always as (b * 2) stored, _op text,"
                            " primary key (a, b)")
    shop.table("whole", "a int primary key, b text")
    shop.db.execute("alter table whole replica identity full; alter table whole add more int not null default 5;"
                    " insert into whole values (1); insert into described (b, a) values (1, 'x')")
    shop.capture()
    for table in ("described", "whole"):
        asked = asker(shop.settings, shop.source)("public", table)
        own = versions(shop.lake, table)[-1]
        published = [c for c in asked.version.columns if c.name not in asked.optional or own.column(c.name)]
        assert replace(asked.version, columns=tuple(published)) == own
    assert asker(shop.settings, shop.source)("public", "nowhere") is None


def test_a_publication_for_debezium_is_made_without_a_slot(shop, configured):
    shop.db.execute("create schema fed; create table fed.orders (id int primary key)")
    configured('[sources.fed]\ndsn = "SHOP_DSN"\nowner_dsn = "SHOP_OWNER_DSN"\nschema = "fed"\nslot = "fed_slot"\n'
               'publication = "fed"\n[sources.fed.tables.orders]\n')
    assert run("publish", "--source", "fed", "--no-slot")["slot"] is None
    assert shop.db.execute("select from pg_replication_slots where slot_name = 'fed_slot'").fetchone() is None
    assert shop.db.execute("select from pg_publication_tables where pubname = 'fed'").fetchone() is not None


def test_a_source_that_cannot_be_asked_goes_from_a_file_of_events_to_raw(shop, configured, tmp_path):
    configured('[sources.far]\ndsn = "FAR_DSN"\nschema = "shop"\n[sources.far.tables.orders]\n')
    key, note = column("id", "int64", optional=False), column("note", "string")
    mood = column("mood", "string", "io.debezium.data.Enum", told=("MOOD", 2147483647, 0))
    more = column("more", "int32", default=5, optional=False)
    days = column("day", "int32", "io.debezium.time.Date")
    file = write_lines(tmp_path / "events.jsonl", [item for part in (
        change([key, note, mood], "c", {"id": 1, "note": "a", "mood": "ok"}, lsn=100),
        change([key, note, mood], "c", {"id": 2, "note": "b", "mood": None}, lsn=200),
        change([key, note, mood, more], "u", {"id": 2, "note": "c", "mood": "sad", "more": 6}, lsn=300),
        change([key, note, mood, more], "d", {"id": 9, "note": None, "mood": None, "more": None}, lsn=400),
    ) for item in part])
    assert run("capture", "--source", "far", "--from-files", str(file), "--topics", "pay")["rows"] == {"orders": 4}
    assert run("apply", "--source", "far") == {"rows": {"orders": 2}, "stopped": {}}
    rows = "select id, note, mood, more from raw.far__orders where not _deleted order by id"
    assert shop.warehouse.execute(rows).fetchall() == [(1, "a", "ok", 5), (2, "c", "sad", 6)]
    later = write_lines(tmp_path / "later.jsonl", change(
        [key, note, mood, more, days], "c", {"id": 3, "note": "d", "mood": "ok", "more": 7, "day": 0}, lsn=500))
    assert run("capture", "--source", "far", "--from-files", str(later), "--topics", "pay")["rows"] == {"orders": 1}
    stopped = CliRunner().invoke(app, ["cdc", "apply", "--source", "far", "--json"])
    assert stopped.exit_code == 1
    assert "orders.day came and was changed again before" in stopped.stdout
