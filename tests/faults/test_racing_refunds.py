"""200 clients refund the same charges at once: what is given back never exceeds what was captured."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings

CLIENTS = 200
ROUNDS = int(os.environ.get("RACING_REFUND_ROUNDS", "1000"))
CAPTURED, ASKED = 1000, 30  # 33 refunds fit, the 34th does not


@pytest.mark.faults
def test_racing_refunds_never_exceed_what_was_captured(oltp: Settings):
    dsn, outcomes = oltp.need("oltp_dsn"), Counter[str]()
    with psycopg.connect(oltp.need("oltp_owner_dsn"), autocommit=True) as owner:
        seed_reference(owner)
        account = write.create_account(owner, name="Shop", country="FR", currency="eur", mcc="5411")
    with psycopg.connect(dsn, autocommit=True) as conn:
        customer = write.create_customer(conn, open_keyring(oltp), name="Ada", email=None, country="FR", currency="eur")
        method = write.create_payment_method(conn, customer_id=customer, brand="visa", last4="4242", exp_month=1,
                                             exp_year=2030, funding="credit", country="FR")
        charges = [write.create_payment(conn, account_id=account, customer_id=customer, payment_method_id=method,
                                        amount=CAPTURED, currency="eur").charge_id for _ in range(ROUNDS)]
    local, counted, opened = threading.local(), threading.Lock(), ExitStack()

    def refund(charge: str) -> None:
        if not hasattr(local, "conn"):
            local.conn = opened.enter_context(psycopg.connect(dsn, autocommit=True))
        try:
            write.create_refund(local.conn, charge_id=charge, amount=ASKED, currency="eur")
            outcome = "given"
        except write.WriteError as error:
            outcome = str(error.code)
        with counted:
            outcomes[outcome] += 1

    begun = dt.datetime.now(dt.UTC)
    with opened, ThreadPoolExecutor(CLIENTS) as pool:
        for charge in charges:
            list(pool.map(refund, [charge] * CLIENTS))
    seconds = (dt.datetime.now(dt.UTC) - begun).total_seconds()
    fit = CAPTURED // ASKED
    with psycopg.connect(dsn, autocommit=True) as conn:
        worst = conn.execute("select min(amount_captured - amount_refunded), max(amount_refunded) from oltp.charges")
        assert worst.fetchone() == (CAPTURED - fit * ASKED, fit * ASKED)
        by_charge = conn.execute("select count(*), min(n), max(n), min(s) from (select count(*) n, sum(amount) s"
                                 " from oltp.refunds where status = 'succeeded' group by charge_id) c").fetchone()
        assert by_charge == (ROUNDS, fit, fit, fit * ASKED)
        booked = conn.execute("select ledger.balance('refund_clearing:eur')").fetchone()
        assert booked == (ROUNDS * fit * ASKED,)
    assert outcomes == {"given": ROUNDS * fit, "amount_too_large": ROUNDS * (CLIENTS - fit)}, seconds
