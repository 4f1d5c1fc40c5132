"""Three weeks in the database: the books' checks pass, payouts are their movements, statements are the books' cash."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict

import psycopg
import pytest
from simulated_life import LIFE, calendar

from asset_checks.judge import WHOLE, judge
from asset_checks.stores import Stores
from asset_checks.suites import ledger, oltp
from stripe_platform.oltp.assets import bring
from stripe_platform.settings import Settings
from stripe_platform.simulation.feed import SimulatedFeed
from stripe_platform.simulation.statements import settlements

pytestmark = pytest.mark.servers
OPTIONS = dataclasses.replace(LIFE, per_day=250, days=14, dispute_lag_days=7)


def judged(settings: Settings) -> None:
    days = [day.isoformat() for day in calendar(OPTIONS)]
    for check in [*ledger.CHECKS, *(c for c in oltp.CHECKS if c.name == "rows_of_the_day_hold_their_rules")]:
        found = judge(check, Stores.of_settings(), days if check.partitioned else [WHOLE])
        assert {v.outcome for v in found} == {"passed"}, (check.name, found)


def test_a_simulated_life_keeps_the_books(both: Settings):
    feed = SimulatedFeed(both, OPTIONS)
    loads = bring(feed, calendar(OPTIONS))
    assert not any(load.skipped for load in loads)
    judged(both)
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        one = lambda query: conn.execute(query).fetchall()  # noqa: E731
        assert one("select count(*) from oltp.payouts p where p.automatic and p.amount <> (select sum(b.net)"
                   " from oltp.payout_balance_transactions x join oltp.balance_transactions b"
                   " on b.id = x.balance_transaction_id where x.payout_id = p.id)") == [(0,)]
        assert one("select count(*) > 20, bool_or(automatic), bool_or(not automatic) from oltp.payouts") == [
            (True, True, True)]
        failed = one("select p.id from oltp.payouts p where p.status = 'failed' and (select sum(net)"
                     " from oltp.balance_transactions b where b.source_id = p.id) <> 0")
        assert failed == []
        # What was won came back less the fee, what was lost is cleared, what was prevented never moved.
        moved = one("select d.status, min(s.net + s.fee), max(s.net + s.fee) from oltp.disputes d left join lateral"
                    " (select coalesce(sum(b.net), 0) as net, coalesce(sum(b.fee), 0) as fee"
                    " from oltp.balance_transactions b where b.source_id = d.id) s on true"
                    " where d.status in ('won', 'prevented', 'warning_closed') group by 1")
        assert {row[1:] for row in moved} == {(0, 0)}
        cleared = one("select count(*) from oltp.disputes d where (d.status = 'lost') <> exists"
                      " (select 1 from oltp.ledger_entries e where e.source_id = d.id and e.kind = 'dispute_lost')")
        assert cleared == [(0,)]
        # Exchanged: rate on the movement, both currencies in the entry, positions traded on the day they arise.
        assert one("select count(*) > 0 from oltp.balance_transactions where exchange_rate is not null") == [(True,)]
        assert one("select count(*) from oltp.ledger_accounts a where a.kind in ('fx_clearing')"
                   " and ledger.balance(a.id) <> 0") == [(0,)]
        # What the networks owe is the last day's, all before is settled; statuses changed then, not on loading.
        last = calendar(OPTIONS)[-1]
        assert one("select count(*) from oltp.ledger_accounts a where a.kind in ('network_receivable',"
                   f" 'refund_clearing') and ledger.balance(a.id, '{last} 00:00:01+00') <> 0") == [(0,)]
        assert one("select min(at)::date >= '2026-06-01', max(at)::date <= '2026-06-21' from oltp.status_history") == [
            (True, True)]
        booked = defaultdict(int)
        for day, kind, currency, amount in one(
                "select (e.effective_at at time zone 'UTC')::date, e.kind, p.currency, p.amount"
                " from oltp.ledger_entries e join oltp.ledger_postings p on"
                " p.entry_id = e.id and p.ledger_account_id like 'cash:%'"
                " where e.kind in ('network_settlement', 'refund_settlement', 'payout_paid')"):
            booked[day, kind, currency] += amount
    for day in calendar(OPTIONS):
        names = {"settlement": "network_settlement", "refunds": "refund_settlement"}
        told = {(day, names[kind], currency): amount
                for (kind, currency), amount in settlements(feed.days, day).items()}
        assert told == {key: amount for key, amount in booked.items() if key[0] == day and key[1] != "payout_paid"}
    again = [SimulatedFeed(both, OPTIONS).bring(day) for day in calendar(OPTIONS)[:2]]
    assert all(load.skipped for load in again)
    assert dt.date(2026, 6, 21) == last
