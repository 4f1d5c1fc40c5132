"""The four letters, each shown by what would break it: kills in mid-transaction, a rule, a write skew, a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from oltp_shop import Shop

from stripe_platform.embedded import places, postgres, processes
from stripe_platform.keyring import Keyring
from stripe_platform.oltp import ledger, write
from stripe_platform.oltp.ids import new_id
from stripe_platform.oltp.migrate import migrate
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.oltp.write import WriteError

MONEY = ("payment_intents", "charges", "charge_outcomes", "balance_transactions", "fee_details", "ledger_entries",
         "ledger_postings", "idempotency_keys")  # fmt: skip

# A client that has paid and not committed yet, and waits to be killed.
HALF_WAY = """
import sys, time, psycopg
from stripe_platform.oltp import write
conn = psycopg.connect(sys.argv[1])
conn.execute("select 1")  # a transaction of the caller's: the payment is part of it
write.create_payment(conn, account_id=sys.argv[2], customer_id=sys.argv[3], payment_method_id=sys.argv[4], amount=1000,
                     currency="eur")
print(conn.info.backend_pid, flush=True)
time.sleep(600)
"""


def rows(conn: psycopg.Connection) -> dict[str, int]:
    counts = {}
    for table in MONEY:
        row = conn.execute(f"select count(*) from oltp.{table}").fetchone()  # type: ignore[arg-type]
        assert row is not None
        counts[table] = row[0]
    return counts


@dataclass(frozen=True)
class OwnServer:
    """A small server of these tests alone, safe against crashes, with a merchant, a payer and a card."""

    cluster: postgres.Cluster
    ids: tuple[str, str, str]

    @property
    def dsn(self) -> str:
        return self.cluster.dsn("payments_app", "app", "oltp")

    def pay(self, conn: psycopg.Connection) -> write.Payment:
        account, customer, method = self.ids
        return write.create_payment(conn, account_id=account, customer_id=customer, payment_method_id=method,
                                    amount=1000, currency="eur")  # fmt: skip

    def kill(self) -> None:
        """kill -9 of every process of the server, the postmaster first: nothing is written any more."""
        postmaster = self.cluster.find()
        assert postmaster is not None
        os.kill(postmaster.pid, signal.SIGKILL)
        for process in processes.working_in(self.cluster.data, postgres.PROGRAM):
            process.stop(10, signal.SIGKILL)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    home = tmp_path_factory.mktemp("acid")
    cluster = postgres.Cluster("oltp", places.choose(home), processes.free_port(set()), "secret", fsync=True)
    cluster.make()
    cluster.start()
    try:
        postgres.ensure_roles(cluster, {"payments_owner": "owner", "payments_app": "app", "payments_ingest": "ingest",
                                        "reference_copier": "copier"}, {})
        postgres.ensure_database(cluster, "oltp", "payments_owner")
        postgres.ensure_database(cluster, "oltp", "payments_app")
        migrate(cluster.dsn("payments_owner", "owner", "oltp"))
        ring = Keyring({b"k" * 16: b"w" * 32}, b"k" * 16, b"m" * 32)
        with psycopg.connect(cluster.dsn("payments_owner", "owner", "oltp"), autocommit=True) as owner:
            seed_reference(owner)
            account = write.create_account(owner, name="Shop", country="FR", currency="eur", mcc="5411")
        with psycopg.connect(cluster.dsn("payments_app", "app", "oltp"), autocommit=True) as conn:
            customer = write.create_customer(conn, ring, name="Ada", email=None, country="FR", currency="eur")
            method = write.create_payment_method(
                conn, customer_id=customer, brand="visa", last4="4242", exp_month=1, exp_year=2030, funding="credit",
                country="FR")  # fmt: skip
        yield OwnServer(cluster, (account, customer, method))
    finally:
        cluster.stop("immediate")


@pytest.mark.parametrize("victim", ["client", "server process"])
def test_atomicity_a_kill_in_mid_transaction_leaves_nothing_of_a_payment(own_server: OwnServer, victim: str):
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        before = rows(conn)
    with subprocess.Popen([sys.executable, "-c", HALF_WAY, own_server.dsn, *own_server.ids],
                          stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        backend = processes.Proc.of(int(client.stdout.readline()))
        assert backend is not None
        os.kill(client.pid if victim == "client" else backend.pid, signal.SIGKILL)
        assert backend.wait(30), "the transaction of a killed client lives on"
        client.kill()
    own_server.cluster.start()  # waits for the recovery that a killed server process causes
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        assert rows(conn) == before
        own_server.pay(conn)
        assert rows(conn)["charges"] == before["charges"] + 1


def test_consistency_what_breaks_a_rule_is_undone_whole(shop: Shop):
    shop.pay()
    before = rows(shop.conn)
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        shop.pay(risk_score=101)  # the intent and the charge stood already
    assert refused.value.diag.constraint_name == "charge_outcomes_risk_score_check"
    with psycopg.connect(shop.settings.need("oltp_owner_dsn")) as owner:
        entry = new_id("le")
        owner.execute("insert into oltp.ledger_entries (id, kind, effective_at) select %s, 'charge', to_timestamp("
                      "('x' || lpad(substr(%s, 4, 12), 16, '0'))::bit(64)::bigint / 1000.0)", [entry, entry])
        with pytest.raises(psycopg.errors.CheckViolation, match="debits must equal credits"):
            owner.execute("insert into oltp.ledger_postings values (%s, 1, 'cash:eur', 'eur', 5),"
                          " (%s, 2, 'fee_revenue:eur', 'eur', -4)", [entry, entry])
    assert rows(shop.conn) == before


def withdraw(conn: psycopg.Connection, account: str, amount: int) -> None:
    """What pays a merchant out, after a look at the balance."""
    movement = new_id("txn")
    conn.execute(
        "insert into oltp.balance_transactions (id, account_id, type, reporting_category, amount, fee, net, currency,"
        " status, available_on, created) values (%s, %s, 'payout', 'payout', %s, 0, %s, 'eur', 'available',"
        " clock_timestamp(), clock_timestamp())", [movement, account, -amount, -amount])
    ledger.book(conn, [movement])


@pytest.mark.parametrize("guarded", [True, False])
def test_isolation_two_withdrawals_that_each_saw_enough_money_do_not_both_take_it(shop: Shop, guarded: bool):
    """Write skew: both read the balance before either writes. Without the guard on the account, both succeed."""
    account = ledger.account_name("merchant_available", "eur", shop.account)
    shop.pay(1000)
    shop.conn.execute("update oltp.balance_transactions set available_on = clock_timestamp()")
    ledger.release(shop.conn)
    have = ledger.balance(shop.conn, account)
    if not guarded:
        ledger.allow_negative(shop.conn, account_id=shop.account, currency="eur")
    both_looked, results = threading.Barrier(2), []

    def racer() -> None:
        with psycopg.connect(shop.settings.need("oltp_dsn")) as conn:
            assert ledger.balance(conn, account) >= have
            both_looked.wait()
            try:
                withdraw(conn, shop.account, have)
                conn.commit()
                results.append("paid")
            except WriteError as error:
                results.append(str(error.code))

    racers = [threading.Thread(target=racer) for _ in range(2)]
    for thread in racers:
        thread.start()
    for thread in racers:
        thread.join()
    left = ledger.balance(shop.conn, account)
    assert (sorted(results), left) == ((["balance_insufficient", "paid"], 0) if guarded else (["paid", "paid"], -have))


def test_durability_what_was_committed_survives_kill_9_of_the_whole_server(own_server: OwnServer):
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        payments = [own_server.pay(conn) for _ in range(3)]
        own_server.kill()  # the acknowledgement is all the client ever got
    own_server.cluster.start()
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        for payment in payments:
            found = conn.execute(
                "select count(*) from oltp.charges c join oltp.balance_transactions b on b.source_id = c.id"
                " join oltp.ledger_postings p on p.entry_id = b.ledger_entry_id where c.id = %s", [payment.charge_id])
            assert found.fetchone() == (3,)
