"""A mart reads only what blocking checks passed, in this run or in an earlier one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import psycopg
import pytest

from resources.warehouse import connect_postgres
from stripe_platform.keys import key
from stripe_platform.settings import Settings
from stripe_platform.warehouse.bootstrap import bootstrap
from stripe_platform.warehouse.certify import PROVEN, WHOLE, UncertifiedInputError, certified, record_verdicts
from stripe_platform.warehouse.content import content_hash

pytestmark = pytest.mark.servers
DAYS = [dt.date(2026, 6, 1), dt.date(2026, 6, 2)]
CHARGES = key("raw", "charges")


@pytest.fixture
def conn(warehouse: Settings) -> Iterator[psycopg.Connection]:
    bootstrap(warehouse)
    bootstrap(warehouse)  # twice is harmless
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        yield connection


def judge(conn: psycopg.Connection, outcome: str, days: list[dt.date] = DAYS, *, check: str = "rows",
          blocking: bool = True) -> None:
    record_verdicts(conn, asset_key=CHARGES, check_name=check, blocking=blocking, run_id="run",
                    outcomes=[(day.isoformat(), outcome, 3) for day in days])


def test_passed_partitions_are_certified(conn):
    judge(conn, "passed")
    certified(conn, [CHARGES], DAYS)
    certified(conn, ["raw/charges"], None)


def test_a_partition_without_a_verdict_is_refused_and_the_message_names_it_and_the_remedy(conn):
    judge(conn, "passed", DAYS[:1])
    with pytest.raises(UncertifiedInputError, match=r"raw/charges of 2026-06-02 .*no blocking check.*materialize"):
        certified(conn, [CHARGES], DAYS)
    with pytest.raises(UncertifiedInputError, match="raw/refunds"):
        certified(conn, [key("raw", "refunds")], None)


@pytest.mark.parametrize(("outcome", "words"), [("failed", "failed"), ("not_evaluated", "could not be evaluated")])
def test_a_failed_or_unevaluated_verdict_is_refused_by_name_of_the_check(conn, outcome, words):
    judge(conn, "passed")
    judge(conn, outcome, DAYS[1:], check="keys_are_unique")
    with pytest.raises(UncertifiedInputError, match=rf"raw/charges of 2026-06-02 .*keys_are_unique {words}"):
        certified(conn, [CHARGES], DAYS)
    with pytest.raises(UncertifiedInputError, match="keys_are_unique"):
        certified(conn, [CHARGES], None)
    with pytest.raises(UncertifiedInputError, match=r"materialize raw/charges .* with config reapply: true"):
        certified(conn, [CHARGES], DAYS)
    certified(conn, [CHARGES], DAYS[:1])


def test_only_raw_tables_are_said_to_be_applied_again(conn):
    record_verdicts(conn, asset_key="marts/fct_charges", check_name="rows", blocking=True, run_id="run",
                    outcomes=[(DAYS[0].isoformat(), "failed", 3)])
    with pytest.raises(UncertifiedInputError, match=r"materialize marts/fct_charges and its checks for that day, then"):
        certified(conn, ["marts/fct_charges"], DAYS[:1])


def test_a_check_that_does_not_block_neither_refuses_nor_certifies(conn):
    judge(conn, "failed", check="freshness", blocking=False)
    with pytest.raises(UncertifiedInputError, match="no blocking check"):
        certified(conn, [CHARGES], DAYS)
    judge(conn, "passed")
    certified(conn, [CHARGES], DAYS)


def test_a_mended_partition_is_certified_by_its_newest_verdict(conn):
    judge(conn, "failed")
    judge(conn, "passed")
    certified(conn, [CHARGES], DAYS)


def test_an_unknown_outcome_and_an_empty_question_are_refused(conn):
    with pytest.raises(psycopg.errors.CheckViolation):
        judge(conn, "maybe")
    conn.rollback()
    with pytest.raises(ValueError, match="about nothing"):
        certified(conn, [CHARGES], [])


def test_a_content_hash_sees_values_not_order_nor_bookkeeping_columns(conn):
    conn.execute("create table marts.one (id text, amount bigint, at timestamptz, _load text)")
    conn.execute("create table marts.two (at timestamptz, _load text, id text, amount bigint)")
    rows = [("a", 1, "2026-06-01 00:00+00", "x"), ("b,", None, "2026-06-01 00:00+00", "y")]
    conn.cursor().executemany("insert into marts.one values (%s, %s, %s, %s)", rows)
    conn.execute("set timezone = 'Asia/Tokyo'")
    conn.cursor().executemany("insert into marts.two (id, amount, at, _load) values (%s, %s, %s, 'z')",
                              [row[:3] for row in reversed(rows)])
    same = content_hash(conn, "marts.one")
    assert content_hash(conn, "marts.two") == same
    conn.execute("update marts.two set amount = 0 where amount is null")
    assert content_hash(conn, "marts.two") != same
    conn.execute("delete from marts.one where id = 'a'")
    assert content_hash(conn, "marts.one") != same
    with pytest.raises(LookupError, match=r"marts\.none"):
        content_hash(conn, "marts.none")


@pytest.mark.parametrize("outcome", ["failed", "not_evaluated"])
def test_a_table_whose_change_log_differs_from_its_source_is_refused_whatever_its_days_say(conn, outcome):
    judge(conn, "passed")
    proofs = {"asset_key": key("cdc", "charges"), "check_name": PROVEN, "blocking": True, "run_id": "run"}
    record_verdicts(conn, **proofs, outcomes=[(WHOLE, outcome, 3)])
    with pytest.raises(UncertifiedInputError, match=rf"cdc/charges is not certified: .*{PROVEN}.*cdc verify"):
        certified(conn, [CHARGES], DAYS)
    record_verdicts(conn, **proofs, outcomes=[(WHOLE, "passed", 3)])
    certified(conn, [CHARGES], DAYS)
