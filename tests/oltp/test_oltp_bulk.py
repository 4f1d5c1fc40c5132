"""The bulk write API: a day is whole or absent, closes once and in order; a killed loader leaves no half of it."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psycopg
import pyarrow as pa
import pytest
from oltp_shop import Shop, copied

from stripe_platform.keyring import open_keyring
from stripe_platform.oltp.assessments import Assessment, write_assessments
from stripe_platform.oltp.bulk import BadRecord, DayRows, LoadError, load_day
from stripe_platform.oltp.calendar import CalendarError, close_day, last_closed_day
from stripe_platform.oltp.feed import ObservedFeed, count_day
from stripe_platform.runs import _reason
from stripe_platform.settings import Settings
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.world import Options
from stripe_platform.vault import open_value

DAY = dt.date(2026, 6, 1)
SMALL = Options(days=4, per_day=400)
CALENDAR = [DAY + dt.timedelta(days=i) for i in range(SMALL.days)]


def load(settings: Settings, days: list[dt.date]) -> list:
    made = Days(SMALL, frozenset(CALENDAR))
    with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
        return [load_day(conn, open_keyring(settings), "small", d, lambda d=d: made.rows(d), reference=copied(settings))
                for d in days]


def content(settings: Settings) -> dict[str, list]:
    """All rows but ciphertext, which differs between clean runs."""
    tables = ("accounts", "terminals", "payment_methods", "payment_intents", "charges", "charge_outcomes", "refunds",
              "disputes", "early_fraud_warnings", "exchange_rates")  # fmt: skip
    with psycopg.connect(settings.need("oltp_dsn")) as conn:
        found = {t: conn.execute(f"select * from oltp.{t} order by 1, 2").fetchall() for t in tables}  # type: ignore[arg-type]
        found["customers"] = conn.execute("select id, token, created from oltp.customers order by 1").fetchall()
        found["days"] = conn.execute("select source, day from ops.day_ledger order by 2").fetchall()
        found["loads"] = conn.execute("select source_digest, day, rows from ops.load_day order by 2").fetchall()
    return found


def test_a_loaded_day_is_skipped_when_it_comes_again(oltp: Settings):
    first = load(oltp, CALENDAR)
    before = content(oltp)
    again = load(oltp, CALENDAR)
    assert all(each.skipped for each in again)
    assert content(oltp) == before
    for one, other in zip(first, again, strict=True):
        for table in ("charges", "payment_intents", "disputes", "exchange_rates"):
            assert one.rows.get(table, 0) == other.rows[table]


def test_charges_say_what_their_refunds_and_disputes_say(oltp: Settings):
    load(oltp, CALENDAR)
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        wrong = conn.execute(
            "select count(*) from oltp.charges c where amount_refunded <>"
            " (select coalesce(sum(amount), 0) from oltp.refunds r where r.charge_id = c.id and r.status = 'succeeded')"
            " or disputed <> exists (select 1 from oltp.disputes d where d.charge_id = c.id)").fetchone()
        refunds = conn.execute("select count(*) from oltp.refunds").fetchone()
    assert wrong == (0,)
    assert refunds is not None
    assert refunds[0] > 0


@pytest.mark.parametrize(("table", "row", "message"), [
    ("refunds", {"amount": [1001], "currency": ["eur"], "reason": ["duplicate"]}, "exceed the captured amount"),
    ("refunds", {"amount": [1], "currency": ["usd"], "reason": ["duplicate"]}, "another currency"),
    ("disputes", {"amount": [1], "currency": ["usd"], "reason": ["general"]}, "another currency"),
    ("disputes", {"amount": [1], "currency": ["eur"], "reason": ["mood"]}, "disputes_reason_check"),
])  # fmt: skip
def test_a_day_with_a_row_that_breaks_a_rule_is_refused_whole(shop: Shop, table: str, row: dict, message: str):
    payment = shop.pay(1000)
    status = "succeeded" if table == "refunds" else "needs_response"
    prefix = {"refunds": "re", "disputes": "dp"}[table]
    rows = pa.table({
        "id": [f"{prefix}_1"], "charge_id": [payment.charge_id], "status": [status],
        "created": [dt.datetime(2026, 6, 1, tzinfo=dt.UTC)], **row,
    })  # fmt: skip
    with pytest.raises(LoadError, match=message) as refused:
        load_day(shop.conn, shop.ring, "bad", DAY, lambda: DayRows({table: rows}), reference=copied(shop.settings))
    assert "1001" not in str(refused.value)
    assert last_closed_day(shop.conn) is None
    assert shop.conn.execute("select count(*) from ops.load_day").fetchone() == (0,)


@pytest.mark.parametrize(("label", "created", "message"), [
    ("4242\0", dt.datetime(2026, 6, 1, tzinfo=dt.UTC), "CharacterNotInRepertoire, SQLSTATE 22021"),
    ("4242", "4242 o'clock", "InvalidDatetimeFormat, SQLSTATE 22007"),
])  # fmt: skip
def test_what_the_database_cannot_read_is_refused_by_table_day_and_code_without_a_value(
    shop: Shop, label: str, created: object, message: str
):
    rows = pa.table({"id": ["tmr_1"], "account_id": [shop.account], "label": [label], "device_type": ["pos"],
                     "country": ["FR"], "latitude": ["1"], "longitude": ["1"], "created": [created]})  # fmt: skip
    with pytest.raises(LoadError, match=rf"rows of oltp\.terminals for {DAY} were refused \({message}\)") as refused:
        load_day(shop.conn, shop.ring, "bad", DAY, lambda: DayRows({"terminals": rows}),
                 reference=copied(shop.settings))
    assert "4242" not in str(refused.value)
    assert shop.conn.execute("select count(*) from ops.load_day").fetchone() == (0,)


def test_the_reason_of_a_failed_run_is_the_first_line_of_its_error():
    @dg.op
    def fails() -> None:
        raise ValueError("the rule\nCONTEXT:  COPY terminals, line 1, column label: 4242")

    @dg.job
    def job() -> None:
        fails()

    reason = _reason(job.execute_in_process(raise_on_error=False))
    assert reason.endswith("the rule")
    assert "4242" not in reason


def test_days_close_once_and_in_order(oltp: Settings):
    load(oltp, CALENDAR[:2])
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as conn:
        for day in CALENDAR[:2]:
            with pytest.raises(CalendarError, match="days close once, in order"), conn.transaction():
                close_day(conn, day)
            # Past the module, the database itself refuses too.
            with pytest.raises(psycopg.errors.RaiseException, match="does not follow"), conn.transaction():
                conn.execute("insert into ops.day_ledger values ('oltp', %s)", [day])
        assert last_closed_day(conn) == CALENDAR[1]


def test_quarantined_records_keep_their_payload_as_ciphertext_and_are_kept_once(shop: Shop):
    bad = [BadRecord("f.csv row 2", "amount_is_finite", "f.csv row 2: the amount is infinite", b"inf,4242")]
    load_day(shop.conn, shop.ring, "src", DAY, lambda: DayRows({}, bad), reference=copied(shop.settings))
    load_day(shop.conn, shop.ring, "src", DAY, lambda: DayRows({}, bad), reference=copied(shop.settings))
    rows = shop.conn.execute("select id, record, rule, payload_ciphertext from ops.quarantine").fetchall()
    assert [(r[1], r[2]) for r in rows] == [("f.csv row 2", "amount_is_finite")]
    place = ("ops.quarantine", "payload_ciphertext", rows[0][0], "source:src")
    clear = open_value(shop.conn, shop.ring, rows[0][3], *place)
    assert clear == b"inf,4242"
    assert b"4242" not in bytes(rows[0][3])


def test_scores_close_the_next_day_and_repeating_them_changes_nothing(shop: Shop):
    load_day(shop.conn, shop.ring, "src", DAY, lambda: DayRows({}), reference=copied(shop.settings))
    at = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
    scores = [Assessment(shop.pay().charge_id, "v1", 0.25, "allow", at) for _ in range(3)]
    first = write_assessments(shop.conn, scores)
    assert (first.rows, first.closed) == (3, dt.date(2026, 6, 2))
    again = write_assessments(shop.conn, scores)
    assert (again.rows, again.closed) == (0, None)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        write_assessments(shop.conn, [Assessment("ch_9", "v1", 0.5, "allow", at)])
    with pytest.raises(ValueError, match="time zone"):
        write_assessments(shop.conn, [Assessment("ch_9", "v1", 0.5, "allow", at.replace(tzinfo=None))])
    assert last_closed_day(shop.conn) == dt.date(2026, 6, 2)


def test_production_closes_the_days_that_are_over_and_counts_them(oltp: Settings):
    loads = load(oltp, CALENDAR[:1])
    asked: list[str] = []
    feed = ObservedFeed(oltp, lambda: asked.append("copies"))
    observed = feed.bring(CALENDAR[0])
    assert observed.rows["charges"] == loads[0].rows["charges"]
    assert observed.observed_lsn
    assert asked == ["copies"], "what other databases feed is brought up before a day is closed"
    feed.bring(CALENDAR[3])  # three nights were missed
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        closed = [row[0] for row in conn.execute("select day from ops.day_ledger order by day")]
        transactions = conn.execute("select count(distinct xmin::text) from ops.day_ledger").fetchone()
    assert closed == list(CALENDAR[:4])
    assert transactions == (4,), "a boundary ends a batch: each day closes in a transaction of its own"


def test_production_leaves_the_running_day_open(oltp: Settings):
    load(oltp, CALENDAR[:1])
    today = dt.datetime.now(dt.UTC).date()
    with pytest.raises(LookupError, match="not closed yet"):
        ObservedFeed(oltp, lambda: None).bring(today)
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        assert last_closed_day(conn) == today - dt.timedelta(days=1)


KILLED = """
import sys, time
import psycopg
from stripe_platform.oltp import bulk
import test_oltp_bulk
from stripe_platform.settings import load_settings

follow = bulk._follow_disputes
def slow(conn, disputes, day):
    follow(conn, disputes, day)
    if day == test_oltp_bulk.CALENDAR[1]:
        print("mid-day", flush=True)
        time.sleep(60)
bulk._follow_disputes = slow
test_oltp_bulk.load(load_settings(), test_oltp_bulk.CALENDAR)
"""


def test_a_loader_killed_in_the_middle_of_a_day_leaves_whole_days_and_a_rerun_ends_the_same(
    oltp: Settings, monkeypatch: pytest.MonkeyPatch
):
    here = str(Path(__file__).parent)
    loader = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip
    assert loader.stdout is not None
    assert loader.stdout.readline().strip() == "mid-day"
    loader.send_signal(signal.SIGKILL)
    loader.communicate()
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        for _ in range(100):  # the server notices the lost client by itself
            others = conn.execute("select count(*) from pg_stat_activity where datname = current_database()").fetchone()
            if others == (1,):
                break
            time.sleep(0.05)
        assert last_closed_day(conn) == CALENDAR[0]
        assert count_day(conn, CALENDAR[1])["charges"] == 0
    assert [each.skipped for each in load(oltp, CALENDAR)] == [True, False, False, False]
    interrupted = content(oltp)
    for table in ("charges", "disputes", "refunds"):
        assert interrupted[table]
    expected = Days(SMALL, frozenset(CALENDAR))
    ids: set[str] = set()
    for day in CALENDAR:
        made = expected.rows(day)
        parts = [part["charges"] for part in (made.tables, made.later) if "charges" in part]
        ids |= {name for rows in parts for name in rows["id"].to_pylist()}
    assert ids == {row[0] for row in interrupted["charges"]}
    assert interrupted["days"] == [("oltp", d) for d in CALENDAR]
