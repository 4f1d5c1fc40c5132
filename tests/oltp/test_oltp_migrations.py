"""The database is what the migrations say, its description is what the database says, and the app cannot change it."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from stripe_platform.keys import OLTP_TABLES
from stripe_platform.oltp.migrate import MIGRATIONS, MigrationError, make_partitions, migrate
from stripe_platform.oltp.schema import SCHEMA_FILE, load_schema, read_catalogue, render
from stripe_platform.settings import Settings

JUNE = dt.date(2026, 6, 1)


def test_schema_json_is_what_the_live_catalogue_says(oltp: Settings):
    """Stale? `python -m stripe_platform.oltp.schema` writes it anew."""
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        assert SCHEMA_FILE.read_text() == render(read_catalogue(conn))


def test_keys_and_sensitive_columns_of_the_declaration_stand_in_the_schema():
    schema = load_schema()
    assert list(schema) == [t.name for t in OLTP_TABLES]
    for table in OLTP_TABLES:
        assert schema[table.name].key == table.key
        for column in schema[table.name].sensitive:
            assert schema[table.name].column(column).type == "bytea"


def test_every_sensitive_looking_column_is_ciphertext():
    for table in load_schema().values():
        for column in table.columns:
            assert "email" not in column.name or column.type == "bytea", f"{table.name}.{column.name}"
            sealed = column.name.endswith(("_ciphertext", "_hash"))
            assert column.type != "bytea" or sealed, f"{table.name}.{column.name}"


def test_every_table_of_the_schema_is_declared(oltp: Settings):
    query = (
        "select relname from pg_class"
        " where relnamespace = 'oltp'::regnamespace and relkind in ('r', 'p') and not relispartition"
    )
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        assert {row[0] for row in conn.execute(query)} == {t.name for t in OLTP_TABLES}


def test_migrating_twice_changes_nothing(oltp: Settings):
    report = migrate(oltp.need("oltp_owner_dsn"))
    assert report.applied == []
    assert report.partitions == 0
    assert report.present == [f.name for f in sorted(MIGRATIONS.glob("*.sql"))]


def test_an_edited_migration_a_gap_and_a_missing_one_are_refused_by_name(oltp: Settings, tmp_path: Path):
    folder = shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    last = max(folder.glob("*.sql"))
    text, number = last.read_text(), int(last.name[:4])
    last.write_text(f"{text}-- edited\n")
    with pytest.raises(MigrationError, match=rf"{last.name} was edited"):
        migrate(oltp.need("oltp_owner_dsn"), folder=folder)
    gap = last.rename(folder / f"{number + 1:04d}{last.name[4:]}")
    with pytest.raises(MigrationError, match=rf"{gap.name}: .* without gaps"):
        migrate(oltp.need("oltp_owner_dsn"), folder=folder)
    gap.unlink()
    with pytest.raises(MigrationError, match=rf"{last.name}, which this release lacks"):
        migrate(oltp.need("oltp_owner_dsn"), folder=folder)
    last.write_text(text)
    assert migrate(oltp.need("oltp_owner_dsn"), folder=folder).applied == []


def test_a_failing_migration_leaves_nothing_behind(oltp: Settings, tmp_path: Path):
    folder = shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    last = len(list(folder.glob("*.sql"))) + 1
    (folder / f"{last:04d}_broken.sql").write_text("create table oltp.extra (id text primary key); select 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(oltp.need("oltp_owner_dsn"), folder=folder)
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        assert conn.execute("select to_regclass('oltp.extra')").fetchone() == (None,)


FORBIDDEN = (
    "create table oltp.mine (id text)", "alter table oltp.charges add column x text", "drop table oltp.refunds",
    "create schema mine", "create table public.mine (id text)", "truncate oltp.charges",
    "update ops.day_ledger set day = day", "delete from ops.load_day", "delete from ops.quarantine",
    "insert into ops.migrations values ('x', 'y')", "create publication mine",
    "update vault.subject_keys set subject = ''",
)  # fmt: skip


def test_the_apps_role_writes_rows_and_changes_no_structure(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as conn:
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)  # type: ignore[call-overload]


def test_the_cdc_role_can_read_no_table(oltp: Settings):
    with psycopg.connect(oltp.need("cdc_dsn")) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select * from oltp.customers")


def test_the_publication_holds_every_table_and_the_boundaries_and_never_keys_or_quarantine(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        published = {
            tuple(row)
            for row in conn.execute(
                "select schemaname, tablename from pg_publication_tables where pubname = %s", [oltp.cdc_publication]
            )
        }
        via_root = conn.execute(
            "select pubviaroot from pg_publication where pubname = %s", [oltp.cdc_publication]
        ).fetchone()
    assert published == {("oltp", t.name) for t in OLTP_TABLES} | {("ops", "day_ledger")}
    assert via_root == (True,)


def test_partitions_are_made_by_month_once_for_every_family(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as owner:
        families = {row[0] for row in owner.execute("select table_name from ops.partition_families")}
        rooted = "select relname from pg_class where relnamespace = 'oltp'::regnamespace and relkind = 'p'"
        assert families == {row[0] for row in owner.execute(rooted)}
        assert families >= {"payment_intents", "charges", "charge_outcomes", "balance_transactions", "fee_details"}
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        assert make_partitions(conn, JUNE, dt.date(2026, 7, 15)) == 2 * len(families)
        assert make_partitions(conn, JUNE, dt.date(2026, 7, 15)) == 0
        with pytest.raises(psycopg.errors.RaiseException, match="at most ten years"):
            make_partitions(conn, JUNE, dt.date(2126, 7, 15))


def test_the_app_reads_every_view_and_writes_none(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as conn:
        views = conn.execute("select viewname from pg_views where schemaname = 'compat'").fetchall()
        for (view,) in views:
            conn.execute(sql.SQL("select * from {}").format(sql.Identifier("compat", view)))
            for right in ("insert", "update", "delete", "truncate"):
                held = conn.execute("select has_table_privilege(%s, %s)", [f"compat.{view}", right]).fetchone()
                assert held == (False,), (view, right)
