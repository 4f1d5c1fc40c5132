"""`stripe-platform`: thin commands over the rooms. Errors are one sentence, exit code not 0; `--debug` shows more."""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from stripe_platform import __version__
from stripe_platform.cdc_commands import bench_cdc, cdc_app
from stripe_platform.tables import Json, emit

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="A payments company's data platform. Start here: stripe-platform demo")
app.add_typer(cdc_app, name="cdc")
lineage_app = typer.Typer(no_args_is_help=True, help="Who feeds what: export the graph.")
app.add_typer(lineage_app, name="lineage")
reference_app = typer.Typer(no_args_is_help=True, help="The reference database and its copies.")
app.add_typer(reference_app, name="reference")
ha_app = typer.Typer(no_args_is_help=True, help="High availability: the failover drill.")
app.add_typer(ha_app, name="ha")

serve_app = typer.Typer(no_args_is_help=True, help="Long-running servers: api, webhooks.")
app.add_typer(serve_app, name="serve")
key_app = typer.Typer(no_args_is_help=True, help="Keys of merchants' programs: create, list, revoke.")
app.add_typer(key_app, name="api-key")
bench_app = typer.Typer(no_args_is_help=True, help="Ours beside a named peer, in alternating rounds.")
bench_app.command("cdc")(bench_cdc)
app.add_typer(bench_app, name="bench")

MAX_SHOWN = 20


def day(text: str) -> dt.date:
    """A calendar day, YYYY-MM-DD."""
    return dt.date.fromisoformat(text)


Day = Annotated[dt.date | None, typer.Option(parser=day, metavar="YYYY-MM-DD")]


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False) -> None:
    if debug:
        os.environ["STRIPE_PLATFORM_DEBUG"] = "1"


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def up(as_json: Json = False) -> None:
    """Start the local servers and prepare their databases. Twice is harmless. Example: stripe-platform up"""
    from stripe_platform import local, progress

    with progress.enabled():
        local.up()
    status(as_json)


@app.command()
def down() -> None:
    """Stop the local servers; the data stays."""
    from stripe_platform.embedded import servers
    from stripe_platform.settings import data_folder

    servers.down(data_folder())


@app.command()
def status(as_json: Json = False) -> None:
    """Show the local servers: kind, version, port, state."""
    from stripe_platform.embedded import servers
    from stripe_platform.settings import data_folder
    from stripe_platform.tables import show

    rows = servers.status(data_folder())
    emit(rows) if as_json else show("Servers", rows)


@app.command()
def env() -> None:
    """Print shell exports for dg and dagster. Example: eval "$(stripe-platform env)" """
    from stripe_platform import local

    for name, value in local.dagster_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is wrong with this deployment, each with its remedy; exit code 1 when anything is."""
    from stripe_platform.definitions import defs
    from stripe_platform.lineage.doctor import diagnose
    from stripe_platform.settings import load_settings

    found = diagnose(load_settings(), defs)
    for problem in found:
        typer.echo(f"- {problem}")
    emit({"problems": found}) if as_json else typer.echo(f"{len(found)} problems")
    if found:
        raise typer.Exit(1)


@app.command()
def checks(
    select: Annotated[list[str] | None, typer.Option(help="Only this group (layer); may repeat.")] = None,
    fail_on: Annotated[Literal["error"] | None, typer.Option(help="Exit 1 on failed or not evaluated.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Judge everything again first.")] = False,
    day: Annotated[dt.date | None, typer.Option(parser=day, metavar="YYYY-MM-DD", help="With --run: this day.")] = None,
    as_json: Json = False,
) -> None:
    """Latest verdict of every check. Example: stripe-platform checks --select marts --fail-on error"""
    from asset_checks.report import report
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    if day and not run:
        raise typer.BadParameter("--day goes with --run: without it the latest verdicts of all days are shown")
    judged = not run or _judge(day)
    found = report(load_settings(), select or [])
    if as_json:
        emit(found)
    else:
        show("Checks", found["groups"])
        if found["items"]:
            show("Not passed", found["items"][:MAX_SHOWN], note=_more(found["items"]))
    bad = found["failed"] or found["not_evaluated"]
    if (bad and fail_on == "error") or (not bad and not judged):
        raise typer.Exit(1)


def _judge(day: dt.date | None) -> bool:
    from stripe_platform import local, progress, runs
    from stripe_platform.definitions import defs

    with local.dagster_instance() as instance, progress.enabled(), progress.stage("judge"):
        try:
            runs.run_job(defs, instance, "judge", day, day)
        except runs.RunFailedError as failed:  # a verdict that blocks fails the run too: the table says which
            typer.echo(str(failed), err=True)
            return False
    return True


@lineage_app.command("export")
def lineage_export(
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Every asset with its parents, owners, partitions and checks, as JSON. Deterministic: made to be diffed."""
    from stripe_platform.definitions import defs
    from stripe_platform.lineage.graph import describe

    text = json.dumps(describe(defs), indent=1, sort_keys=True) + "\n"
    output.write_text(text) if output else typer.echo(text, nl=False)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port of the webserver.")] = 3000) -> None:
    """Open the Dagster webserver with daemon and sensors on this data folder. Stop with Ctrl-C."""
    from stripe_platform import local, runs
    from stripe_platform import ui as webserver
    from stripe_platform.settings import data_folder

    local.up()
    with webserver.opened(data_folder(), port) as record:
        with local.dagster_instance() as instance:
            runs.close_interrupted(instance, runs.BY_UI)
        webserver.serve(port, record)


@app.command()
def freshness(
    fail_on: Annotated[Literal["fail"] | None, typer.Option(help="Exit 1 when an asset has failed.")] = None,
    as_json: Json = False,
) -> None:
    """How many days each asset lags behind the newest closed ledger day. Example: freshness --fail-on fail"""
    from stripe_platform import local
    from stripe_platform.definitions import defs
    from stripe_platform.lineage.freshness import freshness as judge
    from stripe_platform.tables import show

    with local.dagster_instance() as instance:
        rows = judge(defs, instance, local.newest_closed_day())
    emit({"assets": rows}) if as_json else show("Freshness", rows)
    if fail_on == "fail" and any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


@app.command()
def demo(
    start: Day = None,
    days: Annotated[int | None, typer.Option(help="Business days; default 28, or all a file holds.")] = None,
    source: Annotated[list[Path] | None, typer.Option(help="Transactions file (Parquet, CSV); may repeat.")] = None,
    currency: Annotated[str, typer.Option(help="Currency of a file that names none.")] = "eur",
    per_day: Annotated[int, typer.Option(help="Simulated charges a day.")] = 9_000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    as_json: Json = False,
) -> None:
    """Carry a calendar of payments through every layer. Safe to kill and to repeat.

    Examples: stripe-platform demo · stripe-platform demo --source FILE.parquet --start 2018-06-11 --days 65
    """
    from stripe_platform import demo as main_job
    from stripe_platform.feeds import FeedSpec
    from stripe_platform.settings import FIRST_DAY

    if source:
        spec = FeedSpec.file(source, start=start, days=days, currency=currency)
    else:
        spec = FeedSpec.simulated(
            seed=seed, days=28 if days is None else days, per_day=per_day, first_day=start or FIRST_DAY)
    report = main_job.run(spec)
    if as_json:
        emit(report)
    else:
        main_job.show(report)
    if not report["good"]:
        raise typer.Exit(1)


@app.command()
def simulate(
    day: Day = None,
    per_day: Annotated[int | None, typer.Option(help="Simulated charges a day.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes.")] = None,
    as_json: Json = False,
) -> None:
    """Write one more simulated day through the OLTP's write API and close it. Example: simulate --day 2026-07-20"""
    import time
    from dataclasses import asdict

    from stripe_platform import feeds, local
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    local.up()
    started = time.monotonic()
    options = {name: value for name, value in (("per_day", per_day), ("seed", seed)) if value is not None}
    loaded = feeds.simulate(load_settings(), day, **options)
    if as_json:
        seconds = time.monotonic() - started
        emit({**asdict(loaded), "seconds": round(seconds, 2),
              "charges_per_minute": round(loaded.rows.get("charges", 0) / seconds * 60)})
    else:
        title = f"Day {loaded.day}" + (", closed before: nothing was written" if loaded.skipped else "")
        show(title, [{"table": name, "rows": rows} for name, rows in loaded.rows.items()])


@app.command("ingest")
def ingest_command(
    sources: Annotated[list[str] | None, typer.Argument(help="JSON or JSONL, packed or not; - reads stdin.")] = None,
    api: Annotated[bool, typer.Option("--api", help="Fetch the live account through Stripe's API.")] = False,
    account: Annotated[str | None, typer.Option(help="Connected account these objects belong to.")] = None,
    drift: Annotated[bool, typer.Option("--drift", help="Show what came that we do not model.")] = False,
    as_json: Json = False,
) -> None:
    """Take Stripe's events, objects and exports in: landed sealed, then normalised. Safe to kill and to repeat.

    Examples: stripe-platform ingest events.jsonl.gz · stripe listen --print-json | stripe-platform ingest - ·
    stripe-platform ingest --api
    """
    from stripe_platform import progress
    from stripe_platform.ingest.stripe import command
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    settings = load_settings()
    report: dict[str, Any] = {}
    if sources or api or not drift:
        with progress.enabled():
            report = command.ingest(settings, sources or [], api=api, account=account)
    if drift:
        report["drift"] = command.drift(settings)
    if as_json:
        emit(report)
    else:
        _show_ingest(report, show)
    if report.get("lost"):
        raise typer.Exit(1)


def _show_ingest(report: dict[str, Any], show: Any) -> None:
    if "kinds" in report:
        kinds = sorted(report["kinds"].values(), key=lambda row: (row["share"] is None, -row["received"], row["kind"]))
        rows = [{**row, "share": "" if row["share"] is None else f"{row['share']:.1%}"} for row in kinds]
        share = report["normalised_share"]
        note = ", ".join([
            f"{report['received']:,} received", f"{report['normalised']:,} normalised",
            f"{report['quarantined']:,} in quarantine", f"{report['unmodelled']:,} of kinds we only keep",
            f"{report['lost']:,} lost", *([] if share is None else [f"share {share:.2%}"])])  # fmt: skip
        show("Received", rows[:MAX_SHOWN], note=f"{note}{'' if len(rows) <= MAX_SHOWN else '; all kinds: --json'}")
    if report.get("skipped"):
        show("Not for this key", [{"kind": k, "answer": v} for k, v in report["skipped"].items()])
    if "drift" in report:
        show("Drift", report["drift"][:MAX_SHOWN], note=_more(report["drift"]))


@serve_app.command("api")
def serve_api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes.")] = 1,
) -> None:
    """Serve /v1 to merchants' programs, Stripe's SDKs among them, and send their webhooks. Stop with Ctrl-C.

    Example: stripe-platform serve api --port 8000 --workers 2
    """
    from stripe_platform.api import server

    server.serve(host, port, workers)


@key_app.command("create")
def key_create(
    account: Annotated[str, typer.Option(help="The merchant's account id.")],
    scope: Annotated[list[str], typer.Option(help="RESOURCE:read or RESOURCE:write, * for all; may repeat.")],
    expires: Annotated[dt.date | None, typer.Option(parser=day, metavar="YYYY-MM-DD", help="Last day, UTC.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show its secret, this once. Example: api-key create --account acct_... --scope '*:write'"""
    import psycopg

    from stripe_platform.keyring import open_keyring
    from stripe_platform.oltp.api_keys import create_key
    from stripe_platform.settings import load_settings

    settings = load_settings()
    ends = dt.datetime.combine(expires, dt.time.max, dt.UTC) if expires else None
    with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
        made, secret = create_key(conn, open_keyring(settings), account_id=account, scopes=scope, expires_at=ends)
    if as_json:
        emit({"id": made, "secret": secret})
    else:
        typer.echo(f"{made}\n{secret}\nKeep the secret: it is not shown again.")


@key_app.command("list")
def key_list(
    account: Annotated[str | None, typer.Option(help="Only this merchant's.")] = None, as_json: Json = False,
) -> None:
    """Show keys without their secrets. Example: api-key list"""
    import psycopg

    from stripe_platform.oltp.api_keys import list_keys
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    with psycopg.connect(load_settings().need("oltp_dsn")) as conn:
        rows = list_keys(conn, account)
    emit(rows) if as_json else show("Keys", [{**row, "scopes": " ".join(row["scopes"])} for row in rows])


@key_app.command("revoke")
def key_revoke(key: Annotated[str, typer.Argument(help="The key's id, key_...")]) -> None:
    """A key opens nothing from here on. Example: api-key revoke key_..."""
    import psycopg

    from stripe_platform.oltp.api_keys import revoke_key
    from stripe_platform.settings import load_settings

    with psycopg.connect(load_settings().need("oltp_dsn"), autocommit=True) as conn:
        revoke_key(conn, key)
    typer.echo(f"{key} is revoked")


@serve_app.command("webhooks")
def serve_webhooks(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8081,
    host: Annotated[str, typer.Option(help="Address to listen on; a proxy in front ends TLS.")] = "127.0.0.1",
) -> None:
    """Listen for Stripe's webhooks at /webhooks/stripe; signatures are verified. Stop with Ctrl-C."""
    from stripe_platform.api import webhooks
    from stripe_platform.settings import load_settings

    webhooks.serve(load_settings(), host, port)


@bench_app.command("oltp")
def bench_oltp(
    seconds: Annotated[float, typer.Option(help="Length of one measurement.")] = 4,
    deep: Annotated[bool, typer.Option(help="Also from 10^5 to 10^6 stored charges.")] = False,
    guards: Annotated[bool, typer.Option(help="Also with ever fewer triggers, keys, checks and indexes.")] = False,
    as_json: Json = False,
) -> None:
    """Whole payments per second beside pgbench on the same server. Example: stripe-platform bench oltp --json"""
    from stripe_platform import local, progress
    from stripe_platform.embedded import servers
    from stripe_platform.oltp.bench import bench
    from stripe_platform.settings import data_folder, load_settings
    from stripe_platform.tables import show

    local.up()
    with progress.enabled():
        report = bench(load_settings(), servers.superuser(data_folder(), "oltp"), seconds=seconds, deep=deep,
                       guards=guards)
    if as_json:
        emit(report.as_json())
    else:
        show("Payments beside pgbench", report.rows())
        show("Bars", [{"bar": name, **bar} for name, bar in report.bars.items()])


@reference_app.command("sync")
def reference_sync(as_json: Json = False) -> None:
    """Bring the OLTP's copies up to the reference and deliver what waits. Example: stripe-platform reference sync"""
    from dataclasses import asdict

    from stripe_platform.reference.outbox import relay
    from stripe_platform.settings import load_settings
    from stripe_platform.tables import show

    report = relay(load_settings())
    facts = {"done": report.done, **asdict(report.sync)}
    emit({**facts, "problems": report.problems}) if as_json else show(
        "Reference", [{"what": k, "value": str(v)} for k, v in facts.items()], note="\n".join(report.problems) or None)
    if report.problems:
        raise typer.Exit(1)


@ha_app.command("drill")
def ha_drill(
    seconds: Annotated[float, typer.Option(min=1, help="Load before the kill.")] = 10.0,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Concurrent writers.")] = 4,
    as_json: Json = False,
) -> None:
    """Kill a primary under load on two servers of the drill's own, fail over, switch back; your data stay untouched.

    Exit code 1 when a bar is missed. Example: stripe-platform ha drill --json
    """
    from stripe_platform import progress
    from stripe_platform.embedded.drill import drill
    from stripe_platform.settings import data_folder
    from stripe_platform.tables import show

    with progress.enabled():
        report = drill(data_folder() / "drills", seconds=seconds, clients=clients)
    bars = report["bars"]
    if as_json:
        emit(report)
    else:
        hidden = ("bars", "cdc", "figures", "machine", "ratios", "bench")
        show("Failover drill", [{"what": k, "value": str(v)} for k, v in report.items() if k not in hidden])
        show("Change log", [{"what": k, "value": str(v)} for k, v in report["cdc"].items() if k != "tables"])
        show("Bars", [{"bar": name, **{k: str(v) for k, v in bar.items()}} for name, bar in bars.items()])
    if not all(bar["met"] for bar in bars.values()):
        raise typer.Exit(1)


def _more(items: list[dict[str, object]]) -> str | None:
    return f"and {len(items) - MAX_SHOWN:,} more: see --json" if len(items) > MAX_SHOWN else None


def main() -> None:
    """Entry point: one sentence per error, no traceback unless asked."""
    try:
        app()
    except Exception as error:
        if os.environ.get("STRIPE_PLATFORM_DEBUG"):
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"stripe-platform: {sentence(error)}", markup=False)
        sys.exit(1)


# Where a store that does not answer shows itself, by module: only those already imported can have raised.
UNREACHABLE = {
    "psycopg": "OperationalError", "sqlalchemy.exc": "OperationalError", "pymongo.errors": "ConnectionFailure",
    "dagster_postgres.utils": "DagsterPostgresException",
}


def sentence(error: Exception) -> str:
    """An error in one sentence with its remedy; those of servers and folders come without one."""
    kinds = tuple(getattr(sys.modules[module], name) for module, name in UNREACHABLE.items() if module in sys.modules)
    if isinstance(error, kinds) and getattr(error, "sqlstate", None) is None:
        return f"a store does not answer ({type(error).__module__}.{type(error).__name__}): run `stripe-platform up`"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; name another folder, or mend its permissions"
    return str(error)
