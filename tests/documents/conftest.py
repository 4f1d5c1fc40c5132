"""A document database with its collections, and a ledger in a lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from document_files import Ledger

from resources.lake import LocalLake
from resources.mongo import MongoResource
from stripe_platform.documents.setup import ensure_collections


@pytest.fixture
def database(mongo) -> Iterator:
    with MongoResource().database() as found:
        ensure_collections(found)
        yield found


@pytest.fixture
def ledger(lake: Path) -> Ledger:
    return Ledger(LocalLake(lake))
