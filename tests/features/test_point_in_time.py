"""The generated SQL against brute force, and the two promises: no look ahead, and day by day equals the range."""

from __future__ import annotations

import datetime as dt

import brute
import facts
import pandas as pd
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stripe_platform.features.build import OtherFeatureSetError, build
from stripe_platform.features.declarations import FEATURE_NAMES, history_days

START, DAYS = pd.Timestamp("2026-05-01"), 45
FIRST, LAST = START.date(), (START + pd.Timedelta(days=DAYS - 1)).date()
PROPERTY = settings(max_examples=50, deadline=None, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def connection(warehouse):
    with psycopg.connect(warehouse.need("warehouse_dsn"), autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        connection.execute("set timezone = 'Asia/Kolkata'")  # the features must not hang on the session's zone
        yield connection


# Times on a coarse grid, some a microsecond beside it: equal timestamps and window edges are the rule, not the luck.
moments = st.builds(
    lambda hours, beside: START + pd.Timedelta(hours=hours) + pd.Timedelta(microseconds=beside),
    st.integers(0, DAYS * 4 - 1).map(lambda n: n * 6), st.sampled_from([0, 0, 0, 1]),
)
lags = st.sampled_from([0, 1, 5, 7, 7, 8, 10, 14, 30, 36, 37, 38]).map(lambda d: pd.Timedelta(days=d))


@st.composite
def payments(draw):
    """Some charges and disputes: late labels, won-over reasons, failed charges, charges without a terminal."""
    rows = draw(st.lists(st.tuples(
        moments, st.sampled_from(["c1", "c2"]), st.sampled_from(["t1", "t1", "t2", None]),
        st.one_of(st.integers(0, 50_000), st.integers(0, 50_000), st.none()),
        st.sampled_from(["succeeded"] * 6 + ["pending", "failed"])), min_size=1, max_size=30))
    order = draw(st.permutations(range(len(rows))))  # ids must not follow time
    charges = pd.DataFrame(rows, columns=["created", "customer_token", "terminal_id", "amount_eur", "status"])
    charges["amount_eur"] = charges.amount_eur.astype("Int64")  # null: a day without exchange rate
    charges["charge_id"] = [f"ch_{n:04d}" for n in order]
    disputed = draw(st.lists(st.tuples(st.integers(0, len(rows) - 1), lags, st.sampled_from(
        ["fraudulent"] * 4 + ["product_not_received"])), max_size=12))
    disputes = pd.DataFrame(
        [(charges.charge_id[i], charges.created[i] + lag, reason) for i, lag, reason in disputed],
        columns=["charge_id", "created", "reason"]).astype({"created": "datetime64[ns]"})
    return charges, disputes


def stored(connection: psycopg.Connection, until: pd.Timestamp | None = None) -> pd.DataFrame:
    cursor = connection.execute(
        "select * from features.charge where event_ts <= coalesce(%s::timestamptz, 'infinity') order by charge_id",
        [until and until.tz_localize("UTC")])
    assert cursor.description is not None
    return pd.DataFrame(cursor.fetchall(), columns=[c.name for c in cursor.description]).set_index("charge_id")


@PROPERTY
@given(payments())
def test_the_generated_sql_equals_the_definition(connection, made):
    charges, disputes = made
    facts.write(connection, charges, disputes)
    build(connection, FIRST, LAST)
    expected = brute.features(charges, disputes)[list(FEATURE_NAMES)].astype(float)
    pd.testing.assert_frame_equal(stored(connection)[list(FEATURE_NAMES)].astype(float), expected, rtol=1e-12)


@PROPERTY
@given(payments(), moments, st.integers(2, 9))
def test_nothing_after_a_moment_changes_the_features_before_it(connection, made, moment, factor):
    charges, disputes = made
    facts.write(connection, charges, disputes)
    build(connection, FIRST, LAST)
    before = stored(connection, moment)
    later = charges.created > moment
    changed = charges.assign(amount_eur=charges.amount_eur.where(~later, charges.amount_eur * factor + 1),
                             terminal_id=charges.terminal_id.where(~later, "t1"),
                             customer_token=charges.customer_token.where(~later, "c1"))
    added = changed[later].assign(charge_id=lambda f: f.charge_id + "_again")
    unknown_yet = pd.DataFrame({"charge_id": charges.charge_id, "created": charges.created.clip(
        lower=moment + pd.Timedelta(microseconds=1)) + pd.Timedelta(days=1), "reason": "fraudulent"})
    facts.write(connection, pd.concat([changed, added], ignore_index=True),
                pd.concat([disputes[disputes.created <= moment], unknown_yet], ignore_index=True))
    build(connection, FIRST, LAST)
    pd.testing.assert_frame_equal(stored(connection, moment), before, check_exact=True)


@settings(PROPERTY, max_examples=4)
@given(payments())
def test_day_by_day_in_any_order_equals_the_whole_range(connection, made):
    facts.write(connection, *made)
    build(connection, FIRST, LAST)
    whole = stored(connection)
    for back in range(DAYS):
        day = LAST - dt.timedelta(days=back)
        build(connection, day, day)
    pd.testing.assert_frame_equal(stored(connection), whole, check_exact=True)


def test_a_late_label_counts_from_when_it_is_known_and_leaves_with_its_charge(connection):
    """A fraud of day 0, disputed on day 10: too late for one day, in time for seven, gone after fourteen."""
    days = [0, 0, 8, 9, 10, 13, 14]
    charges = pd.DataFrame({
        "charge_id": [f"ch_{i}" for i in range(len(days))], "terminal_id": "t", "amount_eur": 100,
        "created": [START + pd.Timedelta(days=d) for d in days], "customer_token": [f"c{d}" for d in days]})
    facts.write(connection, charges, pd.DataFrame(
        {"charge_id": ["ch_0"], "created": [START + pd.Timedelta(days=10)]}))
    build(connection, FIRST, LAST)
    made = stored(connection)
    assert made.terminal_nb_tx_7d.tolist() == [0, 0, 2, 2, 2, 2, 0]
    assert made.terminal_risk_7d.tolist() == [0, 0, 0, 0, 0.5, 0.5, 0]
    assert made.terminal_risk_1d.tolist() == [0] * 7
    assert made.terminal_risk_30d.tolist() == [0, 0, 0, 0, 0.5, 0.5, 0.5]


def test_building_again_changes_nothing_and_counts_rows_by_day(connection):
    charges = pd.DataFrame({
        "charge_id": ["ch_1", "ch_2"], "created": [START, START + pd.Timedelta(hours=30)], "customer_token": "c",
        "terminal_id": "t", "amount_eur": [100, 300]})
    facts.write(connection, charges, charges[["charge_id", "created"]].iloc[:0])
    counted = {FIRST: 1, FIRST + dt.timedelta(days=1): 1}
    assert build(connection, FIRST, LAST) == counted
    first = stored(connection)
    assert build(connection, FIRST, LAST) == counted
    pd.testing.assert_frame_equal(stored(connection), first, check_exact=True)


def test_one_day_reads_history_as_far_as_the_longest_window_reaches():
    assert history_days() == 37


def test_a_table_of_other_declarations_is_refused(connection):
    charges = pd.DataFrame({"charge_id": ["ch_1"], "created": [START], "customer_token": "c", "terminal_id": "t",
                            "amount_eur": [100]})
    facts.write(connection, charges, charges[["charge_id", "created"]].iloc[:0])
    build(connection, FIRST, FIRST)
    connection.execute("comment on table features.charge is 'feature set of last year'")
    with pytest.raises(OtherFeatureSetError, match=r"drop table features\.charge"):
        build(connection, FIRST, FIRST)
