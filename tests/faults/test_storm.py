"""Two hundred strikes: capture, following, compaction, apply, databases and document server are killed, disks are full,
writers are two and manifests spoilt, while payments are made.

`FAULT_SEED` replays a run, `STORM` says how many strikes. Afterwards source, log, raw and documents hold the same. The
sensor has a storm of its own: `test_sensor_storm.py`.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import psycopg
import pytest
from beside import beside
from company import differing, followed_to_the_end, pay
from killing import in_child, start
from oltp_shop import Shop

from resources.lake import LocalLake, open_lake
from resources.warehouse import connect_postgres
from stripe_platform import streaming
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.capture import CaptureBusyError, capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.cdc.verify import verify
from stripe_platform.embedded import servers as embedded
from stripe_platform.oltp import write
from stripe_platform.oltp.errors import WriteError
from stripe_platform.settings import Settings
from stripe_platform.warehouse import raw

pytestmark = [pytest.mark.faults, pytest.mark.servers]
KILLS = int(os.environ.get("STORM", "200"))
TABLES = ["charges", "charge_outcomes", "balance_transactions", "events"]


class Storm:
    """One platform under fire; every method ends something in the middle of its work."""

    def __init__(self, settings: Settings, home, dice: random.Random) -> None:
        self.settings, self.home, self.dice, self.counts = settings, home, dice, Counter()

    def strike(self) -> None:
        name = self.dice.choices(["follow", "capture", "compact", "apply", "disk_full", "two_writers", "manifest",
                                  "server"], [38, 19, 11, 11, 6, 6, 5, 4])[0]
        self.counts[name] += 1
        getattr(self, name)()

    def _killed(self, work: Callable[[], object], longest: float) -> None:
        in_child(work, self.dice.uniform(0.0, longest))

    def follow(self) -> None:
        self._killed(lambda: streaming.follow(self.settings, stop=threading.Event(), every=0.03), 1.2)

    def capture(self) -> None:
        self._killed(lambda: capture(self.settings), 0.4)

    def compact(self) -> None:
        lake = open_lake(self.settings)
        day = Chain.load(lake).open_day(self.settings.first_day)
        self._killed(lambda: compact_range(lake, TABLES, [day]), 0.3)

    def apply(self) -> None:
        lake = open_lake(self.settings)
        day = Chain.load(lake).open_day(self.settings.first_day)

        def work() -> None:
            compact_range(lake, TABLES, [day])
            with connect_postgres(self.settings.need("warehouse_dsn")) as conn:
                for table in TABLES:
                    raw.apply(conn, lake, table, [day])

        self._killed(work, 0.8)

    def disk_full(self) -> None:
        """The disk is full at a batch's files or at its manifest: the capture ends with an error, nothing is torn."""
        broken = self.dice.choice([(BatchWriter, "finish"), (LocalLake, "put_if_absent")])

        def full(*_args: object) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        def work() -> None:
            setattr(*broken, full)
            capture(self.settings)

        in_child(work)

    def two_writers(self) -> None:
        """A second capture beside one that is killed: it waits, is answered, or is refused; never do both write."""
        def second() -> None:
            try:
                capture(self.settings, wait_seconds=0.3)
            except CaptureBusyError:
                return

        beside = start(second)
        self.capture()
        os.waitpid(beside, 0)

    def manifest(self) -> None:
        """The newest manifest is torn or spoilt while the log is followed: it is named until it is restored."""
        lake = open_lake(self.settings)
        capture(self.settings)
        child = start(lambda: streaming.follow(self.settings, stop=threading.Event(), every=0.03))
        time.sleep(self.dice.uniform(0.2, 0.8))
        newest = manifests.last(lake)
        assert newest is not None
        path, good = newest.path, lake.read(newest.path)
        place = self.dice.randrange(len(good))
        flipped = good[:place] + bytes([good[place] ^ 1 << self.dice.randrange(8)]) + good[place + 1:]
        lake.put(path, self.dice.choice([good[:place], flipped]))
        time.sleep(self.dice.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with pytest.raises(ChainError, match=rf"^{path} .*: restore it from a backup$"):
            Chain.load(lake)  # as everything does that applies batches
        assert verify(self.settings).problems[0].startswith(path)
        lake.put(path, good)

    def server(self) -> None:
        """kill -9 of a whole server, and its start."""
        name = self.dice.choice(["oltp", "warehouse", "documents"])
        found = next(row for row in embedded.status(self.home) if row["name"] == name)
        main = psutil.Process(int(found["pid"]))
        for process in [*main.children(recursive=True), main]:
            try:
                process.kill()
            except psutil.NoSuchProcess:  # a session that ended with its client
                continue
        main.wait(30)
        embedded.up(self.home, {}, fsync=False)


def test_after_two_hundred_kills_every_store_holds_what_the_source_has(shop: Shop, servers):
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FAULT_SEED={seed}")
    settings, over, made = shop.settings, threading.Event(), Counter[str]()

    def live() -> None:
        dice = random.Random(seed + 1)  # noqa: S311 - a replayable run
        while not over.is_set():
            try:
                with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
                    while not over.is_set():
                        charge = pay(conn, shop, dice)
                        made["payments"] += 1
                        if charge is not None and dice.random() < 0.1:
                            write.create_dispute(conn, charge_id=charge, amount=150, currency="eur", reason="general")
                        over.wait(0.01)
            except (psycopg.OperationalError, WriteError):
                made["interrupted"] += 1
                over.wait(0.1)

    storm = Storm(settings, servers.home, random.Random(seed))  # noqa: S311 - a replayable run
    with beside(live, over):
        for _ in range(KILLS):
            storm.strike()
    followed_to_the_end(settings)
    print(f"FAULT_SEED={seed}: {dict(storm.counts)}, {dict(made)}")
    assert verify(settings).problems == [], f"FAULT_SEED={seed}"
    assert reconcile(settings).problems() == [], f"FAULT_SEED={seed}"
    assert differing(settings) == [], f"FAULT_SEED={seed}"
    assert made["payments"] > KILLS
