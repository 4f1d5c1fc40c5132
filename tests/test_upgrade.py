"""Platforms of released versions, kept as files in `tests/samples`, are taken over by the present code."""

from __future__ import annotations

import datetime as dt
import json
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from samples.make_sample import restore, rows

from resources.lake import LocalLake
from stripe_platform import keys
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import compact
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.sealing import seal
from stripe_platform.cdc.snapshots import state_at
from stripe_platform.cdc.verify import verify
from stripe_platform.oltp.migrate import MIGRATIONS, migrate
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.bootstrap import bootstrap
from stripe_platform.warehouse.content import content_hash

SAMPLES = sorted(p.parent for p in (Path(__file__).parent / "samples").glob("*/counts.json"))
pytestmark = pytest.mark.servers


@pytest.fixture(params=SAMPLES, ids=lambda folder: folder.name)
def sample(request: pytest.FixtureRequest) -> Path:
    """Folder of one released version's sample."""
    return request.param


@pytest.fixture
def expected(sample: Path) -> dict:
    return json.loads((sample / "counts.json").read_text())


@pytest.fixture
def fresh_oltp(servers, own_home: Path) -> Iterator[str]:
    """Owner's URL of an empty payments database, without any migration."""
    name = f"upgraded_{secrets.token_hex(6)}"
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template template0 owner payments_owner").format(sql.Identifier(name)))
        yield servers.url("STRIPE_PLATFORM_OLTP_OWNER_DSN", name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def old_lake(sample: Path, lake: Path, monkeypatch: pytest.MonkeyPatch) -> LocalLake:
    """The sample's lake, unpacked; the calendar begins where the sample's does."""
    with tarfile.open(sample / "lake.tar.xz") as archive:
        archive.extractall(lake, filter="data")
    name, _, value = (sample / "calendar.env").read_text().strip().partition("=")
    monkeypatch.setenv(name, value)
    return LocalLake(lake)


@pytest.fixture
def old_warehouse(sample: Path, warehouse) -> str:
    """URL of a warehouse as the sample's version left it, prepared by the present version."""
    restore(warehouse.need("warehouse_dsn"), sample / "warehouse.sql.gz")
    bootstrap(warehouse)
    return warehouse.need("warehouse_dsn")


def closed_days(lake: LocalLake) -> list[dt.date]:
    return sorted(Chain.load(lake).closed)


def tables_of(expected: dict) -> list[str]:
    """Tables the sample's release had: of younger ones it can say nothing."""
    return [name for name in keys.TABLES if f"oltp.{name}" in expected["oltp"]]


def columns(dsn: str, table: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped"
            " order by attnum", [table])]


def digest(dsn: str, table: str, names: list[str]) -> tuple[int, str]:
    """Rows and a hash over these columns of every row, whatever the order of the rows."""
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    with psycopg.connect(dsn) as connection:
        connection.execute("set timezone = 'UTC'")
        found = connection.execute(sql.SQL(
            "select count(*), md5(coalesce(string_agg(r, '' order by r collate \"C\"), '')) from"
            " (select md5(row({})::text) as r from {}) as hashed"
        ).format(listed, sql.Identifier(*table.split(".")))).fetchone()
    assert found is not None
    return found[0], found[1]


def test_there_is_a_sample_to_upgrade():
    assert SAMPLES


def test_migrations_keep_every_row_of_a_released_oltp(sample, expected, fresh_oltp):
    restore(fresh_oltp, sample / "oltp.sql.gz")
    migrate(fresh_oltp)
    again = migrate(fresh_oltp)
    assert again.applied == []
    found = rows(fresh_oltp, ("oltp", "ops", "vault"))
    kept = {table: count for table, count in expected["oltp"].items() if table != "ops.migrations"}
    assert {table: found.get(table) for table in kept} == kept
    assert found["ops.migrations"] == len(again.present)


def test_no_value_of_a_released_oltp_changes(sample, expected, fresh_oltp):
    restore(fresh_oltp, sample / "oltp.sql.gz")
    known = {name: columns(fresh_oltp, f"oltp.{name}") for name in tables_of(expected)}
    before = {name: digest(fresh_oltp, f"oltp.{name}", names) for name, names in known.items()}
    applied = migrate(fresh_oltp).applied
    assert applied == [f.name for f in sorted(MIGRATIONS.glob("*.sql"))][expected["oltp"]["ops.migrations"]:]
    assert {name: digest(fresh_oltp, f"oltp.{name}", names) for name, names in known.items()} == before


def test_a_released_change_log_is_read_whole(expected, old_lake):
    report = verify(load_settings(), lake=old_lake)
    assert report.problems == []
    for name in ("batches", "transactions", "changes", "files", "closed_through"):
        assert getattr(report, name) == expected["lake"][name], name


def test_a_released_change_log_is_sealed_and_read_whole(expected, old_lake):
    before = Chain.load(old_lake).manifests
    assert seal(old_lake) == len(before) - 1
    assert Chain.load(old_lake).manifests == before
    report = verify(load_settings(), lake=old_lake)
    assert (report.problems, report.batches) == ([], expected["lake"]["batches"])


def test_daily_files_of_a_release_are_read_and_not_made_again(expected, old_lake):
    chain, first = Chain.load(old_lake), load_settings().first_day
    total = files = 0
    for table in keys.TABLES:
        for day in closed_days(old_lake):
            standing = dailies.read(old_lake, table, day)
            if standing is None:  # scores are compacted for their own days only
                continue
            assert compact(old_lake, table, day, chain=chain, first_day=first) == standing
            total += dailies.read_changes(old_lake, standing).num_rows
            files += 1
    assert (total, files) == (expected["lake"]["daily_rows"], expected["lake"]["daily_files"])


def test_the_state_folded_from_a_released_lake_is_what_the_oltp_held(expected, old_lake):
    last = closed_days(old_lake)[-1]
    held = tables_of(expected)
    assert held, "the sample counts no table that the present release declares"
    for name in held:
        assert state_at(old_lake, name, last).num_rows == expected["oltp"][f"oltp.{name}"], name


def test_the_marts_of_a_released_warehouse_keep_their_content(expected, old_warehouse):
    with psycopg.connect(old_warehouse) as connection:
        assert {name: content_hash(connection, f"marts.{name}") for name in expected["marts"]} == expected["marts"]
    assert rows(old_warehouse, ("raw", "marts", "features", "ops")) == expected["warehouse"]


def test_raw_tables_of_a_release_gain_later_columns_and_keep_their_rows(expected, old_lake, old_warehouse):
    held = tables_of(expected)
    known = {name: columns(old_warehouse, f"raw.{name}") for name in held}
    before = {name: digest(old_warehouse, f"raw.{name}", names) for name, names in known.items()}
    with psycopg.connect(old_warehouse) as connection:
        for name in held:
            raw.apply(connection, old_lake, name, [])
    wanted = {name: {column for column, _ in raw.columns_of(name)} for name in held}
    assert any(wanted[name] - set(known[name]) for name in held), "this release added no column: the test shows nothing"
    for name in held:
        assert wanted[name] <= set(columns(old_warehouse, f"raw.{name}")), name
        assert digest(old_warehouse, f"raw.{name}", known[name]) == before[name], name


def test_raw_days_that_a_release_applied_stand(old_lake, old_warehouse):
    with psycopg.connect(old_warehouse) as connection:
        for name in keys.TABLES:
            days = [d for d in closed_days(old_lake) if dailies.read(old_lake, name, d)]
            assert raw.apply(connection, old_lake, name, days).days == [], name
