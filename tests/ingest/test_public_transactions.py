"""The public labelled set, where it is present beside the project: counts and sums to the cent."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from stripe_platform.ingest.transactions_file import FileFeed
from stripe_platform.settings import Settings

FILE = Path(__file__).parents[3] / "shared" / "data" / "fdh" / "transactions.parquet"
START = dt.date(2018, 6, 11)

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"the public transactions are missing: {FILE}")


def test_two_days_of_the_public_set_arrive_with_every_cent_and_their_labels_seven_days_later(both: Settings):
    feed = FileFeed(both, [FILE], start=START, days=2)
    loads = {day: feed.bring(day) for day in feed.calendar()}
    frame = pq.read_table(FILE, columns=["TX_DATETIME", "TX_AMOUNT", "TX_FRAUD"]).to_pandas()
    end = START + dt.timedelta(days=2)
    frame = frame[(str(START) <= frame.TX_DATETIME) & (str(end) > frame.TX_DATETIME)]
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        count, cents = conn.execute("select count(*), sum(amount) from oltp.charges").fetchone() or (0, 0)
        frauds = conn.execute("select count(*) from oltp.charges where disputed").fetchone()
    assert count == len(frame)
    assert cents == round(frame.TX_AMOUNT.mul(100)).sum()
    assert frauds == (frame.TX_FRAUD.sum(),)
    for day in (START, START + dt.timedelta(days=1)):
        that_day = frame[frame.TX_DATETIME.dt.date == day]
        assert loads[day].rows["charges"] == len(that_day)
        assert loads[day + dt.timedelta(days=7)].rows["disputes"] == that_day.TX_FRAUD.sum()
    assert not any(load.quarantined for load in loads.values())
