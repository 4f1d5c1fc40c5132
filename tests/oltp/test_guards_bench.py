"""The ladder of guards takes away what it says, and its floor writes the rows that a payment writes."""

from __future__ import annotations

from collections import Counter

import psycopg
from oltp_shop import Shop

from stripe_platform.bench import Report
from stripe_platform.oltp import guards_bench
from stripe_platform.oltp.idempotency import Idempotency

WRITTEN = ("idempotency_keys", "payment_intents", "charges", "charge_outcomes", "ledger_entries",
           "balance_transactions", "fee_details", "ledger_postings", "events")
GUARDS = """
select (select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace = 'oltp'::regnamespace and not t.tgisinternal and t.tgenabled <> 'D'),
    count(*) filter (where contype = 'f'), count(*) filter (where contype = 'c' and conrelid <> 0),
    (select count(*) from pg_index i join pg_class c on c.oid = i.indexrelid
        where c.relnamespace = 'oltp'::regnamespace and not i.indisunique)
from pg_constraint where connamespace = 'oltp'::regnamespace
"""


def test_each_rung_has_fewer_guards_and_the_floor_writes_what_a_payment_writes(shop: Shop, servers):
    report, standing, rows = Report("oltp"), {}, {}
    with psycopg.connect(servers.superuser("oltp", shop.conn.info.dbname), autocommit=True) as owner:
        def counts() -> Counter[str]:
            return Counter({table: owner.execute(f"select count(*) from oltp.{table}").fetchone()[0]
                            for table in WRITTEN})

        def pair(name: str, is_flat: bool) -> float:
            before = counts()
            if is_flat:
                owner.execute("select payments.flat_payment(%s, %s, %s, 1000, 'key')",
                              [shop.account, shop.customer, shop.method])
            else:
                shop.pay(idempotency=Idempotency(shop.ring, name))
            standing[name], rows[name] = owner.execute(GUARDS).fetchone(), counts() - before
            return 1.0

        guards_bench.measure(report, owner, pair)
    triggers, keys, checks, indexes = zip(*standing.values(), strict=True)
    assert [bool(each) for each in triggers] == [True] + [False] * 5
    assert [bool(each) for each in keys] == [True] * 2 + [False] * 4
    assert [bool(each) for each in checks] == [True] * 3 + [False] * 3
    assert [bool(each) for each in indexes] == [True] * 4 + [False] * 2
    assert rows["all guards"]["events"] == 3
    assert all(each == rows["all guards"] for each in rows.values()), rows
    assert len(report.ratios) == len(guards_bench.RUNGS) + 2
