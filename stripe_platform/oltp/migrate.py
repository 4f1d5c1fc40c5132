"""Brings a database to the schema of its `migrations/*.sql`: in order, once each, under a lock.

What was applied is recorded with its sha256 in `ops.migrations`; an applied file that was edited later is an error.
Grants, the publication and the partitions of the coming months are brought up to date on every call. Here for the
payments database; the reference database has its own folder and grants, and the same machinery.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from stripe_platform.oltp.copies import BY_TABLE, COPIER, COPIES, INGEST, MERCHANTS_OWN, STRIPES
from stripe_platform.settings import load_settings

MIGRATIONS = Path(__file__).parent / "migrations"
MONTHS_AHEAD = 1
_LOCK = 7_220_001  # advisory lock of migrations; any constant that no other part uses

_LEDGER = """
create schema if not exists ops;
create table if not exists ops.migrations (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);
"""


class MigrationError(RuntimeError):
    """The migration files and the database disagree; the message names the file and the remedy."""


# The app's role reads these; they are written by functions of the owner alone.
WRITTEN_BY_FUNCTIONS = frozenset({
    "ledger_account_kinds", "ledger_accounts", "ledger_balances", "ledger_entries", "ledger_postings",
    "ledger_reversals", "ledger_seals", "posting_rules",
})
# Functions of the ledger and of payments but those that begin with _, which are their inner parts.
_CALLABLE = """
select p.oid::regprocedure::text from pg_proc p
where p.pronamespace in ('ledger'::regnamespace, 'payments'::regnamespace) and p.proname not like '\\_%' order by 1
"""


@dataclass
class MigrationReport:
    """What a call did: files applied now, files that stood already, partitions made."""

    applied: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    partitions: int = 0


def migrate(
    owner_dsn: str, *, app_role: str = "payments_app", publication: str | None = None, folder: Path = MIGRATIONS
) -> MigrationReport:
    """Apply what is missing, in one transaction; harmless when repeated.

    `owner_dsn` is the role that owns the tables; `app_role` and the ingest's get DML only; `publication` (default:
    the setting `cdc_publication`) holds every table of schema `oltp` and `ops.day_ledger`.
    """
    with psycopg.connect(owner_dsn) as conn, conn.transaction():
        report = apply_files(conn, folder)
        for role in (need_role(conn, app_role), need_role(conn, INGEST)):
            _grant(conn, role)
        for table in STRIPES:
            conn.execute(sql.SQL("grant insert, update on {} to {}").format(
                sql.Identifier("oltp", table), sql.Identifier(INGEST)))
        conn.execute(sql.SQL("grant execute on function ops.refuse_others_rows(text, text, text[]) to {}").format(
            sql.Identifier(INGEST)))
        _publish(conn, publication or load_settings().cdc_publication)
        today = dt.datetime.now(dt.UTC).date()
        report.partitions = make_partitions(conn, today, today + dt.timedelta(days=31 * MONTHS_AHEAD))
    return report


def apply_files(conn: psycopg.Connection, folder: Path) -> MigrationReport:
    """Apply a folder's files that are missing, in the caller's transaction, one caller at a time."""
    report = MigrationReport()
    conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
    conn.execute(_LEDGER)
    applied = {row[0]: row[1] for row in conn.execute("select name, sha256 from ops.migrations")}
    for file in _files(folder):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if file.name in applied:
            if applied[file.name] != digest:
                raise MigrationError(
                    f"{file.name} was edited after it had been applied: restore it and add a new migration"
                )
            report.present.append(file.name)
            continue
        conn.execute(file.read_bytes())
        conn.execute("insert into ops.migrations (name, sha256) values (%s, %s)", [file.name, digest])
        report.applied.append(file.name)
    unknown = sorted(set(applied) - {file.name for file in _files(folder)})
    if unknown:
        raise MigrationError(f"the database holds {unknown[0]}, which this release lacks: update the release")
    return report


def make_partitions(conn: psycopg.Connection, first: dt.date, last: dt.date) -> int:
    """Monthly partitions covering `first`..`last` where missing; returns how many were made."""
    row = conn.execute("select ops.make_partitions(%s, %s)", [first, last]).fetchone()
    assert row is not None  # noqa: S101 - a scalar function always gives one row
    return int(row[0])


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.sql"))
    for position, file in enumerate(files, start=1):
        if not re.fullmatch(rf"{position:04d}_[a-z0-9_]+\.sql", file.name):
            raise MigrationError(f"{file.name}: migrations are numbered 0001, 0002, ... without gaps; rename it")
    return files


def need_role(conn: psycopg.Connection, name: str) -> sql.Identifier:
    """A role that must stand before grants are given to it."""
    if conn.execute("select 1 from pg_roles where rolname = %s", [name]).fetchone() is None:
        raise MigrationError(f"role {name} does not exist: create it with login before migrating")
    return sql.Identifier(name)


def _grant(conn: psycopg.Connection, role: sql.Identifier) -> None:
    for statement in (
        "revoke all on schema public from public",
        "revoke all on all tables in schema oltp, ops, vault, ingest from public",
        "revoke execute on all functions in schema ops, ledger, payments from public",
        "grant usage on schema oltp, ops, vault, ingest, ledger, payments to {role}",
        "grant select on ledger.unbooked to {role}",
        "grant usage on schema compat to {role}",
        "grant select on all tables in schema compat to {role}",
        "grant select, insert on ops.day_ledger, ops.load_day, ops.quarantine, ops.inbox to {role}",
        "grant select on ops.copied to {role}",
        "grant select on oltp.charges_default to {role}",  # what Stripe made is looked for without the other months
        "grant select on ops.migrations to {role}",
        "grant select, insert, delete on vault.subject_keys to {role}",
        "grant select, insert on vault.card_numbers to {role}",
        "grant insert on vault.cards to {role}",
        "grant select (payment_method_id, account_id, number_mac) on vault.cards to {role}",
        "grant select, insert on ops.api_keys to {role}",
        "grant update (revoked_at, last_used_at) on ops.api_keys to {role}",
        "grant select, insert, update on ingest.versions, ingest.drift, ingest.cursors to {role}",
        "grant select, insert on ingest.objects to {role}",
        "grant update (state, reason, status, rank) on ingest.objects to {role}",
        "grant select, insert, update, delete on ingest.pending_references to {role}",
        "grant execute on function ops.make_partitions(date, date) to {role}",
    ):
        conn.execute(sql.SQL(statement).format(role=role))
    for name in _roots(conn):
        reads = name in WRITTEN_BY_FUNCTIONS or name in BY_TABLE
        rights = sql.SQL("select" if reads else "select, insert, update, delete")
        table = sql.Identifier("oltp", name)
        conn.execute(sql.SQL("revoke all on {} from {}").format(table, role))
        conn.execute(sql.SQL("grant {} on {} to {}").format(rights, table, role))
    for (function,) in conn.execute(_CALLABLE).fetchall():
        conn.execute(sql.SQL("grant execute on function {} to {}").format(sql.SQL(function), role))
    _grant_copies(conn, role)


def _grant_copies(conn: psycopg.Connection, app: sql.Identifier) -> None:
    """One writer per column: the copier of what is copied, and it sees nothing else; the app of the rest."""
    copier = need_role(conn, COPIER)
    conn.execute(sql.SQL("grant usage on schema oltp, ops to {}").format(copier))
    conn.execute(sql.SQL("grant select, insert, update on ops.copied to {}").format(copier))
    for copy in COPIES:
        table, columns = sql.Identifier("oltp", copy.table), sql.SQL(", ").join(map(sql.Identifier, copy.names))
        conn.execute(sql.SQL("grant select ({0}), insert ({0}), update ({0}) on {1} to {2}").format(
            columns, table, copier))
        own = [name for (name,) in conn.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " and attname <> all (%s) order by attnum", [f"oltp.{copy.table}", list(copy.names)]).fetchall()]
        own += [name for name in MERCHANTS_OWN if copy.table == "products"]
        if own:
            conn.execute(sql.SQL("grant update ({}) on {} to {}").format(
                sql.SQL(", ").join(map(sql.Identifier, own)), table, app))
        if not copy.retires:
            conn.execute(sql.SQL("grant delete on {} to {}").format(table, copier))


def _publish(conn: psycopg.Connection, publication: str) -> None:
    roots = [sql.Identifier("oltp", table) for table in _roots(conn)]
    publish(conn, publication, [*roots, sql.Identifier("ops", "day_ledger")])


def publish(conn: psycopg.Connection, publication: str, names: Sequence[sql.Identifier]) -> None:
    """Make the publication hold exactly these tables."""
    # FOR TABLES IN SCHEMA needs a superuser; a list of the root tables does not, and partitions follow their root.
    name, tables = sql.Identifier(publication), sql.SQL(", ").join(names)
    if conn.execute("select 1 from pg_publication where pubname = %s", [publication]).fetchone() is None:
        statement = sql.SQL("create publication {} for table {} with (publish_via_partition_root = true)")
        conn.execute(statement.format(name, tables))
    else:
        conn.execute(sql.SQL("alter publication {} set table {}").format(name, tables))


def _roots(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute(
        "select relname from pg_class where relnamespace = 'oltp'::regnamespace and relkind in ('r', 'p')"
        " and not relispartition order by relname"
    )
    return [row[0] for row in rows]
