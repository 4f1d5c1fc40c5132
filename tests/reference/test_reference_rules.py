"""What the reference accepts can be copied; who may write what; what an older database held comes back as it was."""

from __future__ import annotations

import psycopg
import pytest
from killing import die, in_child
from psycopg import sql
from reference_states import differing, one

from stripe_platform.cdc.capture import capture
from stripe_platform.keys import REFERENCE_TABLES
from stripe_platform.oltp import write as oltp_write
from stripe_platform.oltp.copies import COPIES, MERCHANTS_OWN
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.oltp.schema import read_catalogue, render
from stripe_platform.reference.database import MIGRATIONS, REFERENCE, SCHEMA_FILE, connect, migrate
from stripe_platform.reference.fill import fill
from stripe_platform.reference.sync import prepare
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers

_RULES = """
select pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype in ('c', 'f')
    and conkey <@ (select array_agg(attnum) from pg_attribute where attrelid = %s::regclass and attname = any(%s))
"""
_NEEDED = "select attname from pg_attribute where attrelid = %s::regclass and attnotnull and attname = any(%s)"


def test_schema_json_is_what_the_live_catalogue_says(both: Settings):
    """Stale? `python -m stripe_platform.reference.database` writes it anew."""
    with psycopg.connect(both.need("reference_owner_dsn")) as conn:
        assert SCHEMA_FILE.read_text() == render(read_catalogue(conn, REFERENCE_TABLES, "reference"))


def test_migrating_twice_changes_nothing(both: Settings):
    report = migrate(both.need("reference_owner_dsn"))
    assert report.applied == []
    assert report.present == [f.name for f in sorted(MIGRATIONS.glob("*.sql"))]


@pytest.mark.parametrize("each", COPIES, ids=lambda each: each.table)
def test_the_reference_is_as_strict_as_its_copy(both: Settings, each):
    """A row that the copy refused would hold up all that follow."""
    with (psycopg.connect(both.need("reference_owner_dsn")) as there,
          psycopg.connect(both.need("oltp_owner_dsn")) as here):
        source, copied = f"reference.{each.origin}", f"oltp.{each.table}"
        needed = {row[0] for row in here.execute(_NEEDED, [copied, list(each.names)])}
        given = {each.columns[row[0]] for row in there.execute(_NEEDED, [source, list(each.columns)])}
        assert needed <= given
        rules = {_plain(row[0]) for row in here.execute(_RULES, [copied, copied, list(each.names)])}
        held = {_plain(row[0]) for row in there.execute(_RULES, [source, source, list(each.columns)])}
        assert rules <= held
        types = [{name: _type(conn, table, name) for name in names} for conn, table, names in (
            (there, source, each.columns), (here, copied, each.names))]
        assert {each.columns[name]: kind for name, kind in types[0].items()} == types[1]


def _plain(rule: str) -> str:
    """A rule without what the two sides name differently."""
    return rule.replace("reference.merchants", "oltp.accounts").replace("reference.", "oltp.").replace(
        "(merchant_id)", "(account_id)")


def _type(conn: psycopg.Connection, table: str, column: str) -> str:
    row = conn.execute("select format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass"
                       " and attname = %s", [table, column]).fetchone()
    assert row is not None, f"{table} has no {column}"
    return row[0]


NOT_THE_COPIERS = (
    "update oltp.accounts set charges_enabled = false", "select email_ciphertext from oltp.accounts",
    "delete from oltp.accounts", "select * from oltp.customers", "update oltp.prices set active = true",
    "insert into ops.day_ledger values ('oltp', '2026-06-01')", "select * from vault.subject_keys",
    "create table oltp.mine (id text)",
)
NOT_THE_APPS = (
    "create table reference.mine (id text)", "truncate reference.products", "drop table ops.outbox",
    "delete from ops.filled", "delete from ops.outbox", "alter table reference.products add x text",
    "insert into ops.migrations values ('x', 'y')",
)


NOT_THE_PAYMENTS_APPS = (
    *(f"insert into oltp.{copy.table} ({copy.key[0]}) values (null)" for copy in COPIES),
    *(f"delete from oltp.{copy.table}" for copy in COPIES),
    *(f"update oltp.{copy.table} set {name} = null" for copy in COPIES for name in copy.names
      if copy.table != "products" or name not in MERCHANTS_OWN),
    "insert into ops.copied values ('reference', 1, '', '', 0, 0)", "update ops.copied set seq = 0",
)


def test_the_payments_app_writes_no_copied_column_and_its_own_ones(both: Settings):
    with psycopg.connect(both.need("oltp_dsn"), autocommit=True) as conn:
        for statement in NOT_THE_PAYMENTS_APPS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)  # type: ignore[call-overload]
        conn.execute("update oltp.accounts set charges_enabled = false, payouts_enabled = false,"
                     " details_submitted = true, email_ciphertext = null, metadata_ciphertext = null")
        conn.execute("update oltp.products set default_price_id = null, metadata_ciphertext = null")


def test_the_copier_writes_its_columns_and_sees_nothing_else(both: Settings):
    with psycopg.connect(both.need("reference_copier_dsn"), autocommit=True) as conn:
        for statement in NOT_THE_COPIERS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)  # type: ignore[call-overload]


def test_the_references_app_changes_no_structure_and_no_history(both: Settings):
    with connect(both) as conn:
        for statement in NOT_THE_APPS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)  # type: ignore[call-overload]


def test_the_publication_holds_the_references_tables_and_nothing_of_ops(both: Settings):
    with psycopg.connect(both.need("reference_owner_dsn")) as conn:
        published = conn.execute("select schemaname, tablename from pg_publication_tables where pubname = %s",
                                 [both.reference_publication]).fetchall()
    assert set(published) == {("reference", t.name) for t in REFERENCE_TABLES}


@pytest.fixture
def older(both: Settings) -> Settings:
    """A payments database whose tables were the only place of merchants, rates and currencies."""
    with psycopg.connect(both.need("oltp_owner_dsn"), autocommit=True) as conn:
        seed_reference(conn)
        conn.execute("update oltp.currencies set name = 'Euro, renamed' where code = 'eur'")
        conn.execute("insert into oltp.currencies values ('xxx', 'Own', 2, 2)")
        conn.execute("insert into oltp.countries values ('XX', 'Own', 'Elsewhere', 'xxx')")
        for number in range(3):
            oltp_write.create_account(conn, name=f"Shop {number}", country="XX", currency="xxx", mcc="5411")
        conn.execute("insert into oltp.exchange_rates values ('2026-06-01', 'usd', 'eur', '0.9123456789')")
        conn.execute("insert into oltp.products (id, name, account_id)"
                     " select 'prod_1', 'Cup', min(id) from oltp.accounts")
    return both


def places(settings: Settings) -> set[tuple]:
    """Every row of the copies with the transaction that wrote it."""
    with psycopg.connect(settings.need("oltp_owner_dsn")) as conn:
        query = sql.SQL("select {}, xmin::text, t::text from {} t")
        return {row for each in COPIES
                for row in conn.execute(query.format(each.table, sql.Identifier("oltp", each.table)))}


def test_the_rows_of_an_older_database_are_taken_over_once_and_come_back_unchanged(older: Settings):
    before = places(older)
    assert prepare(older).copied.keys() == {"currencies", "countries"}, "what it lacked of the world is new"
    standing = places(older)
    assert before < standing, "a copy that equals its source is not written again"
    assert differing(older) == []
    assert one(older, "select name from reference.currencies where code = 'eur'", "reference_dsn") == ("Euro, renamed",)
    assert one(older, "select name from reference.regions where code = 'Elsewhere'", "reference_dsn") == ("Elsewhere",)
    with connect(older) as conn:
        assert fill(conn, older) == 0
    prepare(older)
    assert places(older) == standing


@pytest.mark.parametrize("point", ["in the filling", "before the copies"])
def test_a_take_over_killed_midway_is_done_by_the_next_one(
        older: Settings, monkeypatch: pytest.MonkeyPatch, point: str):
    before = places(older)

    def work() -> None:
        from stripe_platform.reference import fill as filling

        if point == "in the filling":
            monkeypatch.setitem(filling.PUT, "merchants", die)
        else:
            monkeypatch.setattr("stripe_platform.reference.sync.sync", die)
        prepare(older)

    in_child(work)
    held = one(older, "select count(*) from reference.merchants", "reference_dsn")
    assert held == ((0,) if point == "in the filling" else (3,))
    prepare(older)
    assert differing(older) == []
    assert before < places(older)
    capture(older, lake=REFERENCE.lake(older), source=REFERENCE)
