"""A reference with its seeds, copied to the OLTP."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from stripe_platform.reference.database import connect
from stripe_platform.reference.sync import prepare
from stripe_platform.settings import Settings


@pytest.fixture
def ready(both: Settings) -> Settings:
    prepare(both)
    return both


@pytest.fixture
def conn(ready: Settings) -> Iterator[psycopg.Connection]:
    """A connection of the reference's write API."""
    with connect(ready) as connection:
        yield connection
