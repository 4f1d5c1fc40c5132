"""Whole deliveries: any order, repetition and cut, Stripe's own fixtures of nine years, the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_snapshot import differences, snapshot
from stripe_objects import T0, account, charge, customer, event, intent, method, movement, rows, take
from typer.testing import CliRunner

from stripe_platform import cli
from stripe_platform.ingest.stripe import importing
from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import import_records
from stripe_platform.ingest.stripe.kinds import ENTITIES, MODELLED
from stripe_platform.ingest.stripe.reading import Record, read_file

pytestmark = pytest.mark.servers
FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stripe_fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"SKIPPED: Stripe's API fixtures are not in {FIXTURES}"
)

IDS = st.sampled_from(("1", "2"))
OWNER = st.sampled_from(("cus_1", "cus_2", None))
WHEN = st.integers(T0, T0 + 3)


@st.composite
def deliveries(draw):
    made = draw(
        st.sampled_from(("customer", "method", "intent", "charge", "account", "movement", "refund", "gone", "price"))
    )
    key, owner = draw(IDS), draw(OWNER)
    obj = {
        "customer": lambda: customer(f"cus_{key}", balance=draw(st.integers(-5, 5))),
        "method": lambda: method(f"pm_{key}", owner),
        "intent": lambda: intent(
            f"pi_{key}",
            owner,
            status=draw(st.sampled_from(("processing", "succeeded"))),
            currency=draw(st.sampled_from(("eur", "usd"))),
        ),
        "charge": lambda: charge(
            f"ch_{key}",
            owner,
            amount_refunded=draw(st.sampled_from((0, 10))),
            customer_object=None,
            payment_intent=draw(st.sampled_from(("pi_1", "pi_2", intent("pi_2")))),
        ),
        "account": lambda: account(
            f"acct_{key}", capabilities={"transfers": draw(st.sampled_from(("active", "pending")))}
        ),
        "movement": lambda: movement(f"txn_{key}", source=f"ch_{key}"),
        "refund": lambda: {
            "id": f"re_{key}",
            "object": "refund",
            "amount": 5,
            "currency": "eur",
            "created": T0,
            "charge": f"ch_{key}",
            "status": draw(st.sampled_from(("pending", "succeeded", "odd"))),
        },
        "gone": lambda: {"id": f"cus_{key}", "object": "customer", "deleted": True},
        "price": lambda: {
            "id": f"price_{key}",
            "object": draw(st.sampled_from(("price", "plan"))),
            "created": T0,
            "currency": "eur",
            "product": "prod_1",
            "nickname": draw(st.sampled_from(("a", "b"))),
        },
    }[made]()
    obj.pop("customer_object", None)
    if draw(st.booleans()):
        who = draw(st.sampled_from((None, "acct_1", "acct_2")))
        kind = "customer.deleted" if made == "customer" and draw(st.booleans()) else f"{obj['object']}.updated"
        return event(
            obj, kind, at=draw(WHEN), key=f"evt_{draw(st.integers(1, 9))}", **({"account": who} if who else {})
        )
    return obj


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=st.lists(deliveries(), min_size=2, max_size=14), data=st.data())
def test_any_order_repetition_and_cut_gives_the_same_rows(fresh, found, data):
    shuffled = data.draw(st.permutations(found))
    repeated = [*shuffled, *data.draw(st.lists(st.sampled_from(found), max_size=4))]
    at = data.draw(st.integers(0, len(repeated)))
    cuts = [data.draw(st.sampled_from((lambda p: [p], lambda p: [[x] for x in p]))) for _ in range(2)]
    with fresh() as platform:
        take(platform.conn, platform.ring, *found)
        expected = snapshot(platform.conn, platform.ring)
    with fresh() as platform:
        for part, cut in zip((repeated[:at], repeated[at:]), cuts, strict=True):
            for one in cut(part):
                take(platform.conn, platform.ring, *one)
        assert differences(expected, snapshot(platform.conn, platform.ring)) == []


def fixture_records() -> list[Record]:
    return [record for file in sorted(FIXTURES.glob("*.json.gz")) for record in read_file(file)]


@needs_fixtures
def test_stripes_fixtures_of_nine_years_go_in_once_twice_and_shuffled(platform, another, monkeypatch):
    found = fixture_records()
    report = import_records(platform.conn, platform.ring, found, Delivery("fixtures")).as_json()
    print(json.dumps({k: v for k, v in report.items() if k not in ("kinds", "modelled")}))
    assert report["received"] == len(found)
    assert report["lost"] == 0
    assert report["normalised"] + report["quarantined"] + report["unmodelled"] == len(found)
    assert report["normalised_share"] >= 0.97
    assert {kind for kind, row in report["kinds"].items() if row["share"] is not None} == set(
        report["kinds"]
    ) & MODELLED
    assert not [kind for kind, row in report["kinds"].items() if kind in ENTITIES and row["unmodelled"]]
    assert rows(
        platform.conn, "select count(*) from ingest.objects where state = 'quarantined' and reason is null"
    ) == [(0,)]
    expected = snapshot(platform.conn, platform.ring)
    import_records(platform.conn, platform.ring, found, Delivery("fixtures"))
    assert differences(expected, snapshot(platform.conn, platform.ring)) == []
    platform = another()
    monkeypatch.setattr(importing, "BATCH", 150)
    random.Random(7).shuffle(found)  # noqa: S311 - no secret is drawn
    import_records(platform.conn, platform.ring, [*found, *found[:200]], Delivery("fixtures"))
    assert differences(expected, snapshot(platform.conn, platform.ring)) == []


@needs_fixtures
def test_every_version_by_itself_becomes_rows(platform):
    shares = {
        file.name: import_records(platform.conn, platform.ring, read_file(file), Delivery(file.name)).as_json()
        for file in sorted(FIXTURES.glob("*.json.gz"))
    }
    print(json.dumps({name: report["normalised_share"] for name, report in shares.items()}, indent=1))
    assert {name for name, report in shares.items() if report["normalised_share"] < 0.97 or report["lost"]} == set()


def test_the_command_says_what_became_of_a_file(platform, tmp_path):
    file = tmp_path / "export.jsonl"
    file.write_text("\n".join(json.dumps(o) for o in (customer(), charge(), charge("ch_2", status="odd"))))
    done = CliRunner().invoke(cli.app, ["ingest", str(file), "--account", "acct_1", "--json", "--drift"])
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0
    assert (report["received"], report["normalised"], report["quarantined"], report["lost"]) == (3, 2, 1, 0)
    assert report["kinds"]["charge"]["share"] == 0.5
    assert report["normalised_share"] == round(2 / 3, 6)
    assert set(report["modelled"]) >= ENTITIES
    assert isinstance(report["drift"], list)
    shown = CliRunner().invoke(cli.app, ["ingest", str(file)])
    assert "3 received, 2 normalised, 1 in quarantine" in " ".join(shown.stdout.split())


def test_standard_input_is_read_and_broken_input_is_one_sentence(platform, monkeypatch, capsys):
    done = CliRunner().invoke(cli.app, ["ingest", "-", "--json"], input=json.dumps(event(charge(), "charge.updated")))
    assert json.loads(done.stdout.splitlines()[-1])["normalised"] == 1
    for arguments, said in (
        (["nowhere.json"], "cannot be read"),
        (["--api"], "STRIPE_PLATFORM_STRIPE_API_KEY is not set"),
        ([], "name files"),
        (["x", "--account", "a b"], "--account"),
    ):
        monkeypatch.setattr("sys.argv", ["stripe-platform", "ingest", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert said in capsys.readouterr().err
