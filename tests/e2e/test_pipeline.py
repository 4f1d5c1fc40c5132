"""The pipeline as users run it: demo, dg launch, checks, and what turns it red."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from pymongo import MongoClient

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent.parent
MOVED = ("oltp", "raw", "marts", "documents")


def _tables(dsn: str, schemas: list[str]) -> set[str]:
    """Tables and views, partitions and names that begin with _ left out."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select n.nspname || '/' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v') and not c.relispartition "
            "and left(c.relname, 1) <> '_'", [schemas],
        )
        return {name for (name,) in found}


def test_the_demo_moves_every_charge_through_every_layer(demo):
    _, report = demo
    charges = {layer: report["layers"][layer]["charges"] for layer in MOVED}
    assert len(set(charges.values())) == 1
    assert charges["oltp"] > 21 * 200
    amounts = [report["amounts"][layer] for layer in MOVED]
    assert len(amounts[0]) > 3
    assert all(each == amounts[0] for each in amounts), "money differs between layers"


def test_the_demo_ends_with_every_check_passed_and_a_model(demo):
    _, report = demo
    assert report["checks"]["failed"] == 0
    assert report["checks"]["not_evaluated"] == 0
    assert report["checks"]["passed"] > 100
    assert 0 < report["model"]["average_precision"] <= 1
    assert 0.5 < report["model"]["roc_auc"] <= 1


def test_dagster_writes_a_bounded_number_of_event_rows(demo):
    """36 days x 80 assets with days x (planned + written) and their checks; small tables in a run without days."""
    _, report = demo
    assert report["event_rows"] <= 9_000


def test_live_tables_and_collections_are_the_asset_keys(demo):
    """An asset without a table, or a table without an asset, is a lineage that lies."""
    platform, _ = demo
    assets = set(json.loads((ROOT / "tests" / "asset_graph.json").read_text())["assets"])
    live = _tables(platform.dsn("OLTP_OWNER_DSN"), ["oltp"])
    live |= _tables(platform.dsn("WAREHOUSE_DSN"), ["raw", "staging", "marts", "features"])
    client = MongoClient(platform.variable("MONGODB_URI"))
    with client:
        names = client["stripe_platform"].list_collection_names()
    live |= {f"documents/{name}" for name in names if not name.startswith("ops_")}  # how far loads came
    stores = ("oltp", "raw", "staging", "marts", "features", "documents")
    assert live == {asset for asset in assets if asset.split("/")[0] in stores}


def test_doctor_finds_no_problem(demo):
    platform, _ = demo
    assert platform.json("doctor") == {"problems": []}


def test_every_asset_is_fresh_after_the_demo(demo):
    platform, _ = demo
    late = [row for row in platform.json("freshness")["assets"] if row["state"] == "failed"]
    assert late == []
