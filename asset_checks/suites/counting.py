"""Profiles as tables of counts: one row per partition, whatever the store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asset_checks.judge import PARTITION, ROWS

if TYPE_CHECKING:
    import pandas as pd
    import psycopg
    from psycopg import sql


def counted(
    connection: psycopg.Connection, query: str | sql.Composed, days: Sequence[dt.date] = (), **parameters: Any
) -> pd.DataFrame:
    """Rows of a PostgreSQL query whose columns are `partition` and counts; `%(days)s` is the list of days."""
    import pandas as pd

    with connection.cursor() as cursor:
        cursor.execute(query, {"days": list(days), **parameters})
        names = [column.name for column in cursor.description or ()]
        frame = pd.DataFrame(cursor.fetchall(), columns=names)
    for name in names:
        if name != PARTITION:
            frame[name] = pd.to_numeric(frame[name])
    return frame


def frame(counts: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """A profile from counts by partition."""
    import pandas as pd

    return pd.DataFrame([{PARTITION: key, **row} for key, row in counts.items()], columns=[
        PARTITION, *dict.fromkeys(name for row in counts.values() for name in row)] if counts else [PARTITION, ROWS])
