"""The dbt project on a real PostgreSQL: what the marts say of a small, known history."""

from __future__ import annotations

import pytest
from history import MARTS, Store, charge, day, dispute, story

from stripe_platform.warehouse.content import content_hash

pytestmark = pytest.mark.servers


def hashes(store: Store) -> dict[str, str]:
    return {mart: content_hash(store.conn, f"marts.{mart}") for mart in MARTS}


def test_counts_and_sums_equal_raw_to_the_minor_unit_in_every_currency(store: Store):
    story(store)
    store.build(range(1, 11), tests=True)
    by_currency = "select currency, count(*), sum(amount) from {} group by currency order by currency"
    assert store.rows(by_currency.format("marts.fct_charges")) == store.rows(
        by_currency.format("raw.charges where not _deleted"))
    assert store.one("select count(*), sum(amount) from marts.fct_refunds") == (1, 50)
    assert store.one("select count(*), sum(amount) from marts.fct_disputes") == (1, 999)
    assert store.one("select sum(charges), sum(charges_succeeded) from marts.agg_daily_revenue") == (8, 7)
    assert store.one("select gross, refunds, disputes, net from marts.agg_daily_revenue "
                     "where account_id = 'acct_a' and currency = 'eur' and event_day = %s", day(4)) == (
        70_000_000_000, 50, 0, 69_999_999_950)
    assert store.one("select gross, disputes, net from marts.agg_daily_revenue "
                     "where account_id = 'acct_b' and event_day = %s", day(8)) == (0, 999, -999)
    assert {t for (t,) in store.rows(
        "select data_type from information_schema.columns where table_schema = 'marts' and column_name in "
        "('amount', 'amount_captured', 'amount_refunded', 'amount_eur', 'gross', 'refunds', 'disputes', 'net')")
    } == {"bigint"}
    # Yen has no minor unit, the dinar three digits; the 9th has no dollar rate: null, not a guess.
    assert dict(store.rows("select charge_id, amount_eur from marts.fct_charges")) == {
        "ch_1": 1050, "ch_2": 913, "ch_3": 610, "ch_4": 3686, "ch_5": 500, "ch_6": 0, "ch_7": 70_000_000_000,
        "ch_9": None}


def test_day_by_day_equals_one_range_and_a_second_run_changes_nothing(store: Store):
    for number in (1, 2, 4, 8, 10):  # the 10th deletes what only a range with the 6th would hold
        story(store, [number] if number != 10 else [6, 9, 10])
        store.build([number] if number != 10 else [6, 7, 8, 9, 10])
    step_by_step = hashes(store)
    store.build(range(1, 11))
    assert hashes(store) == step_by_step
    store.build(None, full_refresh=True)
    assert hashes(store) == step_by_step


def test_a_late_dispute_rewrites_the_day_of_its_charge_and_no_other(store: Store):
    story(store, range(1, 8))
    store.build(range(1, 8))
    # A wrong value planted in each day tells which days are rewritten.
    store.conn.execute("update marts.fct_charges set device_type = 'planted'")
    change = store.on(8)
    charge(change, "1", 1, 1050, disputed=True)
    dispute(change, "late", "1", 8, 1050)
    store.build([8])
    healed = "select distinct event_day from marts.fct_charges where device_type <> 'planted' order by 1"
    assert store.rows(healed) == [(day(1),)]
    assert store.one("select disputed from marts.fct_charges where charge_id = 'ch_1'") == (True,)
    assert store.one(
        "select event_day, charge_created::date, account_token, customer_token from marts.fct_disputes") == (
        day(8), day(1), "merchant_a", "payer_a")
    noted = dict(store.rows("select mart, array_agg(event_day order by event_day) from ops.touched_days group by mart"))
    assert noted == {"fct_charges": [day(1)], "fct_disputes": [day(8)], "agg_daily_revenue": [day(1), day(8)]}


def test_a_day_whose_last_charge_is_deleted_becomes_empty(store: Store):
    story(store, range(1, 10))
    store.build(range(1, 10))
    assert store.one("select count(*) from marts.fct_charges where event_day = %s", day(6)) == (1,)
    story(store, [10])
    store.build([10])
    for mart in ("fct_charges", "agg_daily_revenue"):
        assert store.one(f"select count(*) from marts.{mart} where event_day = %s", day(6)) == (0,)


def test_an_incremental_run_without_a_window_and_a_charge_without_its_payer_are_refused(store: Store, capfd):
    story(store)
    store.build(range(1, 11))
    assert store.dbt("run", "--select", "fct_refunds") == 1
    assert "ledger_from and ledger_to are not set" in capfd.readouterr().out
    before = hashes(store)
    charge(store.on(10), "stray", 10, 100, customer_id="cus_unknown")
    window = '{"ledger_from": "2026-06-10", "ledger_to": "2026-06-10"}'
    assert store.dbt("run", "--select", "fct_charges", "--vars", window) == 1
    assert "customer_token" in capfd.readouterr().out
    assert hashes(store) == before


def test_scores_stand_on_the_day_of_their_charge(store: Store):
    story(store, range(1, 8))
    store.build(range(1, 8))
    store.build([7], tags=("scores",))
    for version, number in (("m1", 8), ("m2", 9)):
        store.on(number).put("fraud_assessments", charge_id="ch_1", model_version=version, score=0.25,
                             decision="allow", assessed_at="2026-06-01T12:00:00Z")
        store.build([number], tags=("scores",))
    assert store.rows("select model_version, event_day, customer_token, score from marts.fct_fraud_scores "
                      "order by model_version") == [("m1", day(1), "payer_a", 0.25), ("m2", day(1), "payer_a", 0.25)]


def test_no_name_no_digit_of_a_card_and_no_internal_payer_id_reaches_the_marts(store: Store):
    story(store)
    store.build(range(1, 11))
    columns = {name for (name,) in store.rows(
        "select column_name from information_schema.columns where table_schema = 'marts'")}
    assert not columns & {"name", "customer_id", "card_last4", "card_fingerprint", "name_ciphertext"}
    assert not {c for c in columns if c.startswith("_") or "lsn" in c or "ciphertext" in c}
    for mart in MARTS:
        text = str(store.rows(f"select * from marts.{mart}"))
        assert "secret name" not in text
        assert "cus_" not in text


def test_the_unit_tests_of_the_models_pass(store: Store):
    store.build(None, full_refresh=True)
    assert store.dbt("test", "--select", "test_type:unit") == 0
