"""Stores whose planted faults never leave their transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class Uncommitted:
    """A resource whose every connection is one open transaction: what is planted there is never committed."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        yield self.connection
