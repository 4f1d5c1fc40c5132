"""Assembly of the whole platform, nothing else: rooms bring their assets, this file puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from stripe_platform import automation
from stripe_platform.cdc.assets import CDC_ASSETS
from stripe_platform.documents.assets import DOCUMENT_ASSETS
from stripe_platform.features.assets import FEATURE_ASSETS
from stripe_platform.feeds import FeedResource
from stripe_platform.fraud.assets import FRAUD_ASSETS
from stripe_platform.oltp.assets import OLTP_ASSETS
from stripe_platform.reference.assets import REFERENCE_ASSETS
from stripe_platform.warehouse.dbt_assets import DBT_ASSETS, dbt_resource
from stripe_platform.warehouse.raw_assets import RAW_ASSETS


def default_resources() -> dict[str, Any]:
    """The deployment's own resources; each reads its settings when it is first used, never at import."""
    from resources.keyring import KeyringResource
    from resources.lake import LakeResource
    from resources.model_registry import ModelRegistryResource
    from resources.mongo import MongoResource
    from resources.postgres import OltpResource, ReferenceResource
    from resources.warehouse import WarehouseResource

    return {
        "oltp": OltpResource(), "warehouse": WarehouseResource(), "mongo": MongoResource(), "lake": LakeResource(),
        "keyring": KeyringResource(), "models": ModelRegistryResource(), "feed": FeedResource(), "dbt": dbt_resource(),
        "reference": ReferenceResource(),
    }


def build_defs(*, resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Fresh definitions; tests pass their own resources instead of patching globals."""
    import asset_checks

    return dg.Definitions(
        assets=[*REFERENCE_ASSETS, *OLTP_ASSETS, *CDC_ASSETS, *RAW_ASSETS, *DOCUMENT_ASSETS, *DBT_ASSETS,
                *FEATURE_ASSETS, *FRAUD_ASSETS],
        asset_checks=asset_checks.load_checks(),
        jobs=automation.JOBS,
        schedules=automation.SCHEDULES,
        sensors=automation.sensors(),
        resources={**default_resources(), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


defs = build_defs()
