"""The assets on real servers: a range of features in one run, a model, scores that close their ledger day."""

from __future__ import annotations

import dagster as dg
import facts
import numpy as np
import pandas as pd
import psycopg
import pytest

from resources.model_registry import ModelRegistryResource
from resources.postgres import OltpResource
from resources.warehouse import WarehouseResource
from stripe_platform.features.assets import FEATURE_ASSETS
from stripe_platform.fraud.assets import FRAUD_ASSETS
from stripe_platform.keys import key
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_reference

pytestmark = pytest.mark.servers
FIRST, DAYS, PER_DAY = pd.Timestamp("2026-06-01"), 22, 60
FEATURES, MODEL, SCORES = key("features", "charge"), key("fraud", "model"), key("oltp", "fraud_assessments")
LEDGER_DAY = "2026-07-10"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def day(number: int) -> str:
    return (FIRST + pd.Timedelta(days=number)).date().isoformat()


@pytest.fixture
def world(both, warehouse):
    """Charges in the OLTP and, as marts would show them, in the warehouse; dear ones at one terminal are frauds."""
    from stripe_platform.keyring import open_keyring

    rng, number = np.random.default_rng(5), DAYS * PER_DAY
    charges = pd.DataFrame({
        "charge_id": [f"ch_{i:032x}" for i in range(number)],
        "created": FIRST + pd.to_timedelta(np.sort(rng.integers(0, DAYS * 86_400, number)), "s"),
        "customer_token": [f"c{i}" for i in rng.integers(0, 300, number)],
        "terminal_id": [f"t{i}" for i in rng.integers(0, 5, number)], "amount_eur": rng.integers(100, 20_000, number)})
    frauds = charges[(charges.terminal_id == "t0") & (charges.amount_eur > 12_000)]
    with psycopg.connect(warehouse.need("warehouse_dsn")) as connection:
        facts.write(connection, charges, pd.DataFrame(
            {"charge_id": frauds.charge_id, "created": frauds.created + pd.Timedelta(days=3)}))
    with psycopg.connect(both.need("oltp_owner_dsn"), autocommit=True) as owner:
        seed_reference(owner)
        account = write.create_account(owner, name="Shop", country="FR", currency="eur", mcc="5411")
    with psycopg.connect(both.need("oltp_dsn"), autocommit=True) as connection:
        _sell(connection, open_keyring(both), account, charges)
        yield connection


def _sell(connection, ring, account, charges):
    payer = write.create_customer(connection, ring, name=None, email=None, country="FR", currency="eur")
    card = write.create_payment_method(connection, customer_id=payer, brand="visa", last4="4242", exp_month=1,
                                       exp_year=2030, funding="credit", country="FR")
    made = [account, payer, card, charges.charge_id.tolist(), charges.amount_eur.tolist(),
            charges.created.dt.tz_localize("UTC").tolist()]
    connection.execute(
        "insert into oltp.payment_intents (id, account_id, customer_id, payment_method_id, amount, currency, status,"
        " created) select replace(c.id, 'ch_', 'pi_'), %s, %s, %s, c.amount, 'eur', 'succeeded', c.created"
        " from unnest(%s::text[], %s::bigint[], %s::timestamptz[]) as c (id, amount, created)", made)
    connection.execute(
        "insert into oltp.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, amount,"
        " amount_captured, currency, status, device_type, created)"
        " select c.id, replace(c.id, 'ch_', 'pi_'), %s, %s, %s, c.amount, c.amount, 'eur', 'succeeded', 'pos', created"
        " from unnest(%s::text[], %s::bigint[], %s::timestamptz[]) as c (id, amount, created)", made)


@pytest.fixture
def run(tmp_path):
    """Materialize one asset for a day or a range, in a store of this test alone; the run's result."""
    resources = {"warehouse": WarehouseResource(), "oltp": OltpResource(),
                 "models": ModelRegistryResource(root=str(tmp_path / "models"))}

    def materialize(asset: dg.AssetKey, *days: str, fails: bool = False, **config: object) -> dg.ExecuteInProcessResult:
        tags = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), days, strict=True)
                    ) if len(days) == 2 else {}
        ops = {asset.to_python_identifier(): {"config": config}} if config else {}
        return dg.materialize(
            [*FEATURE_ASSETS, *FRAUD_ASSETS], instance=instance, selection=[asset], resources=resources, tags=tags,
            partition_key=days[0] if len(days) == 1 else None, run_config={"ops": ops, **QUIET},
            raise_on_error=not fails)

    with dg.DagsterInstance.ephemeral() as instance:
        yield materialize


def figures(result: dg.ExecuteInProcessResult, asset: dg.AssetKey) -> dict:
    (event, *_) = result.asset_materializations_for_node(asset.to_python_identifier())
    return {name: value.value for name, value in event.metadata.items()}


def reason(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = (e.step_failure_data for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE)
    return failure.error.cause.message


def test_features_model_and_scores_from_range_to_closed_ledger_day(world, run):
    built = figures(run(FEATURES, day(0), day(DAYS - 1)), FEATURES)
    assert built["dagster/row_count"] == sum(built["rows_by_day"].values()) == DAYS * PER_DAY
    assert len(built["rows_by_day"]) == DAYS

    model = figures(run(MODEL), MODEL)
    assert model["test_days"] == f"{day(DAYS - 7)} to {day(DAYS - 1)}"
    assert model["training_days"] == f"{day(DAYS - 21)} to {day(DAYS - 15)}"
    assert 0 < model["average_precision"] <= 1
    assert model["plot"].startswith("![")
    assert len(model["plot"]) < 80_000

    scored = figures(run(SCORES, LEDGER_DAY), SCORES)
    stands = world.execute(
        "select count(*), min(model_version), min(assessed_at)::date::text from oltp.fraud_assessments").fetchone()
    assert stands == (scored["scored"], model["version"], LEDGER_DAY)
    assert scored["dagster/row_count"] == sum(scored["decisions"].values()) == scored["scored"]
    assert world.execute("select max(day)::text from ops.day_ledger").fetchone() == (LEDGER_DAY,)

    again = figures(run(SCORES, LEDGER_DAY), SCORES)
    assert (again["dagster/row_count"], again["closed_day"]) == (0, "already closed")
    assert world.execute("select count(*) from ops.day_ledger").fetchone() == (1,)
    assert figures(run(MODEL), MODEL)["version"] == model["version"]


def test_a_first_day_alone_is_built_without_the_history_it_cannot_have(world, run):
    assert figures(run(FEATURES, day(0)), FEATURES)["rows_by_day"].keys() == {day(0)}


def test_windows_can_be_chosen_and_must_lie_in_the_data(world, run):
    run(FEATURES, day(0), day(DAYS - 1))
    assert figures(run(MODEL, train_start=day(0)), MODEL)["test_days"] == f"{day(14)} to {day(20)}"
    assert "the model needs features of 2026-06-03 to" in reason(run(MODEL, fails=True, train_start=day(2)))


def test_a_window_without_fraud_is_one_sentence(world, run, warehouse):
    with psycopg.connect(warehouse.need("warehouse_dsn")) as connection:
        connection.execute("update marts.fct_disputes set reason = 'product_not_received'")
    run(FEATURES, day(0), day(DAYS - 1))
    said = reason(run(MODEL, fails=True))
    assert "hold no fraud known before" in said
    assert "Traceback" not in said


def test_scores_without_a_model_name_the_remedy(world, run):
    run(FEATURES, day(0), day(DAYS - 1))
    assert "materialize fraud/model first" in reason(run(SCORES, LEDGER_DAY, fails=True))
    assert world.execute("select count(*) from ops.day_ledger").fetchone() == (0,)


def test_new_scores_for_a_closed_day_are_refused(world, run):
    run(FEATURES, day(0), day(DAYS - 1))
    run(MODEL)
    run(SCORES, LEDGER_DAY)
    run(MODEL, train_start=day(0))
    assert "cannot be closed after 2026-07-10" in reason(run(SCORES, LEDGER_DAY, fails=True))
