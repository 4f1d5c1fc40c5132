"""The door through which feeds bring the reference rows of a business day: to the reference, and from there to OLTP."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from stripe_platform.oltp.bulk import LoadError
from stripe_platform.oltp.copies import COPIES
from stripe_platform.reference.database import connect
from stripe_platform.reference.fill import PUT
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.reference.write import ReferenceRefusedError
from stripe_platform.settings import Settings


class Door:
    """Called by `load_day` with the day's rows of tables that are copies; when it returns, the copies hold them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = False

    def __call__(self, tables: Mapping[str, pa.Table]) -> None:
        """Write the rows (none: only what the reference holds already) and bring the copies up to them."""
        if not self._ready:
            prepare(self._settings)
            self._ready = True
        try:
            with connect(self._settings) as conn, conn.transaction():
                for each in COPIES:
                    if each.table in tables:
                        names = {target: origin for origin, target in each.columns.items()}
                        rows = tables[each.table]
                        PUT[each.origin](conn, rows.rename_columns(
                            [names.get(name, name) for name in rows.column_names]).to_pylist())
        except ReferenceRefusedError as error:
            raise LoadError(str(error)) from None
        sync(self._settings)
