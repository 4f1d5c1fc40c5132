"""dbt's arguments from a run's days, and which raw assets a selection reads: no dbt, no database."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from stripe_platform.oltp.schema import load_schema
from stripe_platform.warehouse.dbt_args import build_args, window_vars
from stripe_platform.warehouse.dbt_project import load_manifest
from stripe_platform.warehouse.inputs import raw_inputs, tagged

JUNE = [dt.date(2026, 6, d) for d in range(1, 31)]
# What staging leaves out although raw holds it: merchants' names and digits of card numbers.
LEFT_OUT = {("accounts", "name"), ("payment_methods", "card_last4")} | {
    # Facts of Stripe's objects that no mart asks for yet.
    (table, column) for table, columns in {
        "accounts": "details_submitted url deleted", "countries": "deleted", "currencies": "deleted",
        "customers": "balance tax_exempt invoice_prefix default_payment_method_id livemode"
                     " next_invoice_sequence",
        "payment_methods": "allow_redisplay livemode detached",
        "refunds": "payment_intent_id balance_transaction_id failure_balance_transaction_id failure_reason",
        "disputes": "payment_intent_id case_type network_reason_code evidence_due_by evidence_has evidence_past_due"
                    " evidence_submissions is_charge_refundable livemode",
        "early_fraud_warnings": "payment_intent_id livemode",
    }.items() for column in columns.split()}


@pytest.fixture(scope="module")
def manifest():
    return load_manifest()


def test_the_window_is_the_first_and_the_last_day_whatever_their_order():
    assert window_vars(JUNE[::-1]) == {"ledger_from": "2026-06-01", "ledger_to": "2026-06-30"}
    args = build_args(JUNE[:1])
    assert json.loads(args[args.index("--vars") + 1]) == {"ledger_from": "2026-06-01", "ledger_to": "2026-06-01"}


def test_days_with_a_gap_and_no_days_are_refused():
    with pytest.raises(ValueError, match="gap"):
        window_vars([JUNE[0], JUNE[2]])
    with pytest.raises(ValueError, match="at least one day"):
        window_vars([])


def test_a_full_refresh_drops_the_window():
    assert build_args(JUNE, full_refresh=True)[-1] == "--full-refresh"
    assert "--vars" not in build_args(JUNE, full_refresh=True)
    assert "--vars" not in build_args(None)


def test_facts_are_certified_by_the_raw_tables_behind_them_and_never_by_scores(manifest):
    names = {k.path[-1] for k in raw_inputs(manifest, tagged(manifest, "facts"))}
    assert names == {"accounts", "charge_outcomes", "charges", "currencies", "customers", "disputes", "exchange_rates",
                     "payment_methods", "refunds"}
    assert {k.path[-1] for k in raw_inputs(manifest, tagged(manifest, "scores"))} == {"charges", "fraud_assessments"}


def test_every_model_belongs_to_exactly_one_operation(manifest):
    models = [n for n in manifest["nodes"].values() if n["resource_type"] == "model"]
    for node in models:
        assert len({"reference", "facts", "scores"} & set(node["tags"])) == 1, node["name"]


def test_every_mart_enforces_a_contract_with_a_key_and_describes_every_column(manifest):
    for node in manifest["nodes"].values():
        if node["resource_type"] != "model" or node["fqn"][1] != "marts":
            continue
        assert node["contract"]["enforced"], node["name"]
        keys = [c["type"] for column in node["columns"].values() for c in column["constraints"]]
        unique = [i for i in node["config"].get("indexes") or () if i.get("unique")]
        assert "primary_key" in keys or unique, node["name"]  # several columns: an index, portable as a test
        assert node["description"], node["name"]
        assert all(column["description"] and column["data_type"] for column in node["columns"].values()), node["name"]


def test_no_contract_holds_money_in_anything_but_bigint(manifest):
    money = {"amount", "amount_captured", "amount_refunded", "amount_eur", "gross", "refunds", "disputes", "net",
             "net_eur"}
    columns = [c for n in manifest["nodes"].values() if n["resource_type"] == "model" and n["fqn"][1] == "marts"
               for c in n["columns"].values() if c["name"] in money]
    assert {c["data_type"] for c in columns} == {"bigint"}


def test_staging_names_every_column_of_raw_but_the_declared_few(manifest):
    staged = {name.removeprefix("model.stripe_platform.stg_") for name in manifest["nodes"] if ".stg_" in name}
    assert {"charges", "refunds", "disputes", "accounts", "customers", "payment_methods"} <= staged
    for table in (load_schema()[name] for name in sorted(staged)):
        kept = [c.name for c in table.columns
                if c.name not in table.sensitive and (table.name, c.name) not in LEFT_OUT]
        node = manifest["nodes"][f"model.stripe_platform.stg_{table.name}"]
        columns = [name for name in node["columns"] if name != "event_day"]
        assert len(columns) == len(kept), table.name
        for column in kept:
            assert column in node["raw_code"], (table.name, column)
