"""The asset graph as plain data: who feeds what, who owns it, how it is partitioned, what guards it.

Source: the loaded Dagster definitions. One shape serves the reviewed snapshot, `lineage export` and `doctor`.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

NAMED = {"described": "description", "columns": "column schema"}
# The scores close the circle OLTP, warehouse, model, OLTP: with their makers, the groups go one way.
GROUPED = {"oltp/fraud_assessments": "fraud"}
COLUMNLESS = {"cdc/batches", "fraud/model"}  # files of all tables, and a model: no table of their own


def describe(defs: dg.Definitions) -> dict[str, Any]:
    """`{"assets": {key: {...}}, "checks": {asset: [names]}, "jobs": {name: [keys]}, ...}`, sorted, JSON-ready."""
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    checks: dict[str, list[str]] = {}
    for check in graph.asset_check_keys:
        checks.setdefault(check.asset_key.to_user_string(), []).append(check.name)
    assets = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        partitions = node.partitions_def
        assets[key.to_user_string()] = {
            "deps": sorted(k.to_user_string() for k in node.parent_keys),
            "group": node.group_name,
            "owners": sorted(node.owners),
            "kinds": sorted(node.kinds),
            "partitions": type(partitions).__name__ if partitions else None,
            "backfill": node.backfill_policy.policy_type.name if node.backfill_policy else None,
            "freshness": type(node.freshness_policy).__name__ if node.freshness_policy else None,
            "executable": node.is_executable,
            "columns": "dagster/column_schema" in node.metadata,
            "described": bool(node.description and node.description.strip()),
        }
    return {
        "assets": dict(sorted(assets.items())),
        "checks": {asset: sorted(names) for asset, names in sorted(checks.items())},
        "jobs": {
            job.name: sorted(k.to_user_string() for k in job.asset_layer.executable_asset_keys)
            for job in sorted(repository.get_all_jobs(), key=lambda j: j.name)
            if not job.name.startswith("__")
        },
        "schedules": sorted(s.name for s in repository.schedule_defs),
        "sensors": sorted(s.name for s in repository.sensor_defs),
    }


def problems(graph: dict[str, Any], layers: tuple[str, ...]) -> list[str]:
    """What Dagster loads without complaint and an auditor would not: stubs, orphan checks, missing policy."""
    found = []
    for name, asset in graph["assets"].items():
        if not asset["executable"]:
            feeds = [other for other, spec in graph["assets"].items() if name in spec["deps"]]
            found.append(f"{name} is named as a dependency of {', '.join(feeds) or 'a check'} but nothing defines it")
            continue
        for what in ("owners", "kinds", "freshness", "described", "columns"):
            if not asset[what] and name not in COLUMNLESS:
                found.append(f"{name} has no {NAMED.get(what, what)}")
        if asset["group"] not in layers or asset["group"] != GROUPED.get(name, name.split("/")[0]):
            found.append(f"{name} is in group {asset['group']}, not in its layer's")
        if asset["partitions"] and asset["backfill"] != "SINGLE_RUN":
            found.append(f"{name} is partitioned but a range of it is not one run")
    for asset in graph["checks"]:
        if asset not in graph["assets"] or not graph["assets"][asset]["executable"]:
            found.append(f"checks on {asset}, which nothing defines")
    return found
