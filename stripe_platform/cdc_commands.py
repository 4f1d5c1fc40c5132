"""`stripe-platform cdc ...` and `bench cdc`: thin commands over the change log."""

from __future__ import annotations

from typing import Annotated

import typer

from stripe_platform.tables import Json, emit

cdc_app = typer.Typer(no_args_is_help=True, help="Change data capture: capture, verify.")


@cdc_app.command("capture")
def cdc_capture(as_json: Json = False) -> None:
    """Drain the replication slot into durable, hash-chained batches. Example: stripe-platform cdc capture"""
    from dataclasses import asdict

    from stripe_platform import progress
    from stripe_platform.cdc.capture import capture
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    with progress.enabled():
        report = asdict(capture(load_settings()))
    emit(report) if as_json else show("Captured", [{"what": k, "value": str(v)} for k, v in report.items()])


@cdc_app.command("verify")
def cdc_verify(as_json: Json = False) -> None:
    """Prove the change log whole: chain, hashes, ordinals, slot. Exit code 1 when it is not."""
    from dataclasses import asdict

    from stripe_platform import progress
    from stripe_platform.cdc.verify import verify
    from stripe_platform.reference.database import REFERENCE
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    with progress.enabled():
        report, second = verify(load_settings()), verify(load_settings(), source=REFERENCE)
    facts = asdict(report) | {"problems": [*report.problems, *(f"reference: {p}" for p in second.problems)]}
    if as_json:
        emit(facts | {"reference": asdict(second)})
    else:
        show("Change log", [{"what": k, "value": str(v), "reference": str(asdict(second)[k])}
                            for k, v in facts.items() if k != "problems"], note="\n".join(facts["problems"]) or "whole")
    if facts["problems"]:
        raise typer.Exit(1)


def bench_cdc(
    changes: Annotated[int, typer.Option(min=10_000, help="Changes of the backlog.")] = 300_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 3,
    peers: Annotated[bool, typer.Option(help="Also Debezium; needs `make peers`.")] = True,
    deep: Annotated[bool, typer.Option(help="Also peak memory from 10^5 to 5*10^6 changes; takes minutes.")] = False,
    as_json: Json = False,
) -> None:
    """Land and apply changes beside Debezium, the raw drain of the slot and COPY. Example: bench cdc --json"""
    from stripe_platform import local, progress
    from stripe_platform.bench import Report
    from stripe_platform.cdc import bench
    from stripe_platform.embedded import servers
    from stripe_platform.settings import data_folder, load_settings
    from stripe_platform.tables import show
    from stripe_platform.warehouse import apply_bench

    local.up()
    report, settings, home = Report("cdc"), load_settings(), data_folder()
    with progress.enabled():
        bench.land(report, settings, servers.superuser(home, "oltp"), changes=changes, rounds=rounds, peers=peers)
        apply_bench.apply(report, settings, servers.superuser(home, "warehouse"), rounds=rounds)
        if deep:
            bench.memory(report, settings, servers.superuser(home, "oltp"))
    if as_json:
        emit(report.as_json())
    else:
        show("Change log", report.rows())
        show("Bars", [{"bar": name, **bar} for name, bar in report.bars.items()])
