"""The declarations agree with the schema, and one object becomes the rows they say; no server is asked."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from decimal import Decimal

import pytest
from stripe_objects import CARD, T0, account, charge, customer, event, intent, method, movement

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.arrivals import DEEPEST, Delivery, TooDeepError, arrivals, kind_name
from stripe_platform.ingest.stripe.batch import ORDER, SLOT
from stripe_platform.ingest.stripe.kinds import ALL, ENTITIES, MODELLED
from stripe_platform.ingest.stripe.links import World, link
from stripe_platform.ingest.stripe.mapping import RefusedError, Unmodelled, map_arrival
from stripe_platform.ingest.stripe.reading import BadRecordError, UnreadableError, parse, read_stream
from stripe_platform.oltp.schema import load_schema


def mapped(obj, name=None, **more):
    drift = Counter()
    kind = kind_name(obj, name)
    first = next(iter(arrivals(obj, kind, Delivery("test", **more))))
    return map_arrival(first, drift), drift


def row(obj, **more):
    return mapped(obj, **more)[0].mains[0]


def beside(obj, table):
    return [found.clear for found in row(obj).beside[table]]


def test_every_declared_column_exists_and_every_entity_is_modelled():
    schema = load_schema()
    assert ENTITIES <= MODELLED
    for kind in ALL.values():
        table = schema[kind.table]
        assert kind.table in ORDER
        assert kind.table in SLOT
        assert kind.deletable == ("deleted" in table.names), kind.name
        for spec in kind.fields:
            assert table.column(spec.column).type == "bytea" if spec.sealed else table.column(spec.column), spec.column
        for child in kind.children:
            names = {spec.column for spec in child.fields} | {child.key}
            assert names <= set(schema[child.table].names), child.table
        assert not kind.order or set(kind.order) == set(_states(kind)), kind.name


def _states(kind):
    found = next(spec for spec in kind.fields if spec.column == "status")
    known = []
    for word in kind.order:
        try:
            known.append(found.convert(word, "status"))
        except values.InvalidError:
            continue
    return known


def test_every_sealed_column_of_a_table_is_declared_sealed_and_no_clear_text_column_takes_free_text():
    for kind in ALL.values():
        for spec in kind.fields:
            assert spec.sealed == spec.column.endswith("_ciphertext")


def test_a_charge_is_its_rows():
    made = row(charge())
    assert made.table == "charges"
    assert made.clear["amount_captured"] == 1000
    assert made.refs["customer_id"] == ("customers", "cus_1")
    assert beside(charge(), "charge_outcomes") == [
        {
            "charge_id": "ch_1",
            "type": "authorized",
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": "normal",
            "risk_score": 3,
        }
    ]
    assert beside(charge(), "charge_cards")[0]["last4"] == "4242"


def test_a_charge_of_2012_has_state_card_and_capture_although_it_names_none():
    old = {
        "id": "ch_old",
        "object": "charge",
        "created": T0,
        "amount": 500,
        "currency": "usd",
        "paid": True,
        "refunded": False,
        "fee": 45,
        "card": {
            "object": "card",
            "last4": "4242",
            "type": "American Express",
            "exp_month": 1,
            "exp_year": 2014,
            "cvc_check": "pass",
        },
    }
    made = row(old)
    assert (made.clear["status"], made.clear["amount_captured"]) == ("succeeded", 500)
    cards = beside(old, "charge_cards")[0]
    assert (cards["brand"], cards["last4"], cards["cvc_check"]) == ("amex", "4242", "pass")
    failed = row({**old, "paid": False})
    assert (failed.clear["status"], failed.clear["amount_captured"], failed.clear["failure_code"]) == (
        "failed",
        0,
        "unknown",
    )


def test_what_was_never_captured_is_released_and_not_refunded():
    made = row(charge(amount_captured=400, amount_refunded=700))
    assert (made.clear["amount_captured"], made.clear["amount_refunded"]) == (400, 100)


def test_relations_are_taken_as_ids_and_as_objects_and_filler_names_nothing():
    made = row(charge(customer=customer("cus_9"), payment_intent={"id": "pi_9", "object": "payment_intent"}))
    assert made.refs["customer_id"] == ("customers", "cus_9")
    assert made.refs["payment_intent_id"] == ("payment_intents", "pi_9")
    made, drift = mapped(charge(customer="customer"))
    assert made.mains[0].refs["customer_id"] is None
    assert drift["customer", "filler value"] == 1


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"amount": "1000"}, "amount_is_minor_units"),
        ({"amount": 10.5}, "amount_is_minor_units"),
        ({"amount": Decimal("1e400")}, "amount_is_minor_units"),
        ({"amount": 2**63}, "amount_is_minor_units"),
        ({"amount": -1}, "amount_is_minor_units"),
        ({"amount": True}, "amount_is_minor_units"),
        ({"amount": None}, "fact_present"),
        ({"status": "status"}, "status_known"),
        ({"status": "paid_twice"}, "status_known"),
        ({"currency": "currency"}, "fact_present"),
        ({"currency": "zzz"}, "fact_present"),
        ({"currency": "kwd", "amount": 1001, "amount_captured": 0}, "three_decimal_last_digit"),
        ({"amount_captured": 1001}, "captured_within_amount"),
        ({"id": ""}, "id_present"),
        ({"id": 7}, "id_usable"),
        ({"id": "ch 1"}, "id_usable"),
        ({"id": CARD.replace(" ", "")}, "id_usable"),
        ({"id": "a@b.example"}, "id_usable"),
        ({"id": "x" * 256}, "id_usable"),
        ({"created": "yesterday"}, "fact_present"),
        ({"created": 10**14}, "fact_present"),
    ],
)
def test_what_is_no_charge_is_refused_by_a_rule_and_its_values_are_not_repeated(change, rule):
    with pytest.raises(RefusedError) as refused:
        mapped({**charge(), **change})
    assert refused.value.rule == rule
    for field, value in change.items():
        if isinstance(value, str) and len(value) > 3 and value != field:
            assert value not in f"{refused.value} {refused.value.remedy}"


@pytest.mark.parametrize(
    "text", [CARD, "pay\u00a04242\u200b4242 4242-4242", "mail ada@mail.example", "a\x00b", "\ud800"]
)
def test_clear_columns_take_no_card_number_no_address_and_nothing_unprintable(text):
    made, drift = mapped({"id": "prod_1", "object": "product", "name": text, "statement_descriptor": text, "url": text})
    clear = made.mains[0].clear
    assert (clear["name"], clear["statement_descriptor"], clear["url"]) == (None, None, None)
    assert drift["name", "personal data"] + drift["name", "invalid value"] == 1


def test_personal_data_is_sealed_and_never_clear():
    made = row(customer(phone="+331", address={"line1": "1 Street"}, description="about", metadata={"k": "v"}))
    assert set(made.sealed) >= {f"{name}_ciphertext" for name in ("name", "email", "phone", "address", "metadata")}
    assert "Canary" not in json.dumps(made.clear)


def test_the_subject_is_the_payer_where_one_is_named():
    assert mapped(customer("cus_7"))[0].subject == "cus_7"
    assert mapped(charge())[0].subject == "cus_1"
    assert mapped(charge(customer=None))[0].subject == "ch_1"
    assert mapped(event(charge(), "charge.updated"))[0].subject == "cus_1"


def test_unknown_fields_are_drift_by_name_and_metadata_and_odd_names_are_not():
    _, drift = mapped(
        charge(brand_new=1, outcome={"type": "authorized", "newer": 2}, metadata={"mine": 3}, **{"4242424242424242": 4})
    )
    assert drift["brand_new", "unknown field"] == drift["outcome.newer", "unknown field"] == 1
    assert drift["*", "unknown field"] == 1
    assert not [path for path, _ in drift if "mine" in path or "4242" in path]


def test_a_kind_without_a_table_is_kept_as_it_is():
    with pytest.raises(Unmodelled):
        mapped({"id": "x_1", "object": "climate.order"})


def test_what_stands_expanded_inside_arrives_too_but_not_what_was_before_or_is_only_a_name():
    outer = event(
        charge(
            customer=customer(),
            on_behalf_of={"id": "acct_2", "object": "account"},
            refunds={"object": "list", "data": [{"id": "re_1", "object": "refund", "amount": 1}]},
        ),
        "charge.updated",
        at=T0 + 9,
    )
    outer["data"]["previous_attributes"] = {"customer": customer("cus_before")}
    found = list(arrivals(outer, "event", Delivery("test")))
    assert sorted(f"{a.kind} {a.obj['id']}" for a in found) == [
        "charge ch_1",
        "customer cus_1",
        "event evt_1",
        "refund re_1",
    ]
    assert {a.as_of for a in found if a.kind != "event"} == {T0 + 9}


def test_parts_know_what_they_stood_in():
    invoice = {
        "id": "in_1",
        "object": "invoice",
        "created": T0,
        "currency": "eur",
        "lines": {
            "object": "list",
            "data": [{"id": "sub_1", "object": "line_item", "subscription": "sub_1", "amount": 5, "currency": "eur"}],
        },
    }
    line = next(a for a in arrivals(invoice, "invoice", Delivery("test")) if a.kind == "line_item")
    made = map_arrival(line, Counter()).mains[0]
    assert made.key == "in_1:sub_1"
    assert made.sticky["invoice_id"] == ("invoices", "in_1")


def test_nesting_has_an_end():
    obj = charge()
    for _ in range(DEEPEST + 5):
        obj = {"object": "x", "a": obj}
    with pytest.raises(TooDeepError):
        list(arrivals(obj, "x", Delivery("test")))


def test_a_plan_and_a_price_fill_the_same_columns():
    plan = row(
        {"id": "p_1", "object": "plan", "amount": 5, "currency": "eur", "interval": "month", "interval_count": 1}
    )
    price = row(
        {
            "id": "p_1",
            "object": "price",
            "unit_amount": 5,
            "currency": "eur",
            "type": "recurring",
            "recurring": {"interval": "month", "interval_count": 1},
        }
    )
    assert plan.clear.keys() | plan.sealed.keys() == price.clear.keys() | price.sealed.keys()
    assert plan.rank < price.rank


def test_of_two_states_of_one_second_the_further_one_ranks_higher():
    assert row(intent(status="processing")).rank < row(intent(status="succeeded")).rank
    assert row(charge(amount_refunded=5)).rank < row(charge(amount_refunded=10)).rank


def test_links_follow_the_composite_keys():
    world = World(cards={"pm_1": "cus_2"}, intents={"pi_1": ("acct_1", "cus_1", "eur")})
    world.ids["accounts"], world.ids["customers"] = {"acct_1"}, {"cus_1"}
    wanted = {"account_id": "acct_1", "customer_id": "cus_1", "payment_method_id": "pm_1", "payment_intent_id": "pi_1"}
    shown, waits = link("charges", "ch_1", dict(wanted), "eur", world)
    assert shown == {**wanted, "payment_method_id": None}
    assert [(w.column, w.conflict) for w in waits] == [("payment_method_id", True)]
    shown, waits = link("charges", "ch_1", dict(wanted), "usd", world)
    assert shown["payment_intent_id"] is None
    shown, waits = link("charges", "ch_1", dict(wanted), "usd", World(cards={"pm_1": "cus_2"}))
    assert shown == {"account_id": None, "customer_id": None, "payment_method_id": "pm_1", "payment_intent_id": None}


FORMS = {
    "an object": lambda o: json.dumps(o[0]).encode(),
    "an array": lambda o: json.dumps(o).encode(),
    "a list": lambda o: json.dumps({"object": "list", "data": o, "has_more": False}).encode(),
    "a bare list": lambda o: json.dumps({"data": o}, indent=1).encode(),
    "a fixture file": lambda o: json.dumps({"resources": {f"r{i}": x for i, x in enumerate(o)}}).encode(),
    "lines": lambda o: b"\n".join(json.dumps(x).encode() for x in o) + b"\n\n",
    "lines of lists": lambda o: b"\n".join(json.dumps({"object": "list", "data": [x]}).encode() for x in o),
    "documents in a row": lambda o: "\n".join(json.dumps(x, indent=2) for x in o).encode(),
    "with a byte order mark": lambda o: b"\xef\xbb\xbf" + json.dumps(o).encode(),
    "an envelope": lambda o: json.dumps({"detail-type": "x", "detail": o[0]}).encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_of_file_is_read(form, packed):
    objects = [customer(), charge()]
    content = FORMS[form](objects)
    content = gzip.compress(content) if packed else content
    found = [record.value for record in read_stream(io.BytesIO(content), "x")]
    assert found == (objects if len(found) > 1 else objects[:1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  \n",
        b"{broken",
        b"[1, 2",
        b"\xff\xfe\x00",
        b"7",
        b'"text"',
        b"PK\x03\x04 zip",
        gzip.compress(b'{"a": 1}' * 900, mtime=0)[:40],
        b'{"a": NaN}',
    ],
)
def test_what_holds_no_records_is_one_sentence(content):
    with pytest.raises(UnreadableError) as refused:
        list(read_stream(io.BytesIO(content), "x.json"))
    assert "x.json" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        b"{broken",
        b'{"a": NaN}',
        b'{"id": "a", "id": "b"}',
        b'{"a": Infinity}',
        b"\xff",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
)
def test_a_bad_line_among_good_ones_costs_only_itself(line):
    content = b"\n".join([json.dumps(customer()).encode(), line, json.dumps(charge()).encode()])
    found = list(read_stream(io.BytesIO(content), "x"))
    assert [record.reason is None for record in found] == [True, False, True]
    assert found[1].raw is not None


def test_numbers_stay_exact():
    assert parse(b'{"a": 0.1, "b": 1e400}') == {"a": Decimal("0.1"), "b": Decimal("1e400")}
    assert values.dumps({"b": Decimal("1.50"), "a": "\ud800"}) == '{"a":"\\ud800","b":{"$number":"1.50"}}'
    with pytest.raises(BadRecordError):
        parse(b'{"a": -Infinity}')


def test_the_objects_of_these_tests_are_understood():
    for obj in (account(), customer(), method(), intent(), charge(), movement(), event(charge(), "charge.updated")):
        assert not mapped(obj)[1].keys() - {
            ("description", "unknown field"),
            ("fee_details[].application", "unknown field"),
            ("fee_details[].description", "unknown field"),
        }
