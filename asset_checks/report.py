"""What stands, by outcome: the newest verdict of every check and partition, dbt's tests among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import asset_checks
from stripe_platform.keys import LAYERS
from stripe_platform.settings import Settings

OUTCOMES = ("passed", "failed", "not_evaluated")
NO_VERDICT = "never judged"

_VERDICTS = "select asset_key, check_name, partition, outcome, rows_scanned, blocking from ops.check_verdicts"

# dbt's tests live in Dagster's own table, per run and without a partition. A planned row is a run that is under way
# or was killed: what counts is the newest row that has an outcome, and where there is none, that there is none.
_DBT = """
select distinct on (asset_key, check_name) asset_key, check_name, execution_status
from asset_check_executions
order by asset_key, check_name, execution_status in ('SUCCEEDED', 'FAILED') desc, id desc
"""


def report(settings: Settings, groups: Sequence[str]) -> dict[str, Any]:
    """`{passed, failed, not_evaluated, groups, items}` of the asset groups named, of all when none is.

    A declared check without any verdict counts as not evaluated. `groups`: the three counts by layer. `items`: what
    did not pass, worst first, each with asset, check, partition, outcome, rows_scanned. Raises `ValueError` for an
    unknown group.
    """
    declared = {(check.asset.to_user_string(), check.name): check.blocking for check in asset_checks.declared()}
    known = {asset.split("/")[0] for asset, _ in declared} | {"staging"}
    if unknown := sorted(set(groups) - known):
        raise ValueError(f"no checks in group {', '.join(unknown)}: groups are {', '.join(sorted(known))}")
    items = [*_own(settings, declared), *_dbt(settings, declared)]
    if groups:
        items = [item for item in items if item["asset"].split("/")[0] in groups]
    counts = Counter(item["outcome"] for item in items)
    bad = [item for item in items if item["outcome"] != "passed"]
    order = ("failed", "not_evaluated")
    bad.sort(key=lambda item: (order.index(item["outcome"]), item["asset"], item["check"], item["partition"]))
    by_group = {layer: Counter(i["outcome"] for i in items if i["asset"].split("/")[0] == layer) for layer in LAYERS}
    return {
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "groups": [{"group": layer, **{outcome: found[outcome] for outcome in OUTCOMES}}
                   for layer, found in by_group.items() if found],
        "items": bad,
    }


def _own(settings: Settings, declared: dict[tuple[str, str], bool]) -> Iterable[dict[str, Any]]:
    """Verdicts of declared checks; those of checks that no longer exist are history, not state."""
    from resources.warehouse import WarehouseResource

    dsn = settings.need("warehouse_dsn") if settings.warehouse == "postgres" else None
    with WarehouseResource(dsn=dsn).connect() as connection:
        cursor = connection.cursor()
        cursor.execute(_VERDICTS)
        rows = cursor.fetchall()
    judged = set()
    for asset, check, partition, outcome, scanned, blocking in rows:
        if (asset, check) in declared:
            judged.add((asset, check))
            yield _item(asset, check, partition, outcome, int(scanned), bool(blocking))
    for asset, check in declared.keys() - judged:
        yield _item(asset, check, NO_VERDICT, "not_evaluated", 0, declared[asset, check])


def _dbt(settings: Settings, declared: dict[tuple[str, str], bool]) -> Iterable[dict[str, Any]]:
    import json

    import psycopg

    with psycopg.connect(settings.need("dagster_dsn")) as connection:
        if connection.execute("select to_regclass('asset_check_executions')").fetchone() == (None,):
            return  # no run yet: Dagster has not made its tables
        rows = connection.execute(_DBT).fetchall()
    outcomes = {"SUCCEEDED": "passed", "FAILED": "failed"}
    for asset_key, check, status in rows:
        asset = "/".join(json.loads(asset_key))
        if (asset, check) not in declared:
            yield _item(asset, check, "all", outcomes.get(status, "not_evaluated"), 0, False)


def _item(asset: str, check: str, partition: str, outcome: str, scanned: int, blocking: bool) -> dict[str, Any]:
    return {"asset": asset, "check": check, "partition": partition, "outcome": outcome, "rows_scanned": scanned,
            "blocking": blocking}
