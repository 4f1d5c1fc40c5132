"""The manifest is prepared once, again when a source changes, and a project that does not parse says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stripe_platform.warehouse import dbt_project


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dbt project, prepared as the original is."""
    dbt_project.ensure_manifest()
    folder = tmp_path / "dbt_project"
    shutil.copytree(dbt_project.DBT_DIR, folder, ignore=shutil.ignore_patterns("target-*", "logs"))
    monkeypatch.setattr(dbt_project, "DBT_DIR", folder)
    return folder


def test_an_unchanged_project_is_not_parsed_again(copy: Path):
    before = (copy / "target" / "manifest.json").stat().st_mtime_ns
    assert dbt_project.ensure_manifest() == copy / "target" / "manifest.json"
    assert (copy / "target" / "manifest.json").stat().st_mtime_ns == before


def test_a_changed_source_is_parsed_and_a_mistake_in_it_is_named(copy: Path):
    before = dbt_project.source_digest()
    model = copy / "models" / "marts" / "dim_account.sql"
    model.write_text("select * from {{ ref('stg_acounts') }}\n")
    assert dbt_project.source_digest() != before
    with pytest.raises(dbt_project.DbtParseError, match="stg_acounts"):
        dbt_project.ensure_manifest()
    assert (copy / "target" / "manifest.json").exists()  # the last good one stays for runs under way
