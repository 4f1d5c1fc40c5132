"""What one developer's machine needs before the first run: servers, migrations, slot, schemas, dbt manifest."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from stripe_platform.embedded import servers
from stripe_platform.settings import data_folder, load_settings

if TYPE_CHECKING:
    import dagster as dg


def dagster_environment() -> dict[str, str]:
    """Variables that `dg` and `dagster` need to use this platform's instance."""
    home = data_folder()
    return {
        "STRIPE_PLATFORM_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "DAGSTER_EVENT_BATCH_SIZE": "500",
    }


def up() -> None:
    """Start the servers and prepare them; every step is idempotent."""
    from stripe_platform.cdc.capture import ensure_slot
    from stripe_platform.oltp.migrate import migrate
    from stripe_platform.reference import database as reference
    from stripe_platform.reference.sync import prepare
    from stripe_platform.warehouse.bootstrap import bootstrap
    from stripe_platform.warehouse.dbt_project import ensure_manifest

    servers.up(data_folder())
    settings = load_settings()
    migrate(settings.need("oltp_owner_dsn"))
    reference.migrate(settings.need("reference_owner_dsn"))
    ensure_slot(settings)  # before the first commit: what precedes the slot is not captured
    prepare(settings)
    bootstrap(settings)
    ensure_manifest()
    os.environ.update(dagster_environment())


def newest_closed_day() -> dt.date:
    """The newest ledger day that the OLTP's calendar owner closed."""
    from stripe_platform.oltp.calendar import last_closed_day

    with psycopg.connect(load_settings().need("oltp_dsn")) as connection:
        day = last_closed_day(connection)
    if day is None:
        raise RuntimeError("no ledger day is closed yet: run `stripe-platform demo` first")
    return day


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """This data folder's Dagster instance."""
    import dagster as dg

    load_settings().need("dagster_dsn")  # before Dagster complains of its own variables
    os.environ.update(dagster_environment())
    with dg.DagsterInstance.get() as instance:
        yield instance
