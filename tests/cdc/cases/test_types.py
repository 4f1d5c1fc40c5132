"""Cases 5 to 14: every type arrives as it was, or is kept as text; nothing is rounded, nothing dropped."""

from __future__ import annotations

import os
from dataclasses import replace

import psycopg
import pytest

from resources.lake import LocalLake
from stripe_platform.cdc.backfill import backfill
from stripe_platform.cdc.columns import exact
from stripe_platform.cdc.sources import Published

ALL_BYTES = ("decode((select string_agg(lpad(to_hex(n), 2, '0'), '' order by n) from generate_series(0, 255) n),"
             " 'hex')")
KINDS = {
    "5_unbounded_numeric": ("numeric", ["1/3::numeric", "'1.000'", "'0.00'", "repeat('9', 60)::numeric",
                                        "('1e-400')::numeric", "'-12345678901234567890123456789012345678901234.5'"]),
    "5_numeric_with_scale": ("numeric(12,2)", ["1.1", "'-0.00'", "9999999999.99"]),
    "5_numeric_with_negative_scale": ("numeric(3,-2)", ["12345"]),
    "6_numeric_nan_and_infinity": ("numeric", ["'NaN'", "'Infinity'", "'-Infinity'"]),
    "7_timestamptz_beyond": ("timestamptz", [
        "'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999+00'", "'0044-03-15 12:00:00+00 BC'",
        "'1500-02-28 23:59:59+00'", "'4713-01-01 00:00:00+00 BC'", "'9999-12-31 23:59:59.999999+00'",
        "'2026-06-01 12:00:00.123456+00'", "'10000-01-01 00:00:00+00'"]),
    "7_timestamp_beyond": ("timestamp", ["'infinity'", "'294276-12-31 23:59:59'", "'0001-01-01 00:00:00 BC'",
                                         "'2026-06-01 12:00:00'"]),
    "7_date_beyond": ("date", ["'infinity'", "'-infinity'", "'5874897-12-31'", "'4713-01-01 BC'", "'2026-06-01'"]),
    "7_time_at_24": ("time", ["'24:00'", "'00:00:00.000001'", "'23:59:59.999999'"]),
    "7_timetz": ("timetz", ["'24:00:00-15:59'", "'12:00+14'"]),
    "8_timestamptz_of_another_zone": ("timestamptz(3)", ["'2026-06-01 02:30:00.1239+05:45'",
                                                         "'2026-03-29 02:30 Europe/Paris'"]),
    "9_json_as_written": ("json", ["'null'", "'{\"a\":1, \"a\":2}'", "'[9007199254740993, 1.10]'",
                                   "'\"\\u00e9 \\\\u0000-like\"'", "(repeat('[', 900) || repeat(']', 900))::json"]),
    "9_jsonb": ("jsonb", ["'null'", "'{\"a\":1, \"a\":2}'", "'[9007199254740993, 1.10]'",
                          "(repeat('[', 900) || repeat(']', 900))::jsonb"]),
    "11_bytea_of_all_bytes": ("bytea", [ALL_BYTES, "''"]),
    "14_uuid": ("uuid", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    "14_interval": ("interval", ["'1 year -2 days 03:04:05.678901'", "'-1 mon +1 day'", "'178000000 years'", "'0'"]),
    "14_inet": ("inet", ["'192.168.0.1/24'", "'::1'"]),
    "14_range": ("numrange", ["'(1.50,2]'", "'empty'", "'(,)'"]),
    "14_range_of_times": ("tstzrange", ["'[2026-06-01 00:00+02, infinity)'"]),
    "14_multirange": ("int4multirange", ["'{[1,3),[5,8)}'"]),
    "14_money": ("money", ["'12.34'", "'-92233720368547758.08'"]),
    "14_domain": ("positive", ["1.50", "99999999.99"]),
    "14_hstore": ("hstore", ["'a=>1, \"b c\"=>NULL, \"q\\\"\"=>\"\\\\\"'"]),
    "14_citext": ("citext", ["'MiXeD'"]),
    "14_composite": ("pair", ["row(1, 'a,\"b')::pair"]),
    "14_array_with_nulls_and_quotes": ("text[]", ["array['a', null, 'NULL', '', 'q\"\\,{}']", "'{}'", "'[2:3]={a,b}'"]),
    "14_array_of_numeric": ("numeric(10,3)[]", ["'{1.5,NaN,NULL}'", "'{{1,2},{3,4}}'"]),
    "14_array_of_enum": ("mood[]", ["'{sad,ok}'"]),
    "14_bit": ("bit varying(10)", ["'101'", "''"]),
    "14_char": ("character(5)", ["'ab'", "''"]),
    "14_varchar": ("character varying(10)", ["'  a '", "''"]),
    "14_float": ("double precision", ["'NaN'", "'-Infinity'", "'-0'", "0.1", "5e-324", "1.7976931348623157e308",
                                      "1e22"]),
    "14_real": ("real", ["'NaN'", "'Infinity'", "0.1", "1e-45", "16777217"]),
    "14_bigint": ("bigint", ["9223372036854775807", "(-9223372036854775808)::bigint"]),
    "14_oid": ("oid", ["4294967295"]),
    "14_boolean": ("boolean", ["true", "false"]),
    "14_tsvector": ("tsvector", ["to_tsvector('simple', 'a b''c a')"]),
    "14_point": ("point", ["'(0.1,-1e300)'"]),
    "14_pg_lsn": ("pg_lsn", ["'16/B374D848'"]),
    "14_regclass": ("regclass", ["'pg_class'"]),
    "14_internal_char": ('"char"', ["'x'"]),
    "14_text_like_others": ("text", ["''", "'null'", "'NULL'", "'\\N'", "'\\.'", "'\"'", "'a,b'",
                                     "E'line\\nbreak\\ttab'", "'ünï€ 🎉'", "' x '", "E'\\x01\\x7f'"]),
}


@pytest.fixture(scope="module")
def filled(shop):
    """A table per type: each value inserted and, in another row, put there by an update from NULL."""
    for extension in ("hstore", "citext"):
        shop.db.execute(f"create extension {extension}")
    shop.db.execute("create type mood as enum ('sad', 'ok')")
    shop.db.execute("create type pair as (n integer, t text)")
    shop.db.execute("create domain positive as numeric(10,2) check (value > 0)")
    tables = {case: f"t{n}" for n, case in enumerate(KINDS)}
    for case, (kind, _values) in KINDS.items():
        shop.db.execute(f"create table {tables[case]} (id integer primary key, v {kind})")
    shop.publish(*tables.values())
    for case, (_kind, values) in KINDS.items():
        with shop.db.transaction():
            for n, value in enumerate(values):
                shop.db.execute(f"insert into {tables[case]} values ({2 * n}, {value}), ({2 * n + 1}, null)")
                shop.db.execute(f"update {tables[case]} set v = {value} where id = {2 * n + 1}")
            shop.db.execute(f"insert into {tables[case]} values (-1, null)")
    shop.capture()
    return tables


@pytest.mark.parametrize("case", KINDS)
def test_case(shop, filled, case):
    """Values of one type, in source, folded state and raw, as text."""
    shop.judge(filled[case])


@pytest.mark.parametrize("case", KINDS)
def test_the_catalogue_names_the_type_as_the_source_does(shop, filled, case):
    from stripe_platform.cdc.catalogue import newest
    from stripe_platform.cdc.manifest import Chain

    (kind,) = shop.db.execute(
        "select format_type(case when t.typtype = 'd' then t.typbasetype else t.oid end,"
        " case when t.typtype = 'd' then -1 else a.atttypmod end) from pg_attribute a join pg_type t"
        " on t.oid = a.atttypid where attrelid = %s::regclass and attname = 'v'", [filled[case]]).fetchone()
    named = newest(shop.lake, Chain.load(shop.lake), filled[case]).column("v").type
    assert named.removeprefix("public.").replace("_mood", "mood[]") == kind


def test_a_first_copy_lands_every_value_as_the_stream_did(shop, filled):
    """Read by another protocol, in another form: the log holds the same text or the same typed value."""
    def landed(table: str, operations: str) -> dict[int, tuple]:
        return {row["id"]: (repr(row["v"]), row.get(exact("v"))) for row in shop.log(table) if row["_op"] in operations}

    streamed = {table: landed(table, "cu") for table in filled.values()}
    backfill(shop.settings, shop.source, list(filled.values()), lake=shop.lake)
    for case, table in filled.items():
        assert landed(table, "r") == streamed[table], case


def test_case_49_a_first_copy_keeps_bytes_that_are_no_text(servers, shop):
    name = f"copied_{os.getpid()}"
    shop.db.execute(f"create database {name} template template0 encoding 'SQL_ASCII' locale 'C'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIED_DSN", servers.superuser("oltp", name))
        source = replace(shop.source, name="copied", dsn="COPIED_DSN", owner_dsn="COPIED_DSN", slot=name,
                         publication="copied", published=(Published("c49"),))
        lake = LocalLake(shop.lake.root / "copied")
        with psycopg.connect(servers.superuser("oltp", name), autocommit=True) as db:
            db.execute("create table c49 (id integer primary key, v text)")
            db.execute("create publication copied for table c49")
            db.execute(rb"insert into c49 values (1, E'good'), (2, E'\xff\xfe bad'), (3, E'na\xc3\xafve')")
        backfill(shop.settings, source, lake=lake)
        assert [row["v"] for row in replace(shop, source=source, lake=lake).log("c49") if row["_op"] == "r"] == [
            "good", "\\xfffe20626164", "naïve"]
        shop.db.execute("select pg_drop_replication_slot(%s)", [name])
    shop.db.execute(f"drop database {name} with (force)")
