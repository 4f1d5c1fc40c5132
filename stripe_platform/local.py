"""What one developer's machine needs before the first run: servers, migrations, slot, schemas, dbt manifest."""

from __future__ import annotations

import os

from stripe_platform.embedded import servers
from stripe_platform.settings import data_folder, load_settings


def dagster_environment() -> dict[str, str]:
    """Variables that `dg` and `dagster` need to use this platform's instance."""
    return {"DAGSTER_HOME": str(data_folder() / "dagster"), "DAGSTER_EVENT_BATCH_SIZE": "500"}


def up() -> None:
    """Start the servers and prepare them; every step is idempotent."""
    from stripe_platform.cdc.capture import ensure_slot
    from stripe_platform.oltp.migrate import migrate
    from stripe_platform.warehouse.bootstrap import bootstrap
    from stripe_platform.warehouse.dbt_project import ensure_manifest

    servers.up(data_folder())
    settings = load_settings()
    migrate(settings.need("oltp_owner_dsn"))
    ensure_slot(settings)  # before the first commit: what precedes the slot is not captured
    bootstrap(settings)
    ensure_manifest()
    os.environ.update(dagster_environment())
