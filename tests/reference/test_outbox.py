"""A unit of work over both databases happens whole, once, wherever its carrier is killed."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest
from killing import die, in_child
from reference_states import one

from stripe_platform.reference import outbox
from stripe_platform.reference.outbox import AccountSettings, onboard_merchant, relay
from stripe_platform.reference.write import ReferenceRefusedError
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers
SHOP = {"name": "Shop", "country": "FR", "currency": "eur", "mcc": "5411"}
LIMITED = AccountSettings(charges_enabled=True, payouts_enabled=False, capabilities={"card_payments": "active"})
STATE = """
select a.name, a.charges_enabled, a.payouts_enabled, c.name, c.status
from oltp.accounts a left join oltp.capabilities c on c.account_id = a.id
"""
WHOLE = ("Shop", True, False, "card_payments", "active")


def waiting(settings: Settings) -> int:
    return one(settings, "select count(*) from ops.outbox where done_at is null", "reference_dsn")[0]


def test_onboarding_makes_the_merchant_there_and_its_settings_here(ready: Settings, conn: psycopg.Connection):
    onboard_merchant(conn, LIMITED, **SHOP)
    report = relay(ready)
    assert (report.done, report.problems) == (1, [])
    assert one(ready, STATE) == WHOLE
    assert waiting(ready) == 0
    assert relay(ready).done == 0


def test_an_onboarding_that_is_refused_leaves_neither_merchant_nor_message(ready: Settings, conn: psycopg.Connection):
    with pytest.raises(ReferenceRefusedError):
        onboard_merchant(conn, LIMITED, **{**SHOP, "country": "XX"})
    assert waiting(ready) == 0
    assert one(ready, "select count(*) from reference.merchants", "reference_dsn") == (0,)


@pytest.mark.parametrize("point", ["before the copies", "in the message's transaction", "before it is marked done"])
def test_a_relay_killed_anywhere_is_finished_by_the_next_and_acts_once(
        ready: Settings, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, point: str):
    onboard_merchant(conn, LIMITED, **SHOP)

    def work() -> None:
        if point == "before the copies":
            monkeypatch.setattr(outbox, "sync", die)
        elif point == "in the message's transaction":
            real = outbox._set_account
            monkeypatch.setitem(outbox._ACTS, outbox.ACCOUNT_SETTINGS, lambda *args: (real(*args), die()))
        else:
            monkeypatch.setattr(outbox, "_mark_done", die)
        relay(ready)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert waiting(ready) == 1
    with psycopg.connect(ready.need("oltp_dsn"), autocommit=True) as app:
        acted = one(ready, "select count(*) from ops.inbox")[0]
        app.execute("update oltp.accounts set payouts_enabled = true")  # a later decision: must not be undone
    assert relay(ready).done == 1
    assert waiting(ready) == 0
    assert one(ready, "select count(*) from ops.inbox") == (1,)
    assert one(ready, "select payouts_enabled from oltp.accounts") == (bool(acted),)


def test_a_message_that_cannot_be_acted_upon_waits_and_holds_no_other(ready: Settings, conn: psycopg.Connection):
    conn.execute("insert into ops.outbox (kind, payload) values ('riddle', '{}')")
    onboard_merchant(conn, AccountSettings(capabilities={"transfers": "mood"}), **SHOP)
    onboard_merchant(conn, LIMITED, **{**SHOP, "name": "Other"})
    report = relay(ready)
    assert report.done == 1
    assert [problem.split(" ", 2)[2] for problem in report.problems] == [
        "is of kind 'riddle', which this release does not know: update it",
        "(account_settings) was refused (CheckViolation): mend what it names, it is delivered again"]
    assert waiting(ready) == 2
    assert one(ready, "select count(*) from ops.inbox") == (1,)
