"""`bench cdc --follow`: seconds from a payment's commit until raw and the documents show it, while payments come.

A platform of its own, in a scratch folder: servers, `cdc follow` as the process that production runs, and writers that
make payments at a steady pace. The commits of a batch are taken as evenly spread between its first and its last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from dotenv import dotenv_values
from pydantic import SecretStr
from pymongo import MongoClient

from stripe_platform import progress
from stripe_platform.bench import Report
from stripe_platform.embedded.scratch import scratch
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_books
from stripe_platform.reference.database import connect
from stripe_platform.reference.sync import sync
from stripe_platform.reference.write import register_merchant, rename_merchant
from stripe_platform.settings import Settings

WRITERS, CHANGES_PER_PAYMENT = 2, 13
RATE = 1_100  # changes a second that are aimed at
P50_GOAL, P99_GOAL, REFERENCE_GOAL = 0.5, 2.0, 2.0
PATIENCE = 20.0
STORES = ("raw", "documents")


def follow(report: Report, settings: Settings, *, seconds: float = 20.0, rounds: int = 3) -> None:
    """Latencies by store as figures and bars, and of a change of the reference until raw and documents show it."""
    with scratch(settings.home, "follow") as folder, _platform(folder / "home") as own, \
            progress.stage("follow", rounds + 1) as advance:  # fmt: skip
        shop = _shop(own)
        advance(1)
        for _ in range(rounds):
            found = _round(own, shop, seconds, report)
            report.add("changes a second while followed", found["changes"] / found["paid_for"], "changes a second")
            for store in STORES:
                lag = found["lag_seconds"][store]
                report.add(f"commit to visible in {store}, p50", lag["p50"], "seconds")
                report.add(f"commit to visible in {store}, p99", lag["p99"], "seconds")
            advance(1)
    for store in STORES:
        for share, goal in (("p50", P50_GOAL), ("p99", P99_GOAL)):
            value = report.median(f"commit to visible in {store}, {share}")
            report.bar(f"visible in {store}, {share}", value, goal, at_most=True)
    for store in STORES:
        report.bar(f"reference change in {store}", report.median(f"reference change to visible in {store}"),
                   REFERENCE_GOAL, at_most=True)


@contextmanager
def _platform(home: Path) -> Iterator[Settings]:
    """Servers of their own, as `up` makes them, and the settings to reach them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_PLATFORM_")}
    environment["STRIPE_PLATFORM_HOME"] = str(home)
    tool = [sys.executable, "-c", "from stripe_platform.cli import main; main()"]
    subprocess.run([*tool, "up"], env=environment, check=True, capture_output=True)
    try:
        values = dotenv_values(home / "connections.env")
        known = {name: SecretStr(str(value)) for variable, value in values.items()
                 if (name := variable.removeprefix("STRIPE_PLATFORM_").lower()).endswith("_dsn")}
        known["MONGODB_URI"] = SecretStr(str(values["MONGODB_URI"]))
        yield Settings(home=home, **known)  # type: ignore[arg-type]
    finally:
        subprocess.run([*tool, "down"], env=environment, check=False, capture_output=True)


def _shop(settings: Settings) -> tuple[str, str, str]:
    with connect(settings) as conn:
        account = register_merchant(conn, name="Shop", country="FR", currency="eur", mcc="5411")
    sync(settings)
    with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
        with conn.transaction():
            seed_books(conn)
        customer = write.create_customer(conn, open_keyring(settings), name="Ada", email=None, country="FR",
                                         currency="eur")
        method = write.create_payment_method(conn, customer_id=customer, brand="visa", last4="4242", exp_month=1,
                                             exp_year=2030, funding="credit", country="FR")
    return account, customer, method


def _round(settings: Settings, shop: tuple[str, str, str], seconds: float, report: Report) -> dict:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_PLATFORM_")}
    environment["STRIPE_PLATFORM_HOME"] = str(settings.home)
    follower = subprocess.Popen(
        [sys.executable, "-c", "from stripe_platform.cli import main; main()", "cdc", "follow", "--json"],
        env=environment, stdout=subprocess.PIPE, text=True)
    over, begun = threading.Event(), time.monotonic()
    writers = [threading.Thread(target=_pay, args=(settings, shop, over)) for _ in range(WRITERS)]
    try:
        _rename(settings, shop[0], "ready")  # the follower is up when it carries this
        begun = time.monotonic()
        for writer in writers:
            writer.start()
        time.sleep(seconds / 2)
        for store, took in _rename(settings, shop[0], f"{time.time()}").items():
            report.add(f"reference change to visible in {store}", took, "seconds")
        time.sleep(seconds / 2)
    finally:
        over.set()
        for writer in writers:
            writer.join()
        paid_for = time.monotonic() - begun
        follower.terminate()
    out, _ = follower.communicate(timeout=120)
    return json.loads(out.strip().splitlines()[-1]) | {"paid_for": paid_for}


def _pay(settings: Settings, shop: tuple[str, str, str], over: threading.Event) -> None:
    account, customer, method = shop
    pause, due = WRITERS * CHANGES_PER_PAYMENT / RATE, time.monotonic()
    with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
        while not over.is_set():
            write.create_payment(conn, account_id=account, customer_id=customer, payment_method_id=method, amount=1000,
                                 currency="eur")
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))


def _rename(settings: Settings, account: str, name: str) -> dict[str, float]:
    """Seconds until each store shows a merchant's new name; raw does when the copies in the OLTP did."""
    with connect(settings) as conn:
        rename_merchant(conn, account, name)
    begun, took = time.monotonic(), dict[str, float]()
    documents: MongoClient[dict[str, Any]] = MongoClient(settings.need("mongodb_uri"))
    with psycopg.connect(settings.need("warehouse_dsn"), autocommit=True) as raw, documents:
        merchants = documents[settings.mongodb_database]["merchants"]
        while time.monotonic() - begun < PATIENCE:
            stands = raw.execute("select to_regclass('raw.accounts')").fetchone() != (None,)
            if stands and raw.execute("select name from raw.accounts where id = %s", [account]).fetchone() == (name,):
                took.setdefault("raw", time.monotonic() - begun)
            if (merchants.find_one({"_id": account}, {"name": 1}) or {}).get("name") == name:
                took.setdefault("documents", time.monotonic() - begun)
            if len(took) == 2:
                return took
            time.sleep(0.01)
    raise TimeoutError(f"a changed merchant was not seen within {PATIENCE:.0f} s in "
                       f"{' and '.join({'raw', 'documents'} - took.keys())}: look at the follower's log")
