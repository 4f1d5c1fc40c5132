"""The graph loads as the gRPC server loads it, and it says what a reviewer agreed to."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import reconstruct_repository_def_from_pointer
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module

from stripe_platform import keys
from stripe_platform.lineage import graph

ROOT = Path(__file__).parent.parent
SNAPSHOT = Path(__file__).parent / "asset_graph.json"


@pytest.fixture(scope="session")
def described() -> dict:
    from stripe_platform.definitions import defs

    return graph.describe(defs)


def test_the_repository_loads_as_the_grpc_server_builds_it():
    from dagster._core.code_pointer import CodePointer

    (target,) = loadable_targets_from_python_module("stripe_platform.definitions", working_directory=str(ROOT))
    pointer = CodePointer.from_module("stripe_platform.definitions", target.attribute, str(ROOT))
    repository = reconstruct_repository_def_from_pointer(pointer)
    assert {"ingest", "transform", "train"} <= {job.name for job in repository.get_all_jobs()}


def test_no_stub_dependency_no_orphan_check_and_every_asset_has_its_policies(described):
    assert graph.problems(described, keys.LAYERS) == []


def test_a_misspelt_dependency_and_a_check_on_nothing_are_found():
    @dg.asset(key=["raw", "charges"], deps=[["cdc", "chrages"]])
    def charges() -> None: ...

    @dg.asset_check(asset=dg.AssetKey(["raw", "refnds"]), name="rows")
    def rows() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    found = graph.problems(graph.describe(dg.Definitions(assets=[charges], asset_checks=[rows])), keys.LAYERS)
    assert any("cdc/chrages" in line and "nothing defines it" in line for line in found)
    assert any("raw/refnds" in line for line in found)


def test_every_key_dependency_partition_owner_and_check_is_as_reviewed(described):
    """Renaming a key, check or job loses history: a change here is a reviewed change of tests/asset_graph.json.

    After review: `stripe-platform lineage export --output tests/asset_graph.json`.
    """
    assert described == json.loads(SNAPSHOT.read_text())


def test_every_layer_has_a_blocking_check():
    from stripe_platform.definitions import defs

    asset_graph = defs.get_repository_def().asset_graph
    blocked = {
        key.asset_key.path[0] for key in asset_graph.asset_check_keys if asset_graph.get(key).blocking
    }
    assert set(keys.LAYERS) - {"staging"} <= blocked


def test_workspace_and_dg_name_the_same_module():
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert location["python_module"]["module_name"] == project["code_location_target_module"]


def test_resources_and_asset_checks_come_from_this_project():
    import asset_checks
    import resources

    assert Path(asset_checks.__file__).is_relative_to(ROOT)
    assert Path(resources.__file__).is_relative_to(ROOT)
