"""Writers for a drill: processes that pay through the write API and note every commit they were told of.

A note is one line in a file of the client's own, written after the answer and before the next payment, without fsync:
the client survives, only servers are killed. What is not noted was not promised.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import psycopg

from stripe_platform.embedded.errors import ServerError
from stripe_platform.oltp import write

REFUND_EVERY = 8
RETRY_SECONDS = 0.02
DOUBT = "?"


@dataclass(frozen=True)
class Payer:
    """Who pays whom: one customer per client, so that clients do not wait for each other's rows."""

    account_id: str
    customer_id: str
    payment_method_id: str


@dataclass(frozen=True)
class Ack:
    """One acknowledged payment. `at`: the machine's monotonic clock, which all its processes share."""

    charge_id: str
    port: int
    at: float


class Load:
    """Concurrent clients, each one process with one connection; `dsn` names all servers, read-write wanted."""

    def __init__(self, dsn: str, payers: Sequence[Payer], folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop: Event = context.Event()
        self._files = [folder / f"client-{n}.acks" for n in range(len(payers))]
        self._clients: list[SpawnProcess] = [
            context.Process(target=_client, args=(dsn, payer, str(file), self._stop, os.getpid()), daemon=True)
            for payer, file in zip(payers, self._files, strict=True)
        ]
        self._stuck = 0
        for file in self._files:
            file.touch(mode=0o600)
        for client in self._clients:
            client.start()

    def acknowledged(self) -> list[Ack]:
        """What the clients were told so far, in the order of time; raises when a client failed."""
        failed = [client.exitcode for client in self._clients if client.exitcode not in (None, 0)]
        if failed:
            raise ServerError(f"{len(failed)} clients of the load ended by themselves: their errors stand above")
        lines = [line.split() for line in self._lines() if not line.startswith(DOUBT)]
        return sorted((Ack(charge, int(port), float(at)) for charge, port, at in lines), key=lambda ack: ack.at)

    def in_doubt(self) -> int:
        """Payments that were cut off before their answer: each may be there or not."""
        return sum(line.startswith(DOUBT) for line in self._lines())

    def stop(self, patience: float = 60.0) -> None:
        """End the clients behind their current payment; one that does not end in time is killed and an error."""
        self._stop.set()
        limit = time.monotonic() + patience
        for client in self._clients:
            client.join(max(0.0, limit - time.monotonic()))
            if client.is_alive():
                client.kill()
                client.join()
                self._stuck += 1
        if self._stuck and patience:
            raise ServerError(f"{self._stuck} clients of the load did not end within {patience:.0f} s: a commit hangs,"
                              " see the servers' logs")

    def _lines(self) -> list[str]:
        return [line for file in self._files for line in file.read_text().splitlines(keepends=True)
                if line.endswith("\n")]


def _client(dsn: str, payer: Payer, file: str, stop: Event, parent: int) -> None:
    """Pay until told to stop, or until the drill is gone; a lost connection is made anew, to whoever is primary."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the drill, which then ends its clients
    number = 0
    with Path(file).open("ab", buffering=0) as notes:
        while not stop.is_set() and os.getppid() == parent:
            try:
                connection = psycopg.connect(dsn, autocommit=True)
            except psycopg.OperationalError:
                time.sleep(RETRY_SECONDS)
                continue
            try:
                while not stop.is_set() and os.getppid() == parent:
                    number += 1
                    charge = _pay(connection, payer, number)
                    notes.write(f"{charge} {connection.info.port} {time.monotonic()}\n".encode())
            except (psycopg.OperationalError, psycopg.InterfaceError):
                notes.write(f"{DOUBT}\n".encode())
            finally:
                with suppress(psycopg.Error):
                    connection.close()


def _pay(connection: psycopg.Connection, payer: Payer, number: int) -> str:
    """One transaction: intent, charge, outcome, one update of the payer, now and then a refund; the charge's id."""
    with connection.transaction():
        payment = write.create_payment(
            connection, account_id=payer.account_id, customer_id=payer.customer_id,
            payment_method_id=payer.payment_method_id, amount=100 + number, currency="eur")
        connection.execute("update oltp.customers set delinquent = not delinquent where id = %s", [payer.customer_id])
        if number % REFUND_EVERY == 0:
            write.refund_charge(connection, charge_id=payment.charge_id, amount=100, currency="eur")
    return payment.charge_id
