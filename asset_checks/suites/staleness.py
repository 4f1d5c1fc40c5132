"""How stale each consumer is, by its own position, against its declared bound."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from asset_checks.judge import ROWS, WHOLE, Check
from asset_checks.rules import Rule, within
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.source import OLTP
from stripe_platform.documents import transactions
from stripe_platform.documents.control import streamed
from stripe_platform.keys import key
from stripe_platform.lineage.staleness import BOUNDS, Bound, Staleness, behind
from stripe_platform.reference import copies
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import stream

if TYPE_CHECKING:
    import pandas as pd

    from resources.lake import Lake

# Closed event days for which a source has rows and the consumer has none yet.
_MARTS = """
select count(distinct (created at time zone 'UTC')::date) from raw.charges where not _deleted
    and (created at time zone 'UTC')::date = any(%(closed)s::date[])
    and (created at time zone 'UTC')::date > (select coalesce(max(event_day), '-infinity') from marts.fct_charges)
"""
_FEATURES = """
select count(distinct event_day) from marts.fct_charges where status <> 'failed' and event_day = any(%(closed)s::date[])
    and event_day > (select coalesce(max(event_day), '-infinity') from features.charge)
"""
Lacks = Callable[[Stores, "Lake", Chain], Staleness]


def _raw(stores: Stores, _lake: Lake, chain: Chain) -> Staleness:
    with stores.warehouse() as connection:
        if connection.execute("select to_regclass('raw._applied')").fetchone() == (None,):
            raise LookupError("raw was never filled")
        found = behind(chain, stream.position(connection, chain, OLTP.name, load_settings().first_day))
        return found if stream.streamed(connection, OLTP.name).seq else _by_days(found)


def _documents(stores: Stores, lake: Lake, chain: Chain) -> Staleness:
    with stores.mongo() as db:
        found = behind(chain, transactions.position(db, lake, chain))
        return found if streamed(db, transactions.NAME)[0] else _by_days(found)


def _copies(stores: Stores, _lake: Lake, chain: Chain) -> Staleness:
    with stores.oltp() as oltp:
        known = copies.position(oltp)
    return behind(chain, known.seq if known else 0)


def _reference_documents(stores: Stores, _lake: Lake, chain: Chain) -> Staleness:
    with stores.mongo() as db:
        return behind(chain, streamed(db, REFERENCE.name)[0])


def _days(query: str, stores: Stores, _lake: Lake, chain: Chain) -> Staleness:
    with stores.warehouse() as connection:
        row = connection.execute(query.encode(), {"closed": chain.closed}).fetchone()
    return Staleness(0, 0, int(row[0]) if row else 0)


def _by_days(found: Staleness) -> Staleness:
    """Of who does not follow, only closed days are due."""
    return Staleness(found.batches, 0, found.days)


def _profile(lacks: Lacks, of_reference: bool, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    lake = stores.lake()
    lake = REFERENCE.lake(load_settings(), lake) if of_reference else lake
    chain = Chain.load(lake)  # before the position, which can only grow meanwhile
    found = lacks(stores, lake, chain)
    return frame({WHOLE: {ROWS: len(chain.manifests), "seconds_behind": found.seconds, "days_behind": found.days,
                          "batches_behind": found.batches}})


def _rules(bound: Bound) -> tuple[Rule, ...]:
    limits = {"seconds_behind": bound.seconds, "days_behind": bound.days}
    return tuple(within(name, 0, most) for name, most in limits.items() if most is not None)


def _check(consumer: str, asset: dg.AssetKey, lacks: Lacks, *, of_reference: bool = False) -> Check:
    bound = BOUNDS[consumer]
    limits = [f"{bound.seconds} s of commits where it follows"] * (bound.seconds is not None) + [
        f"{bound.days} closed ledger day"] * (bound.days is not None)
    return Check(asset, "within_its_bound", f"By its own position, {consumer} lacks at most {', '.join(limits)}.",
                 partial(_profile, lacks, of_reference), _rules(bound), blocking=False, partitioned=False)


CHECKS = [
    _check("copies", key("reference", "currencies"), _copies, of_reference=True),
    _check("raw", key("raw", "events"), _raw),  # an undated table: its run is the last that brings raw on
    _check("documents", key("documents", "transactions"), _documents),
    _check("reference_documents", key("documents", "merchants"), _reference_documents, of_reference=True),
    _check("marts", key("marts", "fct_charges"), partial(_days, _MARTS)),
    _check("features", key("features", "charge"), partial(_days, _FEATURES)),
]
