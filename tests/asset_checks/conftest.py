"""A few simulated days carried through every store, shared by the tests that plant violations and take them back."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from asset_checks.judge import WHOLE, Check, Verdict, judge
from asset_checks.stores import Stores
from stripe_platform.settings import Settings, load_settings

FIRST = dt.date(2026, 6, 1)
BUSINESS, TAIL = 3, 2
DAYS = [FIRST + dt.timedelta(days=n) for n in range(BUSINESS + TAIL)]
NAMES = [day.isoformat() for day in DAYS]

# What the checks read of the marts, made from raw without dbt: the real models are tested in their own room.
MARTS = """
create table marts.fct_charges as
select c.id as charge_id, (c.created at time zone 'UTC')::date as event_day, c.created, c.amount, c.amount_captured,
    c.amount as amount_eur, c.currency, c.status, c.terminal_id, a.token as account_token, u.token as customer_token,
    a.id as account_id, c.payment_intent_id, c.amount_refunded, c.disputed, c.device_type, c.ip_country
from raw.charges c join raw.accounts a on a.id = c.account_id join raw.customers u on u.id = c.customer_id;
create table marts.fct_refunds as
select r.id as refund_id, r.charge_id, r.created, (r.created at time zone 'UTC')::date as event_day, r.amount,
    r.currency, r.status, r.reason, c.created as charge_created, c.account_token, c.customer_token
from raw.refunds r join marts.fct_charges c using (charge_id);
create table marts.fct_disputes as
select r.id as dispute_id, r.charge_id, r.created, (r.created at time zone 'UTC')::date as event_day, r.amount,
    r.currency, r.status, r.reason, c.created as charge_created, c.account_token, c.customer_token
from raw.disputes r join marts.fct_charges c using (charge_id);
create table marts.agg_daily_revenue as
with m as (
    select event_day, currency, 1 as charges, amount_captured as gross, 0 as refunds, 0 as disputes
    from marts.fct_charges
    union all select event_day, currency, 0, 0, amount, 0 from marts.fct_refunds
        where status in ('succeeded', 'pending', 'requires_action')
    union all select event_day, currency, 0, 0, 0, amount from marts.fct_disputes
        where status in ('needs_response', 'under_review', 'lost')
)
select event_day, currency, sum(charges)::bigint as charges, sum(gross)::bigint as gross,
    sum(refunds)::bigint as refunds, sum(disputes)::bigint as disputes,
    (sum(gross) - sum(refunds) - sum(disputes))::bigint as net
from m group by 1, 2;
create table marts.fct_fraud_scores as select charge_id, model_version, score from raw.fraud_assessments;
create table marts.dim_customer as
select u.token as customer_token, a.token as account_token, u.country, u.currency, u.delinquent, u.deleted, u.created
from raw.customers u left join raw.accounts a on a.id = u.account_id;
create table marts.dim_account as
select id as account_id, token as account_token, type, country, default_currency, business_type, mcc, charges_enabled,
    payouts_enabled, created
from raw.accounts;
create table marts.dim_date as
select d::date as date_day from generate_series('2026-01-01'::date, '2026-12-31', '1 day') d;
"""


@dataclass
class Carried:
    """Stores that hold the simulated days, and how to judge them."""

    stores: Stores
    settings: Settings

    def judge(self, check: Check) -> dict[str, Verdict]:
        keys = NAMES if check.partitioned else [WHOLE]
        return {verdict.partition: verdict for verdict in judge(check, self.stores, keys)}

    def oltp(self) -> psycopg.Connection:
        """As the owner, who can take constraints away."""
        return psycopg.connect(self.settings.need("oltp_owner_dsn"), options="-c timezone=UTC")

    def warehouse(self) -> psycopg.Connection:
        return psycopg.connect(self.settings.need("warehouse_dsn"), options="-c timezone=UTC")


@pytest.fixture(scope="module")
def carried(
    servers: Any, oltp_template: str, reference_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Carried]:
    """Three business days and two of disputes, from the OLTP to the features."""
    home, mark = tmp_path_factory.mktemp("carried"), secrets.token_hex(6)
    oltp, warehouse, reference = f"oltp_{mark}", f"warehouse_{mark}", f"reference_{mark}"
    with pytest.MonkeyPatch.context() as environment:
        for variable in ("OLTP_OWNER_DSN", "OLTP_DSN", "CDC_DSN", "REFERENCE_COPIER_DSN"):
            name = f"STRIPE_PLATFORM_{variable}"
            environment.setenv(name, servers.url(name, oltp))
        for variable in ("REFERENCE_OWNER_DSN", "REFERENCE_DSN", "REFERENCE_CDC_DSN"):
            name = f"STRIPE_PLATFORM_{variable}"
            environment.setenv(name, servers.url(name, reference))
        values = {
            "STRIPE_PLATFORM_HOME": str(home), "STRIPE_PLATFORM_CDC_SLOT": f"slot_{mark}",
            "STRIPE_PLATFORM_REFERENCE_SLOT": f"slot_{reference}",
            "STRIPE_PLATFORM_LAKE_URL": str(home / "lake"), "STRIPE_PLATFORM_FIRST_DAY": FIRST.isoformat(),
            "STRIPE_PLATFORM_WAREHOUSE_DSN": servers.url("STRIPE_PLATFORM_WAREHOUSE_DSN", warehouse),
            "STRIPE_PLATFORM_MONGODB_DATABASE": f"documents_{mark}", "MONGODB_URI": servers.url("MONGODB_URI"),
        }
        for name, value in values.items():
            environment.setenv(name, value)
        with (
            _database(servers, "oltp", oltp, "payments_owner", oltp_template),
            _database(servers, "oltp", reference, "reference_owner", reference_template),
            _database(servers, "warehouse", warehouse, "warehouse", "template0"),
        ):
            settings, stores = load_settings(), Stores.of_settings()
            try:
                _carry(settings, stores)
                yield Carried(stores, settings)
            finally:
                with stores.mongo() as database:
                    database.client.drop_database(database.name)


@contextmanager
def _database(servers: Any, cluster: str, name: str, owner: str, template: str) -> Iterator[None]:
    with psycopg.connect(servers.superuser(cluster), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {} owner {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)))
    yield
    with psycopg.connect(servers.superuser(cluster), autocommit=True) as connection:
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", [name])
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _carry(settings: Settings, stores: Stores) -> None:
    from stripe_platform.cdc.capture import capture, ensure_slot
    from stripe_platform.cdc.compact import compact_range
    from stripe_platform.cdc.manifest import Chain
    from stripe_platform.cdc.snapshots import snapshot_range
    from stripe_platform.documents import landing, reference_rows, transactions
    from stripe_platform.documents.setup import ensure_collections
    from stripe_platform.features.build import build
    from stripe_platform.keys import OLTP_TABLES, UNDATED
    from stripe_platform.reference.database import REFERENCE
    from stripe_platform.simulation.feed import SimulatedFeed
    from stripe_platform.simulation.world import Options
    from stripe_platform.warehouse import raw
    from stripe_platform.warehouse.bootstrap import bootstrap

    ensure_slot(settings)
    bootstrap(settings)
    feed = SimulatedFeed(settings, Options(seed=3, first_day=FIRST, days=BUSINESS, per_day=300, dispute_lag_days=TAIL))
    for day in DAYS:
        feed.bring(day)
    capture(settings, DAYS[-1])
    lake, tables = stores.lake(), [table.name for table in OLTP_TABLES if table.dated]
    compact_range(lake, tables, DAYS)
    chain = Chain.load(lake)
    undated = {name: chain.days_of(name, FIRST) for name in UNDATED}
    for name, days in undated.items():
        compact_range(lake, [name], days)
    snapshot_range(lake, tables, DAYS)
    with stores.warehouse() as connection:
        for table in tables:
            raw.apply(connection, lake, table, DAYS)
        for table, days in undated.items():
            raw.apply(connection, lake, table, days)
        connection.execute(MARTS)
    with stores.warehouse() as connection:
        build(connection, DAYS[0], DAYS[-1])
    with stores.mongo() as database:
        ensure_collections(database)
        transactions.load(database, lake, DAYS)
        reference_rows.load(database, REFERENCE.lake(settings, lake))
        for name in ("sessions", "customer_feedback"):
            landing.load(database, settings.landing, name, DAYS)
