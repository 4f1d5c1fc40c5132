"""Dagster's dbt resource, started through `dbt_command`: settings instead of environment, no parse, no look-ups."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliInvocation, DbtCliResource
from packaging.version import Version
from pydantic import PrivateAttr

from stripe_platform.warehouse.dbt_project import DBT_DIR
from stripe_platform.warehouse.dbt_server import CLIENT, SERVER, WarmDbt


class WarehouseDbt(DbtCliResource):
    """`DbtCliResource` without its costs per call.

    Those are `dbt --version` (asks the network), a second adapter in this process, and 7 s of imports: a warm server
    starts with the run and is ready when the layers before dbt are done.
    """

    _warm: WarmDbt | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Start the warm server beside the run."""
        self._warm = WarmDbt()
        os.environ[SERVER] = self._warm.address

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """End it with the run."""
        os.environ.pop(SERVER, None)
        if self._warm is not None:
            self._warm.close()

    def cli(self, args: Sequence[str], **options: Any) -> DbtCliInvocation:
        """As in dagster-dbt; a server that died is forgotten, so that the command runs without it."""
        if self._warm is not None and not self._warm.running():
            os.environ.pop(SERVER, None)
            dg.get_dagster_logger().warning("dbt starts without its warm server, which ended: %s", self._warm.words())
            self._warm.close()
            self._warm = None
        return super().cli(args, **options)

    @property
    def _cli_version(self) -> Version:
        return Version(installed("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:
        """None: an adapter here serves only fetch_row_counts and fetch_column_metadata, which are not used."""


def dbt_resource() -> WarehouseDbt:
    """The resource of key `dbt`; connects to whatever warehouse the settings name when a run starts."""
    return WarehouseDbt(
        project_dir=str(DBT_DIR), profiles_dir=str(DBT_DIR),
        dbt_executable=sys.executable, global_config_flags=[str(CLIENT)],
    )
