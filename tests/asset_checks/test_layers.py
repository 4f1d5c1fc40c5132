"""Every declared check passes on days as they are, and fails on the violation it was made for."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import psycopg
import pytest
from planted import FACT, OLTP, WAREHOUSE
from uncommitted import Uncommitted

import asset_checks
from asset_checks import factory
from asset_checks.judge import WHOLE, Check, judge, judge_together
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc import snapshots as states
from stripe_platform.cdc.compact import encode
from stripe_platform.documents.setup import ensure_collections
from stripe_platform.features.declarations import feature_set_hash
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.certify import PROVEN, UncertifiedInputError, certified

pytestmark = pytest.mark.servers
ALL = {f"{check.asset.to_user_string()}:{check.name}": check for check in asset_checks.declared()}
OF_STORES = {label: check for label, check in ALL.items()
             if not label.startswith("fraud/") and check.together is None}
TOGETHER = {(check.asset.path[0], check.name, check.together): [
    c for c in ALL.values() if (c.asset.path[0], c.together) == (check.asset.path[0], check.together)]
    for check in ALL.values() if check.together is not None}
ASSETS = {check.asset.to_user_string(): check for check in asset_checks.declared()}
DAY = "2026-06-02"

UNGUARDED = """
do $$ declare c record; begin
    for c in select conname from pg_constraint
        where conrelid = 'oltp.{0}'::regclass and contype in ('c', 'f') and conparentid = 0
    loop execute format('alter table oltp.{0} drop constraint %I', c.conname); end loop;
    alter table oltp.{0} disable trigger user;
end $$
"""
NAMES = [f"2026-06-0{n}" for n in range(1, 6)]


def red(check: Check, stores, rule: str) -> None:
    """The check fails by that rule on the one day that was touched, and passes the others."""
    bad = [v for v in judge(check, stores, NAMES if check.partitioned else [WHOLE]) if not v.passed]
    assert [v.outcome for v in bad] == ["failed"]
    assert rule in bad[0].reasons


@pytest.mark.parametrize("label", OF_STORES)
def test_days_as_they_are_pass(carried, label):
    found = carried.judge(OF_STORES[label])
    assert {key: (v.outcome, v.reasons) for key, v in found.items() if not v.passed} == {}


@pytest.mark.parametrize("checks", TOGETHER.values(), ids=[f"{layer}-{name}" for layer, name, _ in TOGETHER])
def test_small_tables_as_they_are_pass_together(carried, checks):
    found = judge_together(checks, carried.stores)
    assert {c.asset.path[-1]: v.reasons for c, v in zip(checks, found, strict=True) if not v.passed} == {}


@pytest.mark.parametrize(("table", "change", "rule"), OLTP)
def test_a_violation_in_the_oltp_turns_its_check_red(carried, table, change, rule):
    with carried.oltp() as connection:
        connection.execute(UNGUARDED.format(table))
        connection.execute(f"update oltp.{table} {change} where id = (select min(id) from oltp.{table})")
        stores = dataclasses.replace(carried.stores, oltp_resource=Uncommitted(connection))
        red(ASSETS[f"oltp/{table}"], stores, rule)
        connection.rollback()


def test_a_currency_with_another_exponent_turns_its_check_red(carried):
    with carried.oltp() as connection:
        connection.execute("update oltp.currencies set stripe_exponent = 2 where code = 'jpy'")
        stores = dataclasses.replace(carried.stores, oltp_resource=Uncommitted(connection))
        verdicts = judge(ASSETS["oltp/currencies"], stores, [DAY])
        connection.rollback()
    assert [(v.outcome, v.reasons) for v in verdicts] == [("failed", ("no_other_exponents",))]


METRICS = {"roc_auc": 0.87, "average_precision": 0.66, "card_precision_100": 0.3, "recall_at_fpr_0_1pct": 0.4}


def stored_model(carried, frauds: int = 120, feature_set: str | None = None, **metrics: float) -> str:
    """A model in the registry that was tested on all days; its version."""
    return carried.stores.models().save("tree", {
        "metrics": METRICS | metrics, "rows": {"training": 900, "test": 1_000},
        "frauds": {"training": 9, "test": frauds},
        "feature_set_hash": feature_set or feature_set_hash(),
        "windows": {"test_start": NAMES[0], "test_end": NAMES[-1]}}).version


def scored(carried, *, change: str = "", at: str = "2026-06-05 00:00+00") -> list:
    """What does not pass after scores of all charges that did not fail were written at one instant."""
    version = stored_model(carried)
    with carried.oltp() as connection:
        connection.execute(UNGUARDED.format("fraud_assessments"))
        connection.execute(
            "insert into oltp.fraud_assessments select id, %s, .5, 'allow', %s from oltp.charges "
            "where status <> 'failed'", [version, at])
        if change:
            connection.execute(f"{change} where charge_id = (select min(charge_id) from oltp.fraud_assessments)")
        stores = dataclasses.replace(carried.stores, oltp_resource=Uncommitted(connection))
        verdicts = judge(ASSETS["oltp/fraud_assessments"], stores, NAMES)
        connection.rollback()
    return [(v.partition, v.outcome, v.reasons) for v in verdicts if not v.passed]


def test_scores_of_all_charges_pass(carried):
    assert scored(carried) == []


@pytest.mark.parametrize(("change", "rules"), [
    ("update oltp.fraud_assessments set score = 1.5", ("no_scores_outside",)),
    ("update oltp.fraud_assessments set score = 'NaN'", ("no_scores_outside",)),
    ("update oltp.fraud_assessments set charge_id = 'ch_none'", ("no_without_charge",)),
    ("delete from oltp.fraud_assessments", ("no_charges_left_out",)),
])
def test_a_bad_score_turns_its_check_red(carried, change, rules):
    assert scored(carried, change=change) == ([(NAMES[-1], "failed", rules)] if rules else [])


def test_scores_written_before_their_charges_turn_their_check_red(carried):
    assert scored(carried, at="2026-06-02 00:00+00") == [("2026-06-02", "failed", ("no_assessed_before_charge",))]


@pytest.mark.parametrize(("model", "rule"), [
    ({"roc_auc": float("nan")}, "no_metrics_not_finite"), ({"roc_auc": 1.2}, "no_metrics_outside"),
    ({"average_precision": 0.1}, "no_chance_or_worse"), ({"roc_auc": 0.5}, "no_chance_or_worse"),
    ({"average_precision": 0.79}, "no_too_good_to_be_true"), ({"feature_set": "other"}, "no_other_feature_sets"),
])
def test_a_model_with_implausible_figures_turns_its_check_red(carried, model, rule):
    stored_model(carried, **model)
    (verdict,) = judge(ASSETS["fraud/model"], carried.stores, [WHOLE])
    assert verdict.outcome == "failed"
    assert rule in verdict.reasons


def test_a_plausible_model_passes_and_one_tested_on_no_fraud_is_not_evaluated(carried):
    stored_model(carried)
    assert judge(ASSETS["fraud/model"], carried.stores, [WHOLE])[0].outcome == "passed"
    stored_model(carried, frauds=20, average_precision=0.9)  # on few frauds no one is accused
    assert judge(ASSETS["fraud/model"], carried.stores, [WHOLE])[0].outcome == "passed"
    stored_model(carried, frauds=0)
    assert judge(ASSETS["fraud/model"], carried.stores, [WHOLE])[0].outcome == "not_evaluated"


@pytest.mark.parametrize(("asset", "statement", "rule"), WAREHOUSE)
def test_a_violation_in_the_warehouse_turns_its_check_red(carried, asset, statement, rule):
    with carried.warehouse() as connection:
        connection.execute(statement)
        stores = dataclasses.replace(carried.stores, warehouse_resource=Uncommitted(connection))
        red(ASSETS[asset], stores, rule)
        connection.rollback()


@pytest.mark.parametrize("planted", [
    "amount = amount + 1", "currency = 'kwd'", "event_day = event_day + 1, created = created + interval '1 day'"])
def test_money_that_a_mart_says_otherwise_than_the_oltp_turns_the_check_red(carried, planted):
    with carried.warehouse() as connection:
        connection.execute(FACT.format("fct_charges", planted))
        stores = dataclasses.replace(carried.stores, warehouse_resource=Uncommitted(connection))
        bad = [v for v in judge(ALL["marts/fct_charges:money_equals_the_oltp"], stores, NAMES) if not v.passed]
        connection.rollback()
    assert bad
    assert {reason for v in bad for reason in v.reasons} == {"no_currencies_with_other_sums"}


def test_an_open_day_may_lag_behind_the_oltp_and_never_be_ahead(carried):
    check = ALL["marts/fct_charges:money_equals_the_oltp"]
    with carried.oltp() as oltp, carried.warehouse() as warehouse:
        stores = dataclasses.replace(carried.stores, oltp_resource=Uncommitted(oltp),
                                     warehouse_resource=Uncommitted(warehouse))
        oltp.execute("delete from ops.day_ledger where day >= %s", [DAY])
        warehouse.execute("delete from marts.fct_charges f where f.charge_id ="
                          " (select min(m.charge_id) from marts.fct_charges m where m.event_day = %s)", [DAY])
        assert judge(check, stores, [DAY])[0].passed
        warehouse.rollback()
        warehouse.execute("insert into marts.fct_charges select (jsonb_populate_record(f, %s)).*"
                          " from marts.fct_charges f where f.event_day = %s limit 1",
                          [json.dumps({"charge_id": "ch_more"}), DAY])
        assert judge(check, stores, [DAY])[0].reasons == ("no_currencies_with_other_sums",)
        oltp.rollback()
        warehouse.rollback()


def test_a_spoilt_raw_row_is_refused_to_marts_until_its_day_is_applied_again(carried):
    check, day, lake = ASSETS["raw/charges"], dt.date.fromisoformat(DAY), carried.stores.lake()

    def judged() -> None:
        factory.record(carried.stores, check, judge(check, carried.stores, [DAY]), "run")

    def asked() -> None:
        with carried.warehouse() as connection:
            certified(connection, [check.asset], [day])

    with carried.warehouse() as connection:
        connection.execute("update raw.charges set amount = amount + 1 where id = (select min(id) from raw.charges "
                           "where _ledger_day = %s)", [day])
    judged()
    with pytest.raises(UncertifiedInputError, match=r"materialize raw/charges .* with config reapply: true"):
        asked()
    with carried.warehouse() as connection:
        assert raw.apply(connection, lake, "charges", [day], reapply=True).days == [day]
    judged()
    asked()


def test_a_score_that_the_mart_lost_or_altered_turns_its_check_red(carried):
    for mart, rule in (("where false", "no_missing_scores"), ("", "no_altered_scores")):
        with carried.warehouse() as connection:
            connection.execute(
                "insert into raw.fraud_assessments (charge_id, model_version, score, _source, _epoch, _commit_lsn,"
                " _ord, _deleted, _ledger_day) select min(id), 'm', .5, 'oltp', 'e', 1, 1, false, '2026-06-02' "
                "from raw.charges")
            connection.execute(
                f"insert into marts.fct_fraud_scores select charge_id, 'm', .6 from raw.fraud_assessments {mart}")
            stores = dataclasses.replace(carried.stores, warehouse_resource=Uncommitted(connection))
            red(ASSETS["marts/fct_fraud_scores"], stores, rule)
            connection.rollback()


@contextmanager
def replaced(lake, path: str, data: bytes | None) -> Iterator[None]:
    """Another content at a path of the lake (None: nothing there), put back at the end."""
    before = lake.read(path)
    lake.delete(path) if data is None else lake.put(path, data)
    try:
        yield
    finally:
        lake.put(path, before)


def test_an_altered_daily_file_turns_its_check_red(carried):
    lake = carried.stores.lake()
    path = dailies.data_path("charges", dailies.dt.date(2026, 6, 2))
    other = lake.read(dailies.data_path("charges", dailies.dt.date(2026, 6, 1)))
    with replaced(lake, path, other):
        red(ASSETS["cdc/charges"], carried.stores, "no_altered_files")


@pytest.mark.parametrize(("column", "values"), [
    ("amount", lambda old: [old[0] + 1, *old[1:]]), ("amount", lambda old: [old[1], old[0], *old[2:]]),
    ("_op", lambda old: ["u" if old[0] == "c" else "c", *old[1:]]), ("_ord", lambda old: [old[0] + 1, *old[1:]]),
    ("failure_code", lambda old: ["" if value is None else value for value in old]),
    ("_unchanged", lambda old: [["amount"], *old[1:]]),
])
def test_a_daily_file_rewritten_together_with_its_manifest_turns_its_check_red(carried, column, values):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lake, day = carried.stores.lake(), dt.date(2026, 6, 2)
    rows = pq.read_table(pa.BufferReader(lake.read(dailies.data_path("charges", day))))
    n, field = rows.column_names.index(column), rows.schema.field(column)
    rows = rows.set_column(n, field, pa.array(values(rows[column].to_pylist()), field.type))
    data = encode(rows)
    manifest = dataclasses.replace(dailies.read(lake, "charges", day), size=len(data), sha256=sha256(data).hexdigest())
    with (replaced(lake, dailies.data_path("charges", day), data),
          replaced(lake, dailies.manifest_path("charges", day), manifest.encode())):
        red(ASSETS["cdc/charges"], carried.stores, "no_other_contents")


def test_a_manifest_that_names_other_batches_or_operations_turns_its_check_red(carried):
    lake, day = carried.stores.lake(), dt.date(2026, 6, 2)
    path, manifest = dailies.manifest_path("charges", day), dailies.read(lake, "charges", day)
    with replaced(lake, path, dataclasses.replace(manifest, sources=()).encode()):
        red(ASSETS["cdc/charges"], carried.stores, "no_other_batches")
    with replaced(lake, path, dataclasses.replace(manifest, ops={"c": manifest.rows - 1, "u": 1}).encode()):
        red(ASSETS["cdc/charges"], carried.stores, "no_other_operations")


def test_an_altered_batch_file_turns_the_checks_of_its_tables_red(carried):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lake = carried.stores.lake()
    source = dailies.read(lake, "charges", dt.date(2026, 6, 2)).sources[0]
    other = encode(pq.read_table(pa.BufferReader(lake.read(source.path))).slice(1))
    with replaced(lake, source.path, other):
        verdicts = {v.partition: v for v in judge(ASSETS["cdc/charges"], carried.stores, NAMES)}
    assert verdicts[DAY].reasons == ("no_altered_batches", "no_other_contents")
    assert sum(not v.passed for v in verdicts.values()) == 1


def test_an_altered_snapshot_turns_its_check_red(carried):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lake, path = carried.stores.lake(), states.data_path("accounts", dt.date(2026, 6, 2))
    rows = pq.read_table(pa.BufferReader(lake.read(path)))
    rows = rows.set_column(rows.column_names.index("mcc"), "mcc", pc.binary_replace_slice(rows["mcc"], 0, 1, "9"))
    with replaced(lake, path, encode(rows)):
        red(ASSETS["snapshots/accounts"], carried.stores, "no_altered_files")


def test_a_daily_file_without_a_column_turns_its_check_red(carried):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lake = carried.stores.lake()
    path = dailies.data_path("refunds", dailies.dt.date(2026, 6, 2))
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(lake.read(path))).drop_columns(["amount"]), sink)
    with replaced(lake, path, sink.getvalue().to_pybytes()):
        red(ASSETS["cdc/refunds"], carried.stores, "no_columns_missing")


def test_a_day_left_open_behind_a_later_one_turns_its_check_red(carried):
    lake, path = carried.stores.lake(), dailies.manifest_path("disputes", dailies.dt.date(2026, 6, 2))
    content = json.loads(lake.read(path)) | {"closed": False}
    with replaced(lake, path, json.dumps(content).encode()):
        red(ASSETS["cdc/disputes"], carried.stores, "no_left_open")


def test_a_missing_daily_file_is_not_evaluated(carried):
    lake, path = carried.stores.lake(), dailies.data_path("disputes", dailies.dt.date(2026, 6, 2))
    with replaced(lake, path, None):
        (verdict,) = judge(ASSETS["cdc/disputes"], carried.stores, [DAY])
    assert verdict.outcome == "not_evaluated"


def test_a_broken_chain_and_a_resized_batch_turn_the_check_of_batches_red(carried):
    lake = carried.stores.lake()
    manifest, batch = lake.list("cdc/manifests")[1], lake.list("cdc/batches")[0]
    with replaced(lake, manifest, lake.read(manifest).replace(b'"changes": ', b'"changes": 1')):
        (verdict,) = judge(ASSETS["cdc/batches"], carried.stores, [DAY])
    assert (verdict.outcome, verdict.reasons) == ("failed", ("no_broken_chains",))
    with replaced(lake, batch, b"short"):
        verdicts = judge(ASSETS["cdc/batches"], carried.stores, ["2026-06-01"])
    assert verdicts[0].reasons == ("no_files_missing_or_resized", "no_torn_batches")


def test_a_snapshot_that_lost_rows_turns_its_check_red(carried):
    lake, path = carried.stores.lake(), states.manifest_path("customers", states.dt.date(2026, 6, 1))
    content = json.loads(lake.read(path))
    with replaced(lake, path, json.dumps(content | {"rows": content["rows"] + 1_000}).encode()):
        verdicts = {v.partition: v for v in judge(ASSETS["snapshots/customers"], carried.stores, ["2026-06-01", DAY])}
    assert "no_lost_rows" in verdicts[DAY].reasons
    assert "rows_scanned_equals_manifest_rows" in verdicts["2026-06-01"].reasons


@contextmanager
def altered(database, collection: str, query: dict, change: dict) -> Iterator[str]:
    """One document changed behind its validator's back, and put back; its id."""
    before = database[collection].find_one(query)
    database[collection].update_one({"_id": before["_id"]}, change, bypass_document_validation=True)
    try:
        yield before["_id"]
    finally:
        database[collection].replace_one({"_id": before["_id"]}, before)


@pytest.mark.parametrize(("collection", "query", "change", "rule"), [
    ("transactions", {}, {"$inc": {"amount": 1}}, "no_currencies_with_other_sums"),
    ("transactions", {"status": "succeeded"}, {"$set": {"status": "fraudulent"}}, "no_frauds_without_dispute"),
    ("transactions", {"status": "fraudulent"}, {"$set": {"status": "succeeded"}}, "no_disputes_unseen"),
    ("transactions", {"status": "succeeded"}, {"$set": {"status": "failed"}}, "no_statuses_with_other_sums"),
    ("transactions", {"status": "succeeded"}, {"$set": {"status": "refunded"}}, "no_statuses_with_other_sums"),
    ("transactions", {"dispute": None}, {"$inc": {"amount_captured": 1}}, "no_currencies_with_other_sums"),
    ("transactions", {"status": "fraudulent"}, {"$set": {"status": "disputed"}}, "no_frauds_unseen"),
    ("transactions", {"status": "fraudulent"}, {"$set": {"dispute": None}}, "no_statuses_with_other_sums"),
    ("sessions", {}, {"$set": {"card": "x"}}, "no_undeclared_shapes"),
    ("customer_feedback", {}, {"$set": {"text": "it is 4242 4242 4242 4242"}}, "no_card_numbers"),
])
def test_a_violation_in_the_documents_turns_its_check_red(carried, collection, query, change, rule):
    with carried.stores.mongo() as database, altered(database, collection, {"day": DAY, **query}, change):
        red(ASSETS[f"documents/{collection}"], carried.stores, rule)


def test_money_that_the_documents_say_otherwise_than_the_oltp_turns_the_check_red(carried):
    check = ALL["documents/transactions:money_equals_the_oltp"]
    with carried.stores.mongo() as database, altered(database, "transactions", {"day": DAY}, {"$inc": {"amount": 1}}):
        red(check, carried.stores, "no_currencies_with_other_sums")


@pytest.mark.parametrize("collection", ["transactions", "sessions", "customer_feedback"])
def test_a_validator_that_is_not_in_force_turns_its_check_red(carried, collection):
    with carried.stores.mongo() as database:
        for weaker in ({"validator": {}}, {"validationAction": "warn"}):
            database.command("collMod", collection, **weaker)
            verdicts = judge(ASSETS[f"documents/{collection}"], carried.stores, [DAY])
            ensure_collections(database)
            assert "no_validators_out_of_force" in verdicts[0].reasons


@pytest.mark.parametrize(("collection", "rule"), [
    ("transactions", "rows_scanned_equals_in_the_log"), ("sessions", "stored_or_refused_equals_landed"),
])
def test_a_lost_document_turns_its_check_red(carried, collection, rule):
    with carried.stores.mongo() as database:
        lost = database[collection].find_one({"day": DAY})
        database[collection].delete_one({"_id": lost["_id"]})
        try:
            red(ASSETS[f"documents/{collection}"], carried.stores, rule)
        finally:
            database[collection].insert_one(lost)


def test_a_batch_that_says_a_change_twice_turns_its_check_red(carried):
    """The newest batch, whose manifest no later one names yet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lake = carried.stores.lake()
    newest = manifests.last(lake)
    file = max(newest.files, key=lambda f: f.rows)
    rows = pq.read_table(pa.BufferReader(lake.read(file.path))).sort_by([("_commit_lsn", "ascending")])
    doubled = encode(pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)]))
    assert len(file.ops) == 1, "rows of one kind: only their ordinals can tell"
    other = dataclasses.replace(file, sha256=sha256(doubled).hexdigest(), bytes=len(doubled))
    files = tuple(other if f == file else f for f in newest.files)
    rewritten = dataclasses.replace(newest, files=files).hashed()
    with replaced(lake, file.path, doubled), replaced(lake, newest.path, rewritten.encode()):
        red(ASSETS["cdc/batches"], carried.stores, "no_torn_batches")


FOLLOWS = ALL["cdc/batches:slot_and_canaries_follow"]


def test_a_slot_that_is_lost_or_was_advanced_past_the_log_turns_its_check_red(carried, servers, monkeypatch):
    advanced = f"{carried.settings.cdc_slot}_b"
    database = carried.settings.need("oltp_owner_dsn").rpartition("/")[2]
    with psycopg.connect(servers.superuser("oltp"), dbname=database, autocommit=True) as connection:
        connection.execute("select pg_copy_logical_replication_slot(%s, %s)", [carried.settings.cdc_slot, advanced])
        connection.execute("select pg_logical_emit_message(true, 'any', 'more log')")
        connection.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [advanced])
    for name, rule in ((advanced, "no_acknowledged_beyond_the_log"), ("nobody_made_it", "no_slots_not_kept")):
        monkeypatch.setenv("STRIPE_PLATFORM_CDC_SLOT", name)
        red(FOLLOWS, carried.stores, rule)


def test_a_canary_that_did_not_arrive_turns_the_check_of_batches_red(carried):
    lake = carried.stores.lake()
    newest = manifests.last(lake)
    before = lake.read(manifests.POSITION) if lake.size(manifests.POSITION) is not None else None
    manifests.Position(newest.epoch, newest.to_lsn + 8, ((1, 2), (4, 4))).save(lake)
    try:
        red(FOLLOWS, carried.stores, "no_canaries_missing_or_repeated")
    finally:
        lake.delete(manifests.POSITION) if before is None else lake.put(manifests.POSITION, before)


def test_a_row_that_differs_from_the_source_turns_the_proof_of_its_table_red(carried):
    """Last here: the row is changed behind the log's back."""
    with psycopg.connect(carried.settings.need("oltp_owner_dsn"), autocommit=True) as connection:
        publication = carried.settings.cdc_publication
        connection.execute(f"alter publication {publication} drop table oltp.refunds")
        connection.execute("update oltp.refunds set reason = 'duplicate'"
                           " where id = (select min(id) from oltp.refunds where reason is distinct from 'duplicate')")
        connection.execute(f"alter publication {publication} add table oltp.refunds")
    proofs = [ALL[f"cdc/{table}:{PROVEN}"] for table in ("charges", "refunds")]
    assert [(v.outcome, v.reasons) for v in judge_together(proofs, carried.stores)] == [
        ("passed", ()), ("failed", ("no_altered",))]
