"""What `stripe-platform ingest` does: choose the source, import it, say what became of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import Report, import_records
from stripe_platform.ingest.stripe.reading import Record, UnreadableError, read_file, read_stream
from stripe_platform.keyring import open_keyring
from stripe_platform.settings import Settings

STDIN = "-"


class IngestError(RuntimeError):
    """What was asked for cannot be done; one sentence with the remedy."""


def ingest(settings: Settings, sources: Sequence[str], *, api: bool, account: str | None) -> dict[str, Any]:
    """Import files, standard input or the live account; the report as one JSON object."""
    if bool(sources) == api:
        raise IngestError("name files, - for standard input, or --api for the live account")
    if account is not None:
        account = _account(account)
    ring = open_keyring(settings)
    with psycopg.connect(settings.need("ingest_dsn"), autocommit=True) as conn:
        if api:
            from stripe_platform.ingest.stripe.backfill import backfill

            found = backfill(conn, ring, settings, account)
            return {**found.report.as_json(), "skipped": found.skipped}
        report = Report()
        for source in sources:
            name = "standard input" if source == STDIN else Path(source).name
            import_records(conn, ring, _records(source), Delivery(name, account), report)
        return report.as_json()


def drift(settings: Settings) -> list[dict[str, Any]]:
    """What came that we do not model, by kind and field; the most frequent first."""
    with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
        rows = conn.execute(
            "select kind, path, rule, seen, coalesce(first_version, ''), coalesce(last_version, '') from ingest.drift"
            " order by seen desc, kind, path, rule").fetchall()
    names = ("kind", "path", "rule", "seen", "first_version", "last_version")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _records(source: str) -> Iterator[Record]:
    if source == STDIN:
        return read_stream(sys.stdin.buffer, "standard input")
    if Path(source).is_dir():
        raise UnreadableError(f"{source} is a folder: name the files in it")
    return read_file(Path(source))


def _account(value: str) -> str:
    try:
        found = values.ident(value, "")
    except values.InvalidError:
        found = None
    if found is None:
        raise IngestError("--account is no account id: give one as Stripe writes it, acct_...")
    return found
