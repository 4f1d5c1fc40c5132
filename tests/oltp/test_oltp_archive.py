"""Months that lie long back are detached whole, under a running load, and come back as they were."""

from __future__ import annotations

import datetime as dt
import threading
from contextlib import suppress

import psycopg
import pytest
from oltp_rows import insert, insert_all
from psycopg import sql

from stripe_platform.oltp.ids import boundary_id
from stripe_platform.oltp.migrate import make_partitions, migrate
from stripe_platform.settings import Settings

MARCH, APRIL, MAY = dt.date(2026, 3, 1), dt.date(2026, 4, 1), dt.date(2026, 5, 1)
FAMILIES = ("payment_intents", "charges", "charge_outcomes")


def pay(conn: psycopg.Connection, month: dt.date, number: int = 0) -> str:
    """A payment whose ids lie in the month; the charge's id."""
    intent, name = (f"{boundary_id(prefix, month + dt.timedelta(days=9))}{number}" for prefix in ("pi", "ch"))
    insert(conn, "payment_intents", id=intent)
    insert(conn, "charges", id=name, payment_intent_id=intent, terminal_id=None)
    insert(conn, "charge_outcomes", charge_id=name)
    return name


@pytest.fixture
def months(oltp: Settings) -> Settings:
    """Payments in March and April 2026, each month in partitions of its own."""
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        make_partitions(conn, MARCH, APRIL)
        insert_all(conn, until="payment_intents")
        pay(conn, MARCH)
        pay(conn, APRIL)
    return oltp


def counts(conn: psycopg.Connection) -> tuple[int, ...]:
    found = conn.execute("select " + ", ".join(f"(select count(*) from oltp.{t})" for t in FAMILIES)).fetchone()  # type: ignore[call-overload]
    assert found is not None
    return tuple(found)


def shape(conn: psycopg.Connection, partition: str) -> list[tuple]:
    """Constraints, indexes and triggers of a partition."""
    name = f"oltp.{partition}"
    return conn.execute(
        "select 'c', regexp_replace(pg_get_constraintdef(oid), '\\s+', ' ', 'g') from pg_constraint"
        " where conrelid = %s::regclass and contype in ('c', 'f', 'p', 'u') union all"
        " select 'i', regexp_replace(indexdef, ' INDEX \\w+', '') from pg_indexes"
        " where schemaname || '.' || tablename = %s union all"
        " select 't', tgname || tgenabled::text from pg_trigger where tgrelid = %s::regclass and not tgisinternal"
        " order by 1, 2", [name, name, name]).fetchall()  # fmt: skip


def test_a_month_leaves_and_comes_back_with_every_row_key_and_trigger(months: Settings):
    with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
        parts = [row[0] for row in owner.execute(
            "select table_name || '_2026_03' from ops.partition_families order by 1")]  # fmt: skip
        before = {part: shape(owner, part) for part in parts}
        rows = owner.execute("select * from oltp.charges order by id").fetchall()
        assert owner.execute("select * from ops.detach_partitions('2026-03-31')").fetchall() == []
        left = owner.execute("select * from ops.detach_partitions('2026-04-01')").fetchall()
        assert left == [(MARCH, len(parts), None)]
        assert counts(owner) == (1, 1, 1)
        assert owner.execute("select count(*) from archive.charges_2026_03").fetchone() == (1,)
        assert migrate(months.need("oltp_owner_dsn")).applied == []  # grants and publication do not take it back
        published = owner.execute("select count(*) from pg_publication_tables where schemaname = 'archive'").fetchone()
        assert published == (0,)
        assert owner.execute("select ops.attach_partitions('2026-03-01', '2026-03-31')").fetchone() == (len(parts),)
        assert counts(owner) == (2, 2, 2)
        assert owner.execute("select * from oltp.charges order by id").fetchall() == rows
        assert {part: shape(owner, part) for part in parts} == before
    with psycopg.connect(months.need("oltp_dsn")) as app:
        row = app.execute("select tableoid::regclass::text from oltp.charges where id = %s", [pay(app, MARCH, 1)])
        assert row.fetchone() == ("oltp.charges_2026_03",)


def test_the_oldest_month_leaves_first_and_one_at_a_time(months: Settings):
    with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
        detach = "select month, held_by from ops.detach_partitions('2026-05-01')"
        assert owner.execute(detach).fetchall() == [(MARCH, None)]
        assert owner.execute(detach).fetchall() == [(APRIL, None)]
        assert owner.execute(detach).fetchall() == []
        assert owner.execute("select ops.attach_partitions('2026-03-01', '2026-04-30')").fetchone() != (0,)
        assert len(owner.execute("select * from ops.detach_partitions('2026-05-01', 9)").fetchall()) == 2


def test_a_month_that_something_still_names_stays_whole(months: Settings):
    with psycopg.connect(months.need("oltp_dsn")) as app:
        insert(app, "refunds", charge_id=pay(app, MARCH, 2))
    with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
        found = owner.execute("select month, partitions, held_by from ops.detach_partitions('2026-04-01')").fetchall()
        assert found == [(MARCH, 0, "refunds")]
        assert counts(owner) == (3, 3, 3)
        attached = owner.execute("select to_regclass('oltp.charge_outcomes_2026_03') is not null").fetchone()
        assert attached == (True,)


def test_rows_written_meanwhile_are_not_covered_by_what_comes_back(months: Settings):
    with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("select ops.detach_partitions('2026-04-01')")
        make_partitions(owner, MARCH, MARCH)
        assert owner.execute("select ops.attach_partitions('2026-03-01', '2026-03-31')").fetchone() != (0,)
        owner.execute("select ops.detach_partitions('2026-04-01')")
        make_partitions(owner, MARCH, MARCH)
        with psycopg.connect(months.need("oltp_dsn")) as app:
            pay(app, MARCH, 3)
        with pytest.raises(psycopg.errors.RaiseException, match=r"payment_intents_2026_03 has rows again"):
            owner.execute("select ops.attach_partitions('2026-03-01', '2026-03-31')")


def test_payments_go_on_while_a_month_leaves_and_comes_back(months: Settings):
    stop, done, errors = threading.Event(), [0, 0], []

    def write(number: int) -> None:
        try:
            with psycopg.connect(months.need("oltp_dsn"), autocommit=True) as app:
                while not stop.is_set():
                    with app.transaction():
                        pay(app, APRIL, 10 + 2 * done[number] + number)
                    done[number] += 1
        except psycopg.Error as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    moves = 0
    try:
        with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
            for statement in ("detach_partitions('2026-04-01')", "attach_partitions('2026-03-01', '2026-03-31')") * 3:
                for _ in range(20):  # whoever meets a lock tries again
                    with suppress(psycopg.errors.LockNotAvailable):
                        moves += owner.execute(sql.SQL(f"select ops.{statement}")).rowcount  # type: ignore[arg-type]
                        break
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert errors == []
    assert moves == 6
    assert min(done) > 0


def test_a_long_reader_is_not_waited_for(months: Settings):
    with psycopg.connect(months.need("oltp_dsn")) as reader:
        reader.execute("select count(*) from oltp.charges")
        with psycopg.connect(months.need("oltp_owner_dsn"), autocommit=True) as owner:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                owner.execute("select ops.detach_partitions('2026-04-01')")
            assert counts(owner) == (2, 2, 2)


def test_only_the_owner_detaches_and_sees_the_archive(months: Settings):
    with psycopg.connect(months.need("oltp_dsn"), autocommit=True) as app:
        for statement in ("select ops.detach_partitions('2026-04-01')",
                          "select ops.attach_partitions('2026-03-01', '2026-03-31')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(sql.SQL(statement))
        held = app.execute("select has_schema_privilege('archive', 'usage')").fetchone()
        assert held == (False,)
