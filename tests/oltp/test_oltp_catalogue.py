"""Every rule of every table, found in the live catalogue, refuses a row that breaks it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from catalogue_rows import Maker
from oltp_rows import insert, insert_all
from psycopg import sql
from test_oltp_rules import BAD

from stripe_platform.settings import Settings


@pytest.fixture
def maker(oltp: Settings) -> Iterator[Maker]:
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        yield Maker(conn)
        conn.rollback()


def test_no_check_and_no_foreign_key_is_without_a_row_that_it_alone_refuses(maker: Maker):
    by_hand, lacking = {rule for _, _, rule in BAD}, []
    for name, table in maker.tables.items():
        good = maker.good(name)
        with maker.conn.transaction(force_rollback=True):
            maker.insert(name, maker.good(name, bare=True))  # nothing more than this is demanded
        for rule in (rule for rule in table.rules if rule.kind != "u"):
            spoilt = ({**good, **changes} for changes in maker.bad(rule))
            if not any(maker.refused_alone(rule, row) for row in spoilt) and rule.name not in by_hand:
                lacking.append(f"{name}: {rule.name}")
        maker.insert(name, good)  # only then: a bad row was bad for its own sake, not for a missing parent
        maker.rows[name] = good
    assert not lacking, f"give these a row, in BAD of test_oltp_rules or SPOILT of catalogue_rows: {', '.join(lacking)}"


def test_every_column_that_must_have_a_value_refuses_null(maker: Maker):
    maker.insert_all()
    for name, table in maker.tables.items():
        identities = {row[0] for row in maker.conn.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attidentity <> ''", [name])}
        for column in (c for c in table.columns.values() if c.mandatory and c.name not in identities):
            with pytest.raises(psycopg.errors.NotNullViolation) as refused, maker.conn.transaction():
                maker.insert(name, {**maker.rows[name], column.name: None})
            assert refused.value.diag.column_name == column.name, (name, column.name)


def test_every_key_refuses_a_second_row_of_the_same(maker: Maker):
    conn = maker.conn
    maker.insert_all()
    for name, table in maker.tables.items():
        root = sql.Identifier(*name.split("."))
        conn.execute(sql.SQL("alter table {} disable trigger user").format(root))  # the key alone is asked
        row = conn.execute(sql.SQL("select * from {} limit 1").format(root))
        assert row.description is not None
        copy = dict(zip((c.name for c in row.description), row.fetchone() or (), strict=True))
        assert table.of("u"), f"{name} has no key"
        for rule in table.of("u"):
            with conn.transaction(force_rollback=True):
                for other in (each for each in table.of("u") if each.name != rule.name):
                    _drop(conn, name, other.name)
                with pytest.raises(psycopg.errors.UniqueViolation) as refused:
                    conn.execute(sql.SQL("insert into {} ({}) overriding system value values ({})").format(
                        root, sql.SQL(", ").join(map(sql.Identifier, copy)),
                        sql.SQL(", ").join(sql.Placeholder() * len(copy))), list(copy.values()))  # fmt: skip
            index = f"{name.split('.')[0]}.{refused.value.diag.constraint_name}"
            found = conn.execute("select coalesce(pg_partition_root(%s::regclass), %s::regclass)::text", [index, index])
            assert found.fetchone() == (f"{name.split('.')[0]}.{rule.name}",)


def _drop(conn: psycopg.Connection, table: str, key: str) -> None:
    root, index = sql.Identifier(*table.split(".")), sql.Identifier(table.split(".")[0], key)
    query = "select 1 from pg_constraint where conname = %s and conrelid = to_regclass(%s)"
    if conn.execute(query, [key, table]).fetchone():
        conn.execute(sql.SQL("alter table {} drop constraint {} cascade").format(root, sql.Identifier(key)))
    else:
        conn.execute(sql.SQL("drop index {}").format(index))


# What composite keys leave unsaid where a column is null, triggers say.
_GUEST: dict[str, Any] = {"customer_id": None, "payment_method_id": None, "terminal_id": None}
UNKNOWN_PARENTS: list[tuple[str, dict[str, Any], str]] = [
    ("charges", {**_GUEST, "payment_intent_id": "pi_9"}, "guests_charge_has_its_intent"),
    ("charges", {**_GUEST, "payment_intent_id": None, "account_id": "acct_9"}, "guests_charge_has_its_merchant"),
    ("charges", {**_GUEST, "payment_intent_id": None, "customer_id": "cus_9"}, "old_charge_has_its_payer"),
    ("charges", {**_GUEST, "payment_intent_id": None, "payment_method_id": "pm_9"}, "guests_charge_has_its_card"),
    ("charges", {**_GUEST, "payment_intent_id": None, "currency": "zzz"}, "guests_charge_has_its_currency"),
    ("charges", {**_GUEST, "account_id": None, "terminal_id": "tmr_9"}, "old_charge_has_its_terminal"),
    ("payment_intents", {"customer_id": None, "payment_method_id": "pm_9"}, "guests_intent_has_its_card"),
]


def test_what_a_guests_payment_names_must_exist(oltp: Settings):
    query = "select tgname from pg_trigger where tgfoid = 'ops.parent_must_exist'::regproc and tgparentid = 0"
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        assert {row[0] for row in conn.execute(query)} == {trigger for _, _, trigger in UNKNOWN_PARENTS}
        insert_all(conn)
        for number, (table, changes, trigger) in enumerate(UNKNOWN_PARENTS):
            with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused, conn.transaction():
                insert(conn, table, **{**changes, "id": f"x_{number}"})
            assert refused.value.diag.constraint_name == trigger
            known = {name: value for name, value in changes.items() if value is None}
            insert(conn, table, **{**known, "id": f"x_{number}"})
            named = {name: value for name, value in changes.items() if value is not None}
            with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused, conn.transaction():
                conn.execute(sql.SQL("update {} set {} where id = %s").format(
                    sql.Identifier("oltp", table),
                    sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in named),
                ), [*named.values(), f"x_{number}"])  # fmt: skip
            assert refused.value.diag.constraint_name == trigger


def test_every_change_of_a_status_is_kept_and_nothing_else(maker: Maker):
    conn = maker.conn
    maker.insert_all()
    watched = conn.execute(
        "select tgrelid::regclass::text from pg_trigger where tgname = 'keep_status_history' and tgparentid = 0"
    ).fetchall()
    assert len(watched) > 10
    conn.execute("update oltp.charges set amount_captured = 0")  # a charge that took money has one status only
    for (name,) in watched:
        root = sql.Identifier(*name.split("."))
        with suppress(psycopg.errors.UndefinedObject), conn.transaction():  # which moves are allowed is told elsewhere
            conn.execute(sql.SQL("alter table {} disable trigger status_must_move").format(root))
        before = conn.execute("select count(*) from oltp.status_history").fetchone()
        assert before is not None
        row, key = maker.rows[name], maker.rows[name]["id"]
        (check,) = (r for r in maker.tables[name].of("c") if r.columns == ("status",))
        update = sql.SQL("update {} set status = %s where id = %s").format(root)
        conn.execute(update, [row["status"], key])  # no change, nothing to keep
        for status in re.findall("'([^']+)'::text", check.text):
            with suppress(psycopg.errors.CheckViolation), conn.transaction():
                if status != row["status"]:
                    conn.execute(update, [status, key])
                    break
        kept = conn.execute(
            "select from_status, to_status from oltp.status_history where object_id = %s", [key]).fetchall()
        assert kept[-1] == (row["status"], status), name
        assert conn.execute("select count(*) from oltp.status_history").fetchone() == (before[0] + 1,), name
