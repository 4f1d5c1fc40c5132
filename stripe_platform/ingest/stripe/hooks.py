"""What other rooms of the OLTP do with rows the importer wrote, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg


def after_rows(conn: psycopg.Connection, table: str, ids: Sequence[str]) -> None:
    """Rows of this table were written: the one place where the ledger hears of balance transactions from outside."""
