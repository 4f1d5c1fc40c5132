"""The fixtures that all rooms stand on."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pymongo
import pytest

from stripe_platform.settings import Settings, load_settings


def test_a_fresh_payments_database_has_the_tables_and_none_of_another_tests_rows(oltp: Settings) -> None:
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as connection:
        assert connection.execute("select count(*) from oltp.charges").fetchone() == (0,)
        connection.execute("create table public.trace ()")


def test_the_capture_role_can_replicate_but_not_read_tables(oltp: Settings) -> None:
    with psycopg.connect(oltp.need("cdc_dsn"), autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [oltp.cdc_slot])
        slots = connection.execute("select slot_name, database from pg_replication_slots").fetchall()
        assert slots == [(oltp.cdc_slot, connection.info.dbname)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select count(*) from oltp.charges")
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as connection:
        assert connection.execute("select to_regclass('public.trace')").fetchone() == (None,)


def test_servers_speak_utc_and_sort_by_code_point(oltp: Settings, warehouse: Settings) -> None:
    settings = load_settings()
    for name in ("oltp_dsn", "warehouse_dsn"):
        with psycopg.connect(settings.need(name)) as connection:
            row = connection.execute(
                "select current_setting('timezone'), current_setting('server_encoding'), 'Z' < 'a', lower('Ä')"
            ).fetchone()
            assert row == ("UTC", "UTF8", True, "ä")


def test_the_document_database_is_fresh_and_has_transactions(mongo: Settings) -> None:
    with pymongo.MongoClient(mongo.need("mongodb_uri")) as client:
        database = client[mongo.mongodb_database]
        assert database.list_collection_names() == []
        database.things.insert_one({"_id": 1})
        with client.start_session() as session, session.start_transaction():
            database.things.insert_one({"_id": 2}, session=session)
            session.abort_transaction()
        assert database.things.count_documents({}) == 1


def test_the_lake_of_a_test_is_empty(lake: Path) -> None:
    assert load_settings().lake == str(lake)
    assert list(lake.iterdir()) == []
