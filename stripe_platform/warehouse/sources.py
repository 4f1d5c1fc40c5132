"""Bringing a source of the deployment's own into raw: every table that its change log knows, up to its open day."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from stripe_platform.cdc import catalogue
from stripe_platform.cdc.catalogue import CatalogueError
from stripe_platform.cdc.compact import compact
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import Settings
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.raw import UnknownStateError


@dataclass
class SourceReport:
    """Rows that stand by table; `stopped`: tables that cannot go on, each with what to do, while the others did."""

    rows: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


def apply_source(conn: psycopg.Connection, settings: Settings, source: ConfiguredSource) -> SourceReport:
    """Compact and apply what is captured of a source. `conn`: PostgreSQL warehouse.

    A table that cannot go on holds no other; raises `ChainError` where the log itself is broken.
    """
    lake, report = source.lake(settings), SourceReport()
    chain = Chain.load(lake)
    for table in catalogue.tables(chain):
        days = chain.days_of(table, settings.first_day)
        try:
            for day in days:
                compact(lake, table, day, chain=chain, first_day=settings.first_day)
            applied = raw.apply(conn, lake, table, days, chain=chain, first_day=settings.first_day)
        except (CatalogueError, UnknownStateError) as error:
            report.stopped[table] = str(error)
        else:
            report.rows[table] = applied.total
    return report
