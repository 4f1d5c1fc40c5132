"""The reference, its change log and its copies in the OLTP: the same rows with the same values, no batch behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from asset_checks.judge import PARTITION, ROWS, WHOLE, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from asset_checks.suites.equality import FLOORS, RULES, SAYS, proofs
from stripe_platform.keys import REFERENCE_TABLES, key
from stripe_platform.oltp.copies import COPIES, Copy, the_references
from stripe_platform.reference.copies import behind, position
from stripe_platform.reference.database import REFERENCE
from stripe_platform.reference.sync import sync
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.certify import PROVEN

if TYPE_CHECKING:
    import pandas as pd
    import psycopg

TRIES = 3  # live writers may change the source between the two countings: then the copies are brought up again

_CONTENT = """
select count(*) filter (where {living}),
    coalesce(sum(('x' || left(md5(row({columns})::text), 15))::bit(60)::bigint::numeric) filter (where {living}), 0)
from {table} t{owned}
"""


def _content(connection: psycopg.Connection, schema: str, table: str, columns: Sequence[str],
             each: Copy, owned: sql.Composable) -> tuple[int, int]:
    """Rows that are not retired and the reference's, and the sum of their hashes."""
    connection.execute("set timezone = 'UTC'")
    row = connection.execute(sql.SQL(_CONTENT).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)), table=sql.Identifier(schema, table),
        owned=owned, living=sql.SQL("not deleted" if each.retires else "true"))).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _equal(each: Copy, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    for attempt in range(TRIES):
        if attempt:
            sync(load_settings(), lake=stores.lake())
        with stores.reference() as there, stores.oltp() as here:
            source = _content(there, "reference", each.origin, list(each.columns), each, sql.SQL(""))
            copied = _content(here, "oltp", each.table, each.names, each, the_references(each.table))
            known = position(here)
        if source == copied:
            break
    return frame({WHOLE: {ROWS: copied[0], "source_rows": source[0], "other_contents": int(source[1] != copied[1]),
                          "batches_copied": known.seq if known else 0}})


def _behind(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as here:
        known = position(here)
        late = behind(here, REFERENCE.lake(load_settings(), stores.lake()))
    return frame({WHOLE: {ROWS: known.seq if known else 0, "batches_behind": abs(late)}})


def _proofs(stores: Stores, tables: Sequence[str]) -> pd.DataFrame:
    """A proof captures up to its position; what it captured is copied, or the copies would lag behind it."""
    found = proofs(REFERENCE, stores, tables)
    sync(load_settings(), lake=stores.lake())
    return found


def _proof(table: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    return _proofs(stores, [table]).assign(**{PARTITION: WHOLE})


CHECKS = [
    Check(
        key("reference", "currencies"), "copies_are_up_to_date",
        "The OLTP's copies hold every captured batch of the reference's change log.",
        _behind, none_of("batches_behind"), partitioned=False),
    *(Check(
        key("oltp", each.table), "copy_equals_its_source",
        f"Rows of reference.{each.origin} and of its copy: as many, with the same values.",
        partial(_equal, each), (equal(ROWS, "source_rows"), *none_of("other_contents")), {"batches_copied": 1},
        partitioned=False) for each in COPIES),
    *(Check(
        key("reference", table.name), PROVEN, SAYS, partial(_proof, table.name), RULES, FLOORS, partitioned=False,
        together=_proofs) for table in REFERENCE_TABLES),
]
