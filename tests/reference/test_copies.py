"""Reference rows reach the OLTP through the log: every kind of change, once, with its values."""

from __future__ import annotations

import psycopg
import pytest

from stripe_platform.reference import write
from stripe_platform.reference.database import connect
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers


def test_first(reference: Settings):
    import time
    for _ in range(3):
        t=time.monotonic(); r = prepare(reference); print(r, time.monotonic()-t)
    with connect(reference) as conn:
        for n in range(5):
            t=time.monotonic()
            m = write.register_merchant(conn, name="Shop", country="FR", currency="eur", mcc="5411")
            write.put_rate(conn, day="2026-06-01", from_currency="usd", to_currency="eur", rate=f"0.9{n}")
            t1=time.monotonic()
            r = sync(reference); print(r, time.monotonic()-t1)
        write.retire_merchant(conn, m)
        write.remove_rate(conn, day="2026-06-01", from_currency="usd", to_currency="eur")
        print(sync(reference))
    with psycopg.connect(reference.need("oltp_dsn")) as conn:
        print(conn.execute("select * from oltp.accounts").fetchall(), conn.execute("select * from oltp.exchange_rates").fetchall())
