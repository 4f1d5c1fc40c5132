"""Dagster's dbt resource, started through `dbt_command`: settings instead of environment, no parse, no look-ups."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any

from dagster_dbt import DbtCliResource
from packaging.version import Version

from stripe_platform.warehouse.dbt_project import DBT_DIR


class WarehouseDbt(DbtCliResource):
    """`DbtCliResource` without its two costs per call: `dbt --version` (asks the network) and a second adapter."""

    @property
    def _cli_version(self) -> Version:  # type: ignore[override]
        return Version(installed("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:  # noqa: ARG002
        """None: an adapter here serves only fetch_row_counts and fetch_column_metadata, which are not used."""


def dbt_resource() -> WarehouseDbt:
    """The resource of key `dbt`; connects to whatever warehouse the settings name when a run starts."""
    return WarehouseDbt(
        project_dir=DBT_DIR,
        profiles_dir=DBT_DIR,
        dbt_executable=sys.executable,
        global_config_flags=["-m", "stripe_platform.warehouse.dbt_command"],
    )
