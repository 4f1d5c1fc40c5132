"""No check passes on stores that hold nothing, and the report counts what was never judged."""

from __future__ import annotations

import psycopg
import pytest

import asset_checks
from asset_checks.judge import WHOLE, judge
from asset_checks.report import report
from asset_checks.stores import Stores
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.bootstrap import bootstrap
from stripe_platform.warehouse.certify import record_verdicts

pytestmark = pytest.mark.servers


def test_every_check_is_not_evaluated_on_empty_stores(oltp, warehouse, mongo, lake):
    bootstrap(load_settings())
    stores = Stores.of_settings()
    for check in asset_checks.declared():
        if check.asset.to_user_string() == "oltp/currencies":
            continue  # reference rows come with the migrations or the first day
        verdicts = judge(check, stores, ["2026-06-01"] if check.partitioned else [WHOLE])
        assert [v.outcome for v in verdicts] == ["not_evaluated"], check.asset


def test_every_check_is_not_evaluated_on_stores_that_do_not_answer(own_home, monkeypatch):
    for name in ("OLTP_DSN", "WAREHOUSE_DSN"):
        monkeypatch.setenv(f"STRIPE_PLATFORM_{name}", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
    stores = Stores.of_settings()
    for check in asset_checks.declared():
        verdicts = judge(check, stores, ["2026-06-01"] if check.partitioned else [WHOLE])
        assert [v.outcome for v in verdicts] == ["not_evaluated"], check.asset


def test_the_report_counts_each_verdict_once_and_what_was_never_judged(servers, warehouse):
    settings = load_settings()
    bootstrap(settings)
    declared = asset_checks.declared()
    with psycopg.connect(settings.need("warehouse_dsn")) as connection:
        for outcome in ("passed", "failed"):
            record_verdicts(connection, asset_key="raw/charges", check_name="rows_are_the_logs", blocking=True,
                            run_id="r", outcomes=[("2026-06-01", outcome, 5), ("2026-06-02", "passed", 5)])
        record_verdicts(connection, asset_key="raw/charges", check_name="gone_since", blocking=True, run_id="r",
                        outcomes=[("2026-06-01", "failed", 5)])
    found = report(settings, ["raw"])
    others = sum(check.asset.path[0] == "raw" for check in declared) - 1
    assert (found["passed"], found["failed"], found["not_evaluated"]) == (1, 1, others)
    assert found["items"][0] == {"asset": "raw/charges", "check": "rows_are_the_logs", "partition": "2026-06-01",
                                 "outcome": "failed", "rows_scanned": 5, "blocking": True}
    assert found["groups"] == [{"group": "raw", "passed": 1, "failed": 1, "not_evaluated": others}]
    with pytest.raises(ValueError, match="no checks in group rwa"):
        report(settings, ["rwa"])
