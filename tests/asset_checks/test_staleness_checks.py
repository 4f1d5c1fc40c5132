"""Each consumer's staleness against its bound: within it, beyond it, and where nobody can tell."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import psycopg
import pytest

import asset_checks
from asset_checks.judge import WHOLE, Verdict, judge
from asset_checks.stores import Stores
from resources.lake import Lake
from resources.mongo import MongoResource
from resources.warehouse import connect_postgres
from stripe_platform.cdc.capture import capture, ensure_slot
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain, Epoch, Manifest, save_epoch
from stripe_platform.documents import control, transactions
from stripe_platform.documents.setup import ensure_collections
from stripe_platform.lineage.staleness import BOUNDS, Staleness, behind
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import Settings, load_settings
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.stream import RawStream

pytestmark = pytest.mark.servers
FIRST = dt.date(2026, 6, 1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
CHECKS = {check.asset.to_user_string(): check for check in asset_checks.declared() if check.name == "within_its_bound"}


def write_chain(lake: Lake, *hours: float, closing: bool = False) -> Chain:
    """Batches with one commit each, so many hours after noon; `closing`: each ends a ledger day."""
    epoch = Epoch(1, "slot", "1", 1, 0)
    save_epoch(lake, epoch)
    previous = None
    for seq, hour in enumerate(hours, start=1):
        at = (NOON + dt.timedelta(hours=hour)).isoformat()
        made = Manifest(seq, previous, "oltp", "slot", "1", 1, 1, epoch.name, seq - 1, seq, 1, 1, 1, at, at,
                        FIRST + dt.timedelta(days=seq - 1) if closing else None)
        lake.put(made.path, made.encode())
        previous = made.digest
    return Chain.load(lake)


@pytest.fixture
def settings(oltp: Settings, warehouse: Settings, mongo: Settings, lake, monkeypatch) -> Settings:
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", FIRST.isoformat())
    return load_settings()


def verdict(asset: str) -> Verdict:
    return judge(CHECKS[asset], Stores.of_settings(), [WHOLE])[0]


def test_every_bound_has_its_check_and_every_check_a_bound():
    assert len(CHECKS) == len(BOUNDS)
    assert {rule.high for check in CHECKS.values() for rule in check.rules} == {
        most for bound in BOUNDS.values() for most in (bound.seconds, bound.days) if most is not None}


def test_what_a_consumer_lacks_is_counted_from_the_oldest_commit_it_has_not_seen(settings):
    chain = write_chain(Stores.of_settings().lake(), 0, 5, 6, 6.5, closing=True)
    assert [behind(chain, seq) for seq in range(5)] == [
        Staleness(4, 23_400, 4), Staleness(3, 5_400, 3), Staleness(2, 1_800, 2), Staleness(1, 0, 1), Staleness(0, 0, 0)]


def raw_at(settings: Settings, seq: int) -> None:
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        RawStream(conn, Stores.of_settings().lake(), "oltp", FIRST)
        conn.execute("create table if not exists raw._applied (table_name text, day date, digest text)")
        conn.execute("delete from raw._streamed")
        conn.execute("insert into raw._streamed (source, seq) values ('oltp', %s)", [seq])


def documents_at(name: str) -> Callable[[Settings, int], None]:
    def stand(_settings: Settings, seq: int) -> None:
        with MongoResource().database() as db:
            ensure_collections(db)
            control.streaming(db, name, seq, seq)

    return stand


def copies_at(settings: Settings, seq: int) -> None:
    with psycopg.connect(settings.need("oltp_owner_dsn")) as conn:
        conn.execute("delete from ops.copied")
        conn.execute("insert into ops.copied (source, seq, digest, epoch, commit_lsn, ordinal)"
                     " values ('reference', %s, repeat('0', 64), 'e', 1, 1)", [seq])


@pytest.mark.parametrize(("asset", "stand", "of_reference"), [
    ("raw/events", raw_at, False), ("documents/transactions", documents_at(transactions.NAME), False),
    ("reference/currencies", copies_at, True), ("documents/merchants", documents_at(REFERENCE.name), True)])
def test_a_follower_beyond_its_seconds_is_red_and_caught_up_it_is_green(settings, asset, stand, of_reference):
    assert verdict(asset).outcome == "not_evaluated"  # no log yet
    lake = Stores.of_settings().lake()
    write_chain(REFERENCE.lake(settings, lake) if of_reference else lake, 0, 1, 26)
    stand(settings, 1)
    red = verdict(asset)
    assert (red.outcome, red.reasons, red.rows_scanned) == ("failed", ("seconds_behind_within",), 3)
    for position in (2, 3):  # one batch is no span of commits, however late it comes
        stand(settings, position)
        assert verdict(asset).outcome == "passed"


def test_documents_brought_by_days_may_lack_one_closed_day_and_are_not_asked_for_seconds(settings):
    lake = Stores.of_settings().lake()
    write_chain(lake, 0, 24, closing=True)
    documents_at(transactions.NAME)(settings, 0)  # it never followed
    red = verdict("documents/transactions")
    assert (red.outcome, red.reasons) == ("failed", ("days_behind_within",))
    documents_at(transactions.NAME)(settings, 1)
    assert verdict("documents/transactions").outcome == "passed"


def test_raw_brought_by_days_may_lack_one_closed_day(source_days, settings):
    assert verdict("raw/events").outcome == "passed"
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        conn.execute("delete from raw._applied where day > %s", [FIRST + dt.timedelta(days=1)])
    assert verdict("raw/events").outcome == "passed"
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        conn.execute("delete from raw._applied where day > %s", [FIRST])
    red = verdict("raw/events")
    assert (red.outcome, red.reasons) == ("failed", ("days_behind_within",))


@pytest.fixture
def source_days(settings: Settings) -> None:
    """Three closed days with a change each, applied to raw."""
    ensure_slot(settings)
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as conn:
        for n in range(3):
            conn.execute("insert into oltp.currencies values (%s, 'A currency', 2, 2)", [f"eu{'abc'[n]}"])
            conn.execute("insert into ops.day_ledger values ('oltp', %s)", [FIRST + dt.timedelta(days=n)])
    capture(settings)
    lake, days = Stores.of_settings().lake(), [FIRST + dt.timedelta(days=n) for n in range(3)]
    compact_range(lake, ["currencies"], days)
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        raw.apply(conn, lake, "currencies", days)


def fill(settings: Settings, charges: int, facts: int, features: int) -> None:
    """So many days, from the first one on, in raw, in the mart and in the features."""
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        for statement in ("create schema if not exists raw", "create schema if not exists marts",
                          "create schema if not exists features",
                          "create table if not exists raw.charges (created timestamptz, _deleted boolean)",
                          "create table if not exists marts.fct_charges (event_day date, status text)",
                          "create table if not exists features.charge (event_day date)",
                          "truncate raw.charges, marts.fct_charges, features.charge"):
            conn.execute(statement)
        conn.execute("insert into raw.charges select %s::timestamptz + n * interval '1 day', false"
                     " from generate_series(0, %s - 1) as n", [NOON, charges])
        conn.execute("insert into marts.fct_charges select %s::date + n, 'succeeded' from generate_series(0, %s - 1) n",
                     [FIRST, facts])
        conn.execute("insert into features.charge select %s::date + n from generate_series(0, %s - 1) n",
                     [FIRST, features])


@pytest.mark.parametrize(("asset", "filled"), [
    ("marts/fct_charges", {0: (4, 1, 1), 1: (4, 2, 1), 2: (3, 3, 1)}),
    ("features/charge", {0: (4, 4, 1), 1: (4, 4, 2), 2: (4, 3, 3)})])
def test_marts_and_features_may_lack_one_closed_day_of_what_they_are_made_from(settings, asset, filled):
    assert verdict(asset).outcome == "not_evaluated"
    write_chain(Stores.of_settings().lake(), 0, 24, 48, closing=True)  # the fourth day is open: nobody lacks it
    assert verdict(asset).outcome == "not_evaluated"  # the tables were never made
    found = []
    for days in filled.values():
        fill(settings, *days)
        found.append(verdict(asset).outcome)
    assert found == ["failed", "passed", "passed"]
