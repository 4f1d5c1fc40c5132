"""What the CDC tests share: a source with its slot and a lake."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.lake import LocalLake
from stripe_platform.cdc.capture import ensure_slot
from stripe_platform.settings import Settings, load_settings


@pytest.fixture
def source(oltp: Settings, lake, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A fresh OLTP with a slot made before its first row, and an empty lake."""
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", "2026-06-01")
    settings = load_settings()
    ensure_slot(settings)
    return settings


@pytest.fixture
def store(source: Settings) -> LocalLake:
    return LocalLake(Path(source.lake))


# The change log's long histories, by file: CI runs them as a step of their own, beside `make test`.
LOG = ("test_debezium_tables", "test_kill", "test_raw_contract", "test_raw_quarantine", "test_retention",
       "test_sealing", "test_snowflake_stream", "test_spool")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and (item.path.stem in LOG or item.path.parent.name == "cases"):
            item.add_marker(pytest.mark.log)
