"""`stripe-platform cdc ...` and `bench cdc`: thin commands over the change log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stripe_platform.tables import Json, emit

if TYPE_CHECKING:
    from stripe_platform.cdc.intake import IntakeReport

cdc_app = typer.Typer(no_args_is_help=True, help="Change data capture: capture, follow, replay, verify.")


SourceName = Annotated[str, typer.Option("--source", help="oltp, reference, or one of STRIPE_PLATFORM_SOURCES.")]


def _source(name: str) -> Any:
    from stripe_platform.cdc.source import OLTP
    from stripe_platform.cdc.sources import find
    from stripe_platform.reference.database import REFERENCE
    from stripe_platform.settings import load_settings

    return find(load_settings(), name, {OLTP.name: OLTP, REFERENCE.name: REFERENCE})


def _configured(name: str) -> Any:
    from stripe_platform.cdc.sources import find
    from stripe_platform.settings import load_settings

    return find(load_settings(), name)


Topics = Annotated[str, typer.Option("--topics", help="The connector's topic.prefix.")]


@cdc_app.command("capture")
def cdc_capture(
    source: SourceName = "oltp",
    from_kafka: Annotated[str | None, typer.Option(help="Read Debezium's topics of this broker, host:port.")] = None,
    from_files: Annotated[list[Path] | None, typer.Option(help="Read Debezium's events, JSONL; may repeat.")] = None,
    topics: Topics = "payments",
    encoding: Annotated[Literal["ours", "default"], typer.Option(help="How values without schemas are written.")] = (
        "ours"),
    placeholder: Annotated[str | None, typer.Option(help="The connector's unavailable.value.placeholder.")] = None,
    as_json: Json = False,
) -> None:
    """Land changes in durable, hash-chained batches: of the replication slot, or a Debezium stream in its place.

    A stream may be of any source of STRIPE_PLATFORM_SOURCES: its tables are described by the schemas in the events, by
    the source's catalogue where its dsn is set, or by the types in that file.

    Examples: stripe-platform cdc capture · stripe-platform cdc capture --from-kafka localhost:9092 --topics payments ·
    stripe-platform cdc capture --source shop --from-files events.jsonl.gz --topics shop
    """
    from dataclasses import asdict

    from stripe_platform import progress
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    if from_kafka and from_files:
        raise typer.BadParameter("--from-kafka and --from-files exclude each other: name one")
    with progress.enabled():
        if from_kafka or from_files:
            report = asdict(_intake(_source(source), from_kafka, from_files or [], topics, encoding, placeholder))
        else:
            from stripe_platform.cdc.capture import capture

            report = asdict(capture(load_settings(), source=_source(source)))
    emit(report) if as_json else show("Captured", [{"what": k, "value": str(v)} for k, v in report.items()])


def _intake(source: Any, bootstrap: str | None, files: list[Path], prefix: str, encoding: str,
            placeholder: str | None) -> IntakeReport:
    import dataclasses

    from stripe_platform.cdc import debezium_values
    from stripe_platform.cdc.describe import asker
    from stripe_platform.cdc.intake import intake, listed
    from stripe_platform.cdc.jsonl import Files
    from stripe_platform.cdc.kafka import Topics as KafkaTopics
    from stripe_platform.cdc.source import OLTP
    from stripe_platform.cdc.sources import ConfiguredSource
    from stripe_platform.settings import load_settings

    told, settings = debezium_values.OURS if encoding == "ours" else debezium_values.DEFAULT, load_settings()
    if placeholder:
        told = dataclasses.replace(told, placeholder=placeholder)
    own = isinstance(source, ConfiguredSource)
    if not own and source != OLTP:
        raise typer.BadParameter(f"{source.name} is read from its slot alone: name oltp, or a source of the file")
    return intake(
        settings, lambda positions: KafkaTopics(bootstrap, prefix, positions) if bootstrap else Files(
            files, positions), stream=prefix, source=source, catalogue=listed(source) if own else None,
        ask=asker(settings, source) if own and source.configured(settings) else None, encoding=told)


@cdc_app.command("replay")
def cdc_replay(
    to_files: Annotated[Path | None, typer.Option(help="File to write, JSONL, packed where it ends in .gz.")] = None,
    to_kafka: Annotated[str | None, typer.Option(help="Broker to write to, host:port.")] = None,
    topics: Topics = "payments",
    first: Annotated[int, typer.Option(min=1, help="First batch.")] = 1,
    as_json: Json = False,
) -> None:
    """Write the batches out as Debezium's change events. Example: stripe-platform cdc replay --to-files log.jsonl.gz"""
    from stripe_platform.cdc import jsonl, kafka
    from stripe_platform.cdc.replay import events
    from stripe_platform.cdc.source import OLTP
    from stripe_platform.settings import load_settings

    if (to_files is None) == (to_kafka is None):
        raise typer.BadParameter("name one of --to-files and --to-kafka")
    written = events(OLTP.lake(load_settings()), topics, first=first)
    count = jsonl.write(to_files, written) if to_files else kafka.write(str(to_kafka), written)
    emit({"events": count}) if as_json else typer.echo(f"{count:,} events written")


@cdc_app.command("publish")
def cdc_publish(
    source: SourceName,
    slot: Annotated[bool, typer.Option("--slot/--no-slot", help="None where Debezium reads by one of its own.")] = True,
    as_json: Json = False,
) -> None:
    """Publish the tables that the file of sources names, and make the slot. Example: cdc publish --source shop"""
    from stripe_platform.cdc.slot import ensure_slot
    from stripe_platform.cdc.sources import publish, tell
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    found = _configured(source)
    told = publish(load_settings(), found)
    names = [each.name for each in found.published]
    made = ensure_slot(load_settings(), source=found).slot if slot else None
    if told:
        tell(load_settings(), found)
    facts = {"source": source, "publication": found.publication, "slot": made, "tables": names,
             "ddl_told": told}
    note = None if told else "DDL is not told in the log: that takes an event trigger, which the owner may not make"
    emit(facts) if as_json else show("Published", [{"table": name} for name in names], note=note)


@cdc_app.command("snapshot")
def cdc_snapshot(
    source: SourceName, table: Annotated[list[str] | None, typer.Option(help="Only this table; may repeat.")] = None,
    new_slot: Annotated[bool, typer.Option("--new-slot", help="The slot is lost: begin anew.")] = False,
    as_json: Json = False,
) -> None:
    """Take tables from a source, joined to its stream. Kill-safe, resumable. Example: cdc snapshot --source shop"""
    from dataclasses import asdict

    from stripe_platform import progress
    from stripe_platform.cdc.backfill import backfill
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    with progress.enabled():
        report = asdict(backfill(load_settings(), _configured(source), table, new_slot=new_slot))
    emit(report) if as_json else show("Taken", [{"table": k, "rows": f"{v:,}"} for k, v in report["rows"].items()])


@cdc_app.command("canary")
def cdc_canary(source: SourceName = "oltp", as_json: Json = False) -> None:
    """Commit the next canary at a source: `cdc verify` proves that none is missing. Example: cdc canary"""
    from stripe_platform.cdc.canary import emit as commit_canary
    from stripe_platform.settings import load_settings

    number = commit_canary(load_settings(), _source(source))
    told = f"canary {number} of {source}" if number else f"source {source} is a standby: emit canaries at its primary"
    emit({"source": source, "number": number}) if as_json else typer.echo(told)


@cdc_app.command("slot")
def cdc_slot(source: SourceName = "oltp", as_json: Json = False) -> None:
    """Slot and log in figures: lag, log kept, status, sealing. Exit code 1 on an alarm. Example: cdc slot"""
    from dataclasses import asdict

    from stripe_platform.cdc.metrics import sealing_metrics, slot_metrics
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    settings, of = load_settings(), _source(source)
    found, sealing = slot_metrics(settings, of), sealing_metrics(settings, of)
    alarms = [*found.alarms, *sealing.alarms]
    facts = asdict(found) | asdict(sealing) | {"alarms": alarms}
    emit(facts) if as_json else show("Slot", [{"what": k, "value": str(v)} for k, v in facts.items()])
    if alarms:
        raise typer.Exit(1)


@cdc_app.command("rename")
def cdc_rename(
    source: SourceName, table: Annotated[str, typer.Option(help="The table that stopped.")],
    old: str, new: str, not_renamed: Annotated[bool, typer.Option("--not-renamed", help="Two columns.")] = False,
) -> None:
    """Say whether a column was renamed where the log cannot tell. Example: cdc rename --source s --table t old new"""
    from stripe_platform.cdc.evolution import declare
    from stripe_platform.settings import load_settings

    declare(_source(source).lake(load_settings()), table, old, new, renamed=not not_renamed)
    typer.echo(f"{table}: {old} {'and ' + new + ' are two columns' if not_renamed else 'became ' + new}")


@cdc_app.command("apply")
def cdc_apply(source: SourceName, as_json: Json = False) -> None:
    """Bring what is captured of a source into raw. Exit code 1 when a table stopped. Example: cdc apply --source s"""
    from dataclasses import asdict

    from resources.warehouse import connect_postgres
    from stripe_platform import progress
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show
    from stripe_platform.warehouse.sources import apply_source

    with progress.enabled(), connect_postgres(load_settings().need("warehouse_dsn")) as connection:
        report = asdict(apply_source(connection, load_settings(), _configured(source)))
    if as_json:
        emit(report)
    else:
        show("Applied", [{"table": name, "rows": rows} for name, rows in report["rows"].items()],
             note="\n".join(report["stopped"].values()) or None)
    if report["stopped"]:
        raise typer.Exit(1)


@cdc_app.command("follow")
def cdc_follow(
    every: Annotated[float, typer.Option(min=0.02, help="Seconds a commit may wait for its batch.")] = 0.2,
    seconds: Annotated[float | None, typer.Option(help="End after so long; default: when it is stopped.")] = None,
    as_json: Json = False,
) -> None:
    """Land what is committed at once and carry it to raw and the documents, until stopped. Example: cdc follow"""
    import signal
    import threading

    from stripe_platform import streaming
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    if seconds is not None:
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        timer.start()
    if not as_json:
        typer.echo("following the log; Ctrl+C ends it when what was landed is carried")
    report = streaming.follow(load_settings(), stop=stop, every=every).as_json()
    emit(report) if as_json else show("Followed", [{"what": k, "value": str(v)} for k, v in report.items()])


@cdc_app.command("quarantine")
def cdc_quarantine(
    retry: Annotated[bool, typer.Option("--retry", help="Apply them again from the log.")] = False,
    source: SourceName = "oltp", as_json: Json = False,
) -> None:
    """Rows that a store refused: where they stand in the log and which rule they broke, never their values.

    Mend the cause, then --retry. Examples: stripe-platform cdc quarantine · stripe-platform cdc quarantine --retry
    """
    from stripe_platform import put_aside
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    released = put_aside.retry(load_settings(), _source(source)) if retry else {}
    found = put_aside.listing(load_settings())
    if as_json:
        emit({"entries": found, **({"released": released} if retry else {})})
        return
    show("Quarantine", [{"store": row["store"], "table": row["table"], "key": row["id"] or row["key_hash"][:16],
                         "position": f"{row['epoch']} {row['commit_lsn']}/{row['ord']}", "rule": row["rule"]}
                        for row in found], note=found[0]["remedy"] if found else "nothing is put aside")
    for store, count in released.items():
        typer.echo(f"{count} released in {store}")


@cdc_app.command("verify")
def cdc_verify(
    source: Annotated[str | None, typer.Option(help="One of STRIPE_PLATFORM_SOURCES; default: the platform's two.")]
    = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="The log's own records, without the source.")] = False,
    as_json: Json = False,
) -> None:
    """Prove the log whole (chain, hashes, ordinals, canaries, slot), and its fold equal to the source row by row.

    Exit code 1 when it is not. Examples: stripe-platform cdc verify · stripe-platform cdc verify --log-only --json
    """
    from stripe_platform import progress
    from stripe_platform.cdc.source import OLTP
    from stripe_platform.reference.database import REFERENCE
    from stripe_platform.tables import show

    sources = [_source(source)] if source else [OLTP, REFERENCE]
    with progress.enabled():
        found = {each.name: _proof(each, log_only=log_only) for each in sources}
    first = next(iter(found.values()))
    problems = [problem if n == 0 else f"{name}: {problem}"
                for n, (name, facts) in enumerate(found.items()) for problem in facts["problems"]]
    if as_json:
        emit(first | {"problems": problems} | dict(list(found.items())[1:]))
    else:
        shown = [{name: str(facts[what]) for name, facts in found.items()} | {"what": what}
                 for what in first if what not in ("problems", "equality")]
        show("Change log", [{"what": row.pop("what"), **row} for row in shown],
             note="\n".join(problems) or "whole" + ("" if log_only else ", and equal to the source"))
    if problems:
        raise typer.Exit(1)


@cdc_app.command("retain")
def cdc_retain(
    days: Annotated[int | None, typer.Option(min=0, help="Keep so many; default: STRIPE_PLATFORM_BATCH_DAYS.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Let batch files of old, proven ledger days go: daily files keep their rows, manifests their hashes.

    Exit code 1 when a day that is old enough may not go. Examples: cdc retain --dry-run · cdc retain --days 35 --json
    """
    from stripe_platform import progress
    from stripe_platform.cdc.retention import RetentionReport, retain
    from stripe_platform.cdc.source import OLTP
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    settings = load_settings()
    keep = settings.batch_days if days is None else days
    with progress.enabled():
        report = RetentionReport() if keep is None else retain(
            OLTP.lake(settings), keep, settings.first_day, dry_run=dry_run)
    gone = [{"day": str(each.day), "files": each.files, "bytes": each.bytes} for each in report.days]
    if as_json:
        emit({"days": gone, "bytes": report.bytes, "removed": report.removed, "keep_days": keep,
              "refused": report.refused})
    else:
        kept = "batch files are kept for ever: STRIPE_PLATFORM_BATCH_DAYS is none" if keep is None else None
        show("Batch files that went" if report.removed else "Batch files that would go", gone,
             note=report.refused or kept)
    if report.refused:
        raise typer.Exit(1)


def _proof(source: Any, *, log_only: bool) -> dict[str, Any]:
    """What the levels found of a source, as one object; `problems` empty where all hold."""
    from dataclasses import asdict

    from stripe_platform.cdc.reconcile import reconcile
    from stripe_platform.cdc.slot import CaptureError
    from stripe_platform.cdc.verify import verify
    from stripe_platform.settings import load_settings

    facts = asdict(verify(load_settings(), source=source))
    if not log_only and not facts["problems"]:
        try:
            equality = reconcile(load_settings(), source=source).as_json()
        except CaptureError as error:
            return facts | {"problems": [str(error)]}
        facts |= {"rows_compared": equality["rows"], "equal_at": equality["lsn"], "equality": equality,
                  "problems": equality["problems"]}
    return facts


def bench_cdc(
    changes: Annotated[int, typer.Option(min=10_000, help="Changes of the backlog.")] = 300_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 3,
    peers: Annotated[bool, typer.Option(help="Also Debezium; needs `make peers`.")] = True,
    deep: Annotated[bool, typer.Option(help="Also peak memory from 10^5 to 5*10^6 changes; takes minutes.")] = False,
    follow: Annotated[bool, typer.Option(help="Also seconds from commit to visible, on servers of its own.")] = True,
    as_json: Json = False,
) -> None:
    """Land and apply changes beside Debezium, the raw drain of the slot and COPY. Example: bench cdc --json"""
    from stripe_platform import local, progress, stream_bench
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
        if peers:
            bench.snapshot(report, settings, servers.superuser(home, "oltp"), rounds=rounds)
        apply_bench.apply(report, settings, servers.superuser(home, "warehouse"), rounds=rounds)
        if follow:
            stream_bench.follow(report, settings, rounds=rounds)
        if deep:
            bench.memory(report, settings, servers.superuser(home, "oltp"))
    if as_json:
        emit(report.as_json())
    else:
        show("Change log", report.rows())
        show("Bars", [{"bar": name, **bar} for name, bar in report.bars.items()])
