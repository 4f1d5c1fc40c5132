"""What users do after a first demo: run it again, launch a partition with `dg`, meet a spoilt row."""

from __future__ import annotations

import psycopg
import pytest
from platforms import SMALL

pytestmark = [pytest.mark.e2e, pytest.mark.users]


def test_a_second_demo_changes_nothing(demo):
    platform, first = demo
    second = platform.json("demo", *SMALL)
    assert second["marts"] == first["marts"]
    assert second["layers"]["oltp"]["charges"] == first["layers"]["oltp"]["charges"]


def test_dg_launches_one_partition_and_a_planted_violation_turns_the_checks_red(demo):
    platform, _ = demo
    platform.run("check", "defs", tool="dg")
    asset = "key:marts/fct_charges"
    platform.run("launch", "--assets", asset, "--partition", "2026-06-10", tool="dg")
    platform.run("checks", "--fail-on", "error")
    with psycopg.connect(platform.dsn("WAREHOUSE_DSN")) as connection:
        changed = connection.execute(
            "update raw.charges set amount = -amount where id in "
            "(select id from raw.charges where _ledger_day = '2026-06-10' and amount > 0 limit 1) returning id"
        ).fetchone()
    assert changed
    try:
        platform.run("launch", "--assets", "key:raw/charges", "--partition", "2026-06-10", tool="dg", check=False)
        red = platform.run("checks", "--fail-on", "error", check=False)
        assert red.returncode == 1
        refused = platform.run("launch", "--assets", asset, "--partition", "2026-06-10", tool="dg", check=False)
        assert refused.returncode != 0
    finally:
        with psycopg.connect(platform.dsn("WAREHOUSE_DSN")) as connection:
            connection.execute("update raw.charges set amount = -amount where id = %s", changed)
    platform.run("checks", "--run", "--day", "2026-06-10", "--fail-on", "error")
