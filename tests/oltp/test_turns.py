"""Days loaded side by side keep their order: parents before children, boundaries one after the other."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from stripe_platform.oltp.assets import bring
from stripe_platform.oltp.feed import DayLoad
from stripe_platform.oltp.turns import EarlierDayFailedError, Turn, Turns
from stripe_platform.settings import Settings
from stripe_platform.simulation.feed import SimulatedFeed
from stripe_platform.simulation.world import Options

DAYS = [dt.date(2026, 6, 1) + dt.timedelta(days=i) for i in range(4)]


def charges_of(loads: list[DayLoad]) -> int:
    return sum(load.rows.get("charges", 0) for load in loads)


def test_a_later_day_closes_after_the_earlier_one_however_early_it_is_ready():
    turns, closed, ready = Turns(DAYS[:2]), [], threading.Event()

    def later() -> None:
        with turns.of(DAYS[1]) as turn:
            ready.set()
            turn.wait_for_close()
            closed.append(DAYS[1])

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(later)
        assert ready.wait(10)
        with turns.of(DAYS[0]):
            closed.append(DAYS[0])
        task.result(10)
    assert closed == DAYS[:2]


def test_a_day_without_parents_lets_the_next_one_begin_before_it_is_closed():
    turns = Turns(DAYS[:2])
    with turns.of(DAYS[0]) as first, turns.of(DAYS[1]) as second:
        first.no_parents_here()
        second.wait_for_parents()  # returns: nothing else could have woken it


def test_days_after_a_failed_one_are_given_up_not_left_waiting():
    turns = Turns(DAYS[:2])
    with pytest.raises(ZeroDivisionError), turns.of(DAYS[0]):
        raise ZeroDivisionError
    with pytest.raises(EarlierDayFailedError, match="2026-06-02 was not loaded"), turns.of(DAYS[1]) as turn:
        turn.wait_for_close()


def test_a_day_alone_never_waits():
    turn = Turn.alone(DAYS[0])
    turn.wait_for_parents()
    turn.wait_for_close()


@pytest.mark.servers
def test_days_loaded_side_by_side_leave_what_days_loaded_one_by_one_leave(both: Settings):
    options = Options(first_day=DAYS[0], days=3, per_day=200, dispute_lag_days=2)
    loads = bring(SimulatedFeed(both, options), list(SimulatedFeed(both, options).calendar()))
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        order = conn.execute("select day from ops.day_ledger order by xmin::text::bigint").fetchall()
        standing = conn.execute("select count(*), sum(amount) from oltp.charges").fetchone()
    assert [day for (day,) in order] == sorted(load.day for load in loads)
    alone = SimulatedFeed(both, options)
    again = [alone.bring(load.day) for load in loads]
    assert all(load.skipped for load in again)
    assert charges_of(again) == standing[0] == charges_of(loads)


@pytest.mark.servers
def test_two_loaders_of_the_same_days_bring_them_once(both: Settings):
    options = Options(first_day=DAYS[0], days=2, per_day=100, dispute_lag_days=1)
    days = list(SimulatedFeed(both, options).calendar())
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(bring, SimulatedFeed(both, options), days) for _ in range(2)]
        loads = [task.result(60) for task in tasks]
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        charges = conn.execute("select count(*) from oltp.charges").fetchone()[0]
        closed = conn.execute("select count(*) from ops.day_ledger").fetchone()[0]
    assert charges == charges_of(loads[0]) == charges_of(loads[1])
    assert closed == len(days)
