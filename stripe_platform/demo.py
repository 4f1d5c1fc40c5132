"""The main job: a calendar of payments through every layer, and one table of what happened.

Safe to kill and to repeat: every step below finds out what already stands and does the rest.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stripe_platform import keys, local, progress, runs
from stripe_platform.beside import beside
from stripe_platform.settings import Settings, load_settings

if TYPE_CHECKING:
    from dagster import AssetKey

    from stripe_platform.feeds import FeedSpec
    from stripe_platform.oltp.feed import BusinessDays

SCORED = keys.key("marts", "fct_fraud_scores")
MODEL_FIGURES = ("average_precision", "roc_auc", "card_precision_100", "recall_at_fpr_0_1pct")
# What waits for a model; without one, its checks have nothing to judge.
OF_A_MODEL = ("fraud/model", "oltp/fraud_assessments", SCORED.to_user_string())


class DemoBusyError(RuntimeError):
    """Another demo works on this data folder."""


def run(spec: FeedSpec) -> dict[str, Any]:
    """Carry the feed's whole calendar through every layer; returns the report that `demo --json` prints."""
    started = time.monotonic()
    spec.calendar(load_settings())  # a mistyped option is told before anything starts
    home = load_settings().home
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home), progress.enabled():
        with progress.stage("servers, schemas, manifest"):
            local.up()
        # The calendar must stand before anything imports the partitions: they begin with its first day.
        calendar = spec.remember(load_settings())
        reports = list(_carry(calendar))
    return _report(load_settings(), reports, time.monotonic() - started)


def _carry(calendar: BusinessDays) -> Iterator[runs.RunReport]:
    from stripe_platform.definitions import defs
    from stripe_platform.fraud.protocol import DAYS

    first, last = calendar.first, calendar.last_with_tail
    scores_day = last + dt.timedelta(days=1)  # scores are written and closed on the day after the calendar's last
    with local.dagster_instance() as instance, beside() as other:
        runs.close_interrupted(instance, runs.BY_COMMAND_LINE)
        yield runs.run_job(defs, instance, "ingest", first, last)
        documents = other("transform", first, last, select=_of("transform", documents=True))
        yield runs.run_job(defs, instance, "transform", first, last, select=_of("transform", documents=False))
        if calendar.days >= DAYS:
            yield runs.run_job(defs, instance, "train", scores_day, scores_day)
            yield runs.run_job(defs, instance, "ingest", scores_day, scores_day)
        small = other("small_tables", None, None)  # behind the last capture
        if calendar.days >= DAYS:
            yield runs.run_job(defs, instance, "transform", scores_day, scores_day, select=[SCORED])
        with progress.stage("documents, in a process beside"):
            yield documents.result()
        with progress.stage("small tables, in a process beside"):
            yield small.result()


def _of(job: str, *, documents: bool) -> list[AssetKey]:
    """The job's assets that are documents, or those that are not."""
    from stripe_platform.definitions import defs

    found = defs.resolve_job_def(job).asset_layer.selected_asset_keys
    return sorted(key for key in found if (key.path[0] == "documents") is documents)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoBusyError(f"another demo works in {home}: wait for it, or set STRIPE_PLATFORM_HOME") from None
        yield


def _report(settings: Settings, reports: list[runs.RunReport], seconds: float) -> dict[str, Any]:
    from asset_checks.report import report as check_report
    from stripe_platform.lineage.counts import (
        charged_amounts,
        event_rows,
        mart_hashes,
        quarantined,
        rows_by_layer,
    )

    spent: defaultdict[str, float] = defaultdict(float)
    metadata: dict[str, dict[str, object]] = {}
    for each in reports:
        metadata |= each.metadata
        for layer, took in each.layers.items():
            spent[layer] += took
    rows = rows_by_layer(settings)
    checks = check_report(settings, [])
    model = metadata.get("fraud/model", {})
    return {
        "layers": {
            layer: {**rows.get(layer, {}), "seconds": round(spent.get(layer, 0.0), 2)}
            for layer in (*keys.LAYERS, "checks")
        },
        "amounts": charged_amounts(settings),
        "checks": {name: checks[name] for name in ("passed", "failed", "not_evaluated")},
        "model": {name: model.get(name) for name in MODEL_FIGURES},
        "quarantine": quarantined(settings),
        "marts": mart_hashes(settings),
        "event_rows": event_rows(settings),
        "seconds": round(seconds, 1),
        "good": all(not model and item["asset"] in OF_A_MODEL for item in checks["items"]),
    }


def show(report: dict[str, Any]) -> None:
    """The table in which the command ends."""
    from stripe_platform.fraud.protocol import DAYS
    from stripe_platform.tables import show as table

    table("Layers", [
        {"layer": layer, "rows": sum(v for k, v in counts.items() if k != "seconds"), "seconds": counts["seconds"]}
        for layer, counts in report["layers"].items()
    ])
    currencies = sorted({currency for sums in report["amounts"].values() for currency in sums})
    table("Charges in minor units", [
        {"currency": currency, **{layer: sums.get(currency, 0) for layer, sums in report["amounts"].items()}}
        for currency in currencies
    ])
    if report["model"]["average_precision"] is None:
        print(f"No fraud model: one needs {DAYS} days (to train, for labels to arrive, to test); see --days. "
              "Its checks stay not evaluated.\n")
    else:
        table("Fraud model", [{"metric": name, "value": value} for name, value in report["model"].items()])
    if report["quarantine"]:
        table("Quarantine: records refused, nothing else was lost", report["quarantine"])
    table("Checks", [report["checks"]])
    table("Marts", [{"mart": name, "content hash": digest[:16]} for name, digest in report["marts"].items()])
    print(
        f"{report['event_rows']:,} event rows in Dagster, {report['seconds']:.0f} s in all.\n"
        "Next: `make ui` (lineage, partitions, checks) · `stripe-platform checks` · `stripe-platform freshness`"
    )
