"""dbt models as assets: key `layer/model`, group = layer = dbt schema = folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtProject

from stripe_platform.keys import key
from stripe_platform.partitions import FRESHNESS


class WarehouseTranslator(DagsterDbtTranslator):
    """Names, owners, kinds and freshness of dbt models; columns come from the manifest's contract."""

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] != "model":
            return spec
        return spec.replace_attributes(
            key=key(layer(node), node["name"]),
            group_name=layer(node),
            owners=[node["config"]["meta"]["owner"]],
            kinds={"dbt", manifest["metadata"]["adapter_type"], "view" if is_view(node) else "table"},
            description=node["description"],
            freshness_policy=FRESHNESS,
        )

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """Dagster resolves keys of tests and events here; the same rule as in the spec."""
        if dbt_resource_props["resource_type"] == "model":
            return key(layer(dbt_resource_props), dbt_resource_props["name"])
        return super().get_asset_key(dbt_resource_props)


def layer(node: Mapping[str, Any]) -> str:
    """Folder of a model directly under `models/`."""
    return node["fqn"][1]


def is_view(node: Mapping[str, Any]) -> bool:
    return node["config"]["materialized"] == "view"
