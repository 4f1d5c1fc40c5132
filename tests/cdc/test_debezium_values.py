"""Values between PostgreSQL's text and Debezium's JSON: exact there and back, or refused."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_platform.cdc.debezium_schemas import OIDS
from stripe_platform.cdc.debezium_text import to_json
from stripe_platform.cdc.debezium_values import DEFAULT, OURS, ValueRefusedError, is_placeholder, to_text

USER = 20_000
THERE_AND_BACK = [
    ("bigint", "-9223372036854775808"), ("smallint", "7"), ("boolean", "t"), ("double precision", "1e+300"),
    ("real", "-1e-07"), ("double precision", "NaN"), ("double precision", "-Infinity"), ("numeric", "NaN"),
    ("numeric", "Infinity"), ("numeric", "-Infinity"), ("numeric(18,2)", "1.10"), ("text", ""), ("text", "\\ \n \" €"),
    ("character(5)", "ab   "), ("date", "infinity"), ("date", "-infinity"), ("date", "0044-03-15 BC"),
    ("date", "5874897-12-31"), ("time without time zone", "24:00:00"), ("time without time zone", "12:30:00.000001"),
    ("time with time zone", "12:30:00.5+00"), ("timestamp without time zone", "infinity"),
    ("timestamp without time zone", "-infinity"), ("timestamp without time zone", "0044-03-15 01:02:03.4 BC"),
    ("timestamp(0) without time zone", "1960-01-01 00:00:01"), ("timestamp with time zone", "-infinity"),
    ("timestamp with time zone", "294276-12-31 23:59:59+00"),
    ("timestamp with time zone", "0044-03-15 01:02:03.4+00 BC"), ("interval", "PT0S"),
    ("interval", "P-1Y2M-3DT4H5M-6.7S"), ("interval", "P-1M2DT-0.5S"), ("bytea", "\\x00ff10"), ("bytea", "\\x"),
    ("bit(8)", "10101010"), ("bit(1)", "1"), ("bit(11)", "00000000001"), ("money", "-$1,234.50"), ("point", "(1.5,-2)"),
    ("jsonb", '{"a": 12345678901234567890}'), ("text[]", '{a,"b,\\"c\\\\",NULL,"","NULL"," x"}'),
    ("integer[]", "{{1,NULL},{3,4}}"), ("numeric[]", "{1.10,NaN}"), ("boolean[]", "{t,NULL,f}"),
    ("bytea[]", '{"\\\\x01"}'), ("timestamp with time zone[]", '{"2026-01-01 00:00:00+00"}'),
    ("date[]", "{2026-01-01}"), ("real[]", "{1e+06,0.1,-0,1e-05,0.0001,123456}"),
    ("double precision[]", "{1,1e+15,1e-07,1.234567890123456e+15}"), ("uuid", "00000000-0000-0000-0000-000000000001"),
]


def oid(kind: str) -> int:
    head, _, rest = kind.partition("(")
    return OIDS.get(head + rest.partition(")")[2], OIDS["text"])


@pytest.mark.parametrize(("kind", "text"), THERE_AND_BACK)
def test_a_value_comes_back_as_the_server_wrote_it(kind, text):
    value = json.loads(json.dumps(to_json(text, kind, oid(kind))))
    assert to_text(value, kind, oid(kind), OURS) == text


@pytest.mark.parametrize(("kind", "text"), [
    ("hstore", '"a"=>"1", "bb"=>NULL, "q\\""=>"\\\\"'),
    ("vector", "[1,-2.5,1.234567e+06,0,123456]"), ("mood", "ok"), ("int8", "7")])
def test_a_value_of_the_databases_own_types_comes_back_too(kind, text):
    assert to_text(json.loads(json.dumps(to_json(text, kind, USER))), kind, USER, OURS) == text


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_any_array_of_texts_survives(items):
    text = to_text(items, "text[]", OIDS["text[]"], OURS)
    assert to_json(text, "text[]", OIDS["text[]"]) == items


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9), st.integers(0, 9))
def test_a_precise_decimal_is_exact_whatever_its_scale(value, scale):
    import base64

    unscaled = int(value.scaleb(scale).to_integral_value())
    size = unscaled.bit_length() // 8 + 1
    coded = base64.b64encode(unscaled.to_bytes(size, "big", signed=True)).decode()
    assert Decimal(to_text(coded, f"numeric(38,{scale})", OIDS["numeric"], DEFAULT)) == Decimal(unscaled).scaleb(-scale)


@pytest.mark.parametrize(("kind", "value", "encoding", "text"), [
    ("timestamp(3) without time zone", 1_767_225_601_500, DEFAULT, "2026-01-01 00:00:01.5"),
    ("timestamp without time zone", 1_767_225_601_500_000, DEFAULT, "2026-01-01 00:00:01.5"),
    ("numeric", {"scale": 5, "value": "AQVuDzamRD3i33k="}, DEFAULT, "12345678901234567890.12345"),
    ("date", "2026-06-01Z", OURS, "2026-06-01"), ("time without time zone", "12:34:56.700000Z", OURS, "12:34:56.7"),
    ("timestamp without time zone", "-0043-03-15T00:00:00Z", OURS, "0044-03-15 00:00:00 BC"),
    ("interval", "P0Y0M0DT0H0M0S", OURS, "PT0S"), ("interval", "P1Y0M0DT0H0M6.700S", OURS, "P1YT6.7S")])
def test_other_encodings_of_a_value_give_the_same_text(kind, value, encoding, text):
    assert to_text(value, kind, oid(kind), encoding) == text


@pytest.mark.parametrize(("kind", "value", "encoding", "rule"), [
    ("date", "-5877611-06-21Z", OURS, "is what isostring makes of infinity"),
    ("timestamp without time zone", 2**63 - 1, OURS, "beyond what microseconds can count"),
    ("interval", 36_572_706_700_000, DEFAULT, "interval.handling.mode=string"),
    ("bit varying", "BQ==", OURS, "loses its leading zeros"), ("lseg", "WygwLA==", OURS, "no exact form"),
    ("numeric", "bg==", DEFAULT, "without scale"), ("bigint", True, OURS, "JSON integer"),
    ("bigint", 1.0, OURS, "JSON integer"), ("text[]", "{zz}", OURS, "JSON list"), ("text", 5, OURS, "JSON string"),
    ("hstore", "[]", OURS, "JSON object")])
def test_what_is_not_exact_is_refused_with_its_remedy_and_without_its_value(kind, value, encoding, rule):
    with pytest.raises(ValueRefusedError, match=rule) as refused:
        to_text(value, kind, USER if kind == "hstore" else oid(kind), encoding)
    assert str(value) not in str(refused.value)


@pytest.mark.parametrize(("kind", "value"), [
    ("text", "__gone"), ("bytea", "X19nb25l"), ("text[]", ["__gone"]), ("bytea[]", ["X19nb25l"]),
    ("hstore", '{"__gone":"__gone"}')])
def test_a_value_that_was_left_out_is_recognised_in_every_form(kind, value):
    assert is_placeholder(value, kind, "__gone")
    assert not is_placeholder(value, kind, "__other")
    assert not is_placeholder([value, value], kind, "__gone")
