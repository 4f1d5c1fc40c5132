"""The simulation: one seed, one history; hidden causes make the frauds; money obeys its currency."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
import psycopg
import pytest

from stripe_platform.feeds import FeedError, FeedSpec, current_feed, remembered, simulate
from stripe_platform.keyring import open_keyring
from stripe_platform.money import exponent
from stripe_platform.oltp.bulk import SEALED, copy_bytes
from stripe_platform.oltp.calendar import last_closed_day
from stripe_platform.settings import Settings, load_settings
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.feed import SimulatedFeed
from stripe_platform.simulation.landing import land
from stripe_platform.simulation.traffic import THIEF_FLOOR
from stripe_platform.simulation.world import Options
from stripe_platform.vault import open_value

FIRST = dt.date(2026, 6, 1)
SMALL = Options(days=6, per_day=400, dispute_lag_days=4)


def calendar(options: Options) -> frozenset[dt.date]:
    return frozenset(options.first_day + dt.timedelta(days=i) for i in range(options.days))


def make(options: Options = SMALL) -> Days:
    return Days(options, calendar(options))


def every_day(options: Options = SMALL) -> list[dt.date]:
    return [FIRST + dt.timedelta(days=i) for i in range(options.days + options.dispute_lag_days)]


def digest(days: Days, day: dt.date) -> str:
    total = hashlib.sha256()
    made = days.rows(day)
    for part in (made.tables, made.later, made.updates):
        for name, rows in sorted(part.items()):
            total.update(name.encode() + copy_bytes(rows))
    return total.hexdigest()


@pytest.fixture(scope="module")
def whole() -> Days:
    return make(Options())


def test_the_same_seed_gives_the_same_bytes_of_every_table(tmp_path: Path):
    one, other = make(), make()
    assert [digest(one, d) for d in every_day()] == [digest(other, d) for d in every_day()]
    for folder, days in (("a", one), ("b", other)):
        assert land(days, FIRST, tmp_path / folder)["sessions"] > 0
    for kind in ("sessions", "customer_feedback"):
        a, b = (tmp_path / f / kind / f"{FIRST}.jsonl" for f in "ab")
        assert a.read_bytes() == b.read_bytes() != b""


def test_another_seed_gives_another_history():
    assert digest(make(), FIRST) != digest(make(dataclasses.replace(SMALL, seed=1)), FIRST)


def test_a_day_made_alone_is_the_day_made_in_order():
    in_order = make()
    for day in every_day():
        in_order.rows(day)
    for day in (every_day()[5], every_day()[-1], every_day()[2]):
        assert digest(make(), day) == digest(in_order, day)


def test_the_default_calendar_holds_a_quarter_million_charges(whole: Days):
    assert sum(len(whole.traffic.day(i)) for i in range(28)) >= 252_000


def test_frauds_are_about_as_frequent_as_published_and_every_scenario_is_there(whole: Days):
    kinds = sum((np.bincount(whole.traffic.day(i).scenario, minlength=4) for i in range(28)), np.zeros(4, int))
    assert 0.006 < kinds[1:].sum() / kinds.sum() < 0.011
    assert all(kinds[1:] > 50)


def test_only_the_stolen_numbers_and_the_multiplied_amounts_stand_above_the_limit(whole: Days):
    day = whole.traffic.day(10)
    assert (day.amount[day.scenario == 0] <= THIEF_FLOOR).all()
    assert (day.amount[day.scenario == 2] > THIEF_FLOOR).mean() < 0.05


def test_a_third_of_a_leaked_cards_charges_are_frauds_of_five_times_the_amount(whole: Days):
    number = 10
    base, day = whole.traffic.base(number), whole.traffic.day(number)
    thirds = day.scenario == 3
    assert thirds.any()
    ratio = day.amount[thirds] / base.amount[thirds]
    assert np.isclose(ratio, 5).mean() > 0.9  # overlapping windows multiply twice
    assert np.isin(np.round(ratio, 6), [5.0, 25.0, 125.0]).all()
    assert (day.amount[~thirds] == base.amount[~thirds]).all()


def test_amounts_are_whole_minor_units_and_three_decimal_ones_end_in_zero(whole: Days):
    rows = whole.rows(FIRST).tables["charges"].to_pandas()
    rows = rows[rows.id.isin(whole.made(FIRST).ids.to_pylist())]  # without the attempts that failed first
    used = set(rows.currency)
    assert {"jpy", "kwd", "eur"} <= used
    assert {exponent(c) for c in used} == {0, 2, 3}
    assert (rows.amount > 0).all()
    assert (rows.amount[rows.currency == "kwd"] % 10 == 0).all()
    assert (rows.amount[rows.currency != "kwd"] % 10 != 0).any()
    rates = whole.rate(FIRST)
    euro = rows.amount / 10.0 ** rows.currency.map(exponent) * rows.currency.map(rates)
    assert np.allclose(np.sort(euro), np.sort(whole.traffic.day(0).amount), atol=0.02)


def test_every_captured_fraud_is_disputed_once_within_the_lag_and_a_declined_one_never(whole: Days):
    days = make()
    charges = {}
    for day in sorted(calendar(SMALL)):
        made = days.made(day)
        for i, charge in enumerate(made.ids.to_pylist()):
            charges[charge] = (made.created_us[i], made.charges.scenario[i] > 0, made.declined[i])
    seen: set[str] = set()
    for day in every_day():
        for row in days.rows(day).tables["disputes"].to_pylist():
            created, fraud, declined = charges[row["charge_id"]]
            lag = row["created"].timestamp() - created / 1e6
            assert row["created"].date() == day
            assert 86_400 <= lag <= SMALL.dispute_lag_days * 86_400
            assert (row["reason"] == "fraudulent") == fraud
            assert not declined
            assert row["charge_id"] not in seen
            seen.add(row["charge_id"])
    frauds = {c for c, (_, fraud, declined) in charges.items() if fraud and not declined}
    assert frauds
    assert frauds <= seen


def test_the_tail_brings_what_falls_due_and_rates_only():
    days = make()
    for day in every_day()[SMALL.days :]:
        tables = days.rows(day).tables
        brought = {name for name, rows in tables.items() if rows.num_rows}
        assert brought <= {"disputes", "early_fraud_warnings", "exchange_rates", "payouts", "payment_intent_details"}


def test_the_feed_brings_its_days_and_a_repeated_run_changes_nothing(both: Settings):
    feed = SimulatedFeed(both, SMALL)
    loads = [feed.bring(day) for day in feed.calendar()]
    assert sum(load.rows.get("charges", 0) for load in loads) > 2000
    assert not any(load.skipped for load in loads)
    landed = sorted(p.name for p in (both.landing / "sessions").iterdir())
    assert landed == [f"{d}.jsonl" for d in sorted(calendar(SMALL))]
    again = [SimulatedFeed(both, SMALL).bring(day) for day in feed.calendar()]
    assert all(load.skipped for load in again)
    assert [load.rows.get("charges", 0) for load in loads] == [load.rows["charges"] for load in again]
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        assert last_closed_day(conn) == every_day()[-1]


def test_no_clear_name_or_mail_of_a_simulated_payer_stands_in_the_database(both: Settings):
    feed = SimulatedFeed(both, SMALL)
    feed.bring(FIRST)
    clear = feed.days.world.rows()["customers"]
    texts = clear["email"].to_pylist() + clear["name"].to_pylist()
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        held = "\n".join(row[0] for row in conn.execute("select c::text from oltp.customers c"))
        row = conn.execute("select id, name_ciphertext, email_ciphertext from oltp.customers order by id").fetchone()
        assert row is not None
        for column, sealed, value in zip(SEALED["customers"].values(), row[1:], (clear["name"], clear["email"]),
                                         strict=True):  # fmt: skip
            opened = open_value(conn, open_keyring(both), sealed, "oltp.customers", column, row[0], row[0])
            assert opened.decode() == value[0].as_py()
    assert not [text for text in texts if text in held or text.encode().hex() in held]


def test_a_folder_keeps_its_feed_and_refuses_another(both: Settings):
    spec = FeedSpec.simulated(days=2, per_day=100, dispute_lag_days=2)
    days = spec.remember(both)
    assert (days.first, days.last, days.last_with_tail) == (FIRST, FIRST + dt.timedelta(1), FIRST + dt.timedelta(3))
    assert spec.remember(both) == days
    assert load_settings().first_day == FIRST
    current_feed(both).bring(FIRST)
    with pytest.raises(FeedError, match="already lives on another"):
        FeedSpec.simulated(days=3).remember(both)
    assert remembered(both) == spec
    assert current_feed(both).name == "simulated"


def test_a_feed_that_never_brought_a_day_binds_nobody(both: Settings):
    FeedSpec.simulated(days=2, per_day=100).remember(both)
    other = FeedSpec.simulated(days=1, per_day=100)
    other.remember(both)
    assert remembered(both) == other


def test_no_calendar_reaches_into_the_future(both: Settings):
    today = dt.datetime.now(dt.UTC).date()
    with pytest.raises(FeedError, match="choose an earlier --start or fewer --days"):
        FeedSpec.simulated(first_day=today - dt.timedelta(days=10), days=5, dispute_lag_days=7).remember(both)
    assert remembered(both) is None
    simulate(both, days=1, per_day=100, dispute_lag_days=1)
    with pytest.raises(FeedError, match="lies in the future"):
        simulate(both, today + dt.timedelta(days=1))


def test_simulating_on_brings_the_day_after_the_last_closed_with_charges(both: Settings):
    options = {"days": 1, "per_day": 100, "dispute_lag_days": 1}
    assert simulate(both, **options).day == FIRST
    assert simulate(both).rows["charges"] > 0
    third = simulate(both)
    assert (third.day, third.rows["charges"] > 0) == (FIRST + dt.timedelta(days=2), True)
    with pytest.raises(FeedError, match="already lives on another"):
        simulate(both, seed=1)
    assert simulate(both, per_day=100).day == FIRST + dt.timedelta(days=3)
    with pytest.raises(FeedError, match="lies before"):
        simulate(both, FIRST - dt.timedelta(days=1))


def test_a_day_of_others_is_observed_and_an_open_one_refused(both: Settings):
    feed = SimulatedFeed(both, SMALL)
    beyond = feed.calendar().last_with_tail + dt.timedelta(days=1)
    with pytest.raises(LookupError, match="not closed yet"):
        feed.bring(beyond)
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        conn.execute("insert into ops.day_ledger values ('oltp', %s)", [beyond])
    assert feed.bring(beyond).skipped
