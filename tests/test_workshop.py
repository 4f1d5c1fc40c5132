"""The packages our users named are used by the code, and the top level is as they listed it."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("stripe_platform", "resources", "asset_checks")
IMPORTED = {
    "dagster": "dagster", "dagster-dbt": "dagster_dbt", "dagster-snowflake": "dagster_snowflake",
    "dagster-aws": "dagster_aws", "psycopg": "psycopg", "pymongo": "pymongo",
    "great-expectations": "great_expectations", "lightgbm": "lightgbm", "pandas": "pandas",
}
TOP_LEVEL = {
    "stripe_platform", "dbt_project", "asset_checks", "resources", "deploy", "tests", "workspace.yaml",
    "pyproject.toml", "README.md",
}
BESIDE = {"docs", "requirements", "Makefile", "LICENSE", "CONTRIBUTING.md"}


def _imports() -> set[str]:
    found = set()
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(IMPORTED))
def test_every_package_of_the_users_list_is_imported_by_the_code(package):
    assert IMPORTED[package] in _imports()


def test_the_webserver_is_what_the_ui_command_starts():
    assert "dagster-webserver" in (ROOT / "stripe_platform" / "ui.py").read_text()


@pytest.mark.parametrize("adapter", ["postgres", "snowflake"])
def test_both_dbt_adapters_are_targets_of_the_one_project(adapter):
    import yaml

    profiles = yaml.safe_load((ROOT / "dbt_project" / "profiles.yml").read_text())
    (profile,) = [value for name, value in profiles.items() if name != "config"]
    assert adapter in {output["type"] for output in profile["outputs"].values()}


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_top_level_is_as_listed():
    top = {name.split("/")[0] for name in _tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL | BESIDE
    assert top >= TOP_LEVEL


def test_no_tracked_file_is_large_or_names_an_index_or_a_machine():
    for name in _tracked():
        content = (ROOT / name).read_bytes()
        assert len(content) < 2_000_000, name
        assert b"index" + b"-url" not in content or name in {"Makefile"}, name
