"""The one daily partition scheme: UTC, a range is one run, freshness in the live profile.

Ledger day partitions `cdc/`, `raw/`, `snapshots/`; event day partitions marts, features and documents.
"""

from __future__ import annotations

import datetime as dt
import warnings

import dagster as dg

from stripe_platform.settings import load_settings

# Said once per asset at every start of every command; the parameter is measured and wanted here.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

_settings = load_settings()
# Today is a partition too: it is the open ledger day of a live calendar, and the sensor carries its batches.
DAILY = dg.DailyPartitionsDefinition(_settings.first_day.isoformat(), timezone="UTC", end_offset=1)
SINGLE_RUN = dg.BackfillPolicy.single_run()

# Simulated calendars lie in the past: judged by the clock they would always be stale. `stripe-platform freshness`
# judges every profile against the newest closed ledger day.
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(hours=30), warn_window=dt.timedelta(hours=26))


def days_of(context: dg.AssetExecutionContext) -> list[dt.date]:
    """Days of this run's partition range, in order, first and last included."""
    return sorted(dt.date.fromisoformat(key) for key in context.partition_keys)
