"""What a dbt selection reads: the raw assets behind its marts, from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from stripe_platform.keys import key


def tagged(manifest: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    """Models of the manifest that carry a tag."""
    return [n for n in manifest["nodes"].values() if n["resource_type"] == "model" and tag in n["tags"]]


def raw_inputs(manifest: Mapping[str, Any], models: Iterable[Mapping[str, Any]]) -> list[dg.AssetKey]:
    """Raw assets that the marts among these models read, directly or through staging.

    Staging views only name columns, and marts of another operation were certified there: neither is followed further.
    """
    found: set[str] = set()
    open_ids = [i for model in models if model["fqn"][1] == "marts" for i in model["depends_on"]["nodes"]]
    while open_ids:
        unique_id = open_ids.pop()
        if unique_id.startswith("source."):
            found.add(manifest["sources"][unique_id]["name"])
        elif manifest["nodes"][unique_id]["fqn"][1] == "staging":
            open_ids += manifest["nodes"][unique_id]["depends_on"]["nodes"]
    return [key("raw", name) for name in sorted(found)]
