"""`stripe-platform ha drill`: kill -9 of a primary under load, failover, return, and planned switchover, with proof.

Two servers of its own, writers in processes of their own, a reader of changes that knows nothing of the drill. What
was promised to a client must be on the new primary; what the reader captured must fold to the source's content.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from resources.lake import Lake, open_lake
from stripe_platform import progress
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import CaptureError, capture
from stripe_platform.cdc.slot import OPTIONS
from stripe_platform.cdc.verify import verify
from stripe_platform.embedded import captured, postgres, standby
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.lag import ReplayLag, percentile
from stripe_platform.embedded.load import Ack, Load, Payer
from stripe_platform.embedded.pair import PUBLICATION, SLOT, Pair, make_payers
from stripe_platform.embedded.scratch import scratch
from stripe_platform.embedded.standby import Member
from stripe_platform.settings import Settings

GOAL_RTO, GOAL_LAG = 5.0, 100.0  # seconds, milliseconds
PROBES, PROBE_SECONDS = 3, 0.2  # so many silent probes in a row are a dead primary
STEPS = 7
WARM = 100  # payments before anything is measured


def drill(folder: Path, *, seconds: float = 10.0, clients: int = 4, fsync: bool = True) -> dict[str, Any]:
    """Run the drill in a scratch folder below `folder`, which is cleared however it ends; its report."""
    with scratch(folder, "ha-drill") as home, progress.stage("failover drill", STEPS) as advance:
        pair = Pair.below(home, fsync=fsync)
        pair.start_first()
        with psycopg.connect(pair.url("payments_owner")) as connection:
            before = set(captured.published(connection, PUBLICATION))
            payers = make_payers(connection, clients)
        advance(1)
        pair.start_second()
        advance(1)
        with _reader(pair.settings), _load(pair, payers) as load:
            run = _Run(pair, load, before)
            for step in (lambda: run.measure_lag(seconds), run.fail_over, run.come_back, run.hand_over):
                step()
                advance(1)
                time.sleep(min(seconds, 2.0))
            load.stop()
            run.compare()
            advance(1)
        return run.report()


class _Run:
    """What the drill does under load, step by step, and what it finds."""

    def __init__(self, pair: Pair, load: Load, before: set[str]) -> None:
        self.pair, self.load, self.before = pair, load, before  # `before`: tables with rows of the schema's own
        self.missing: set[str] = set()
        self.facts: dict[str, Any] = {}
        self.cdc: dict[str, Any] = {}
        self.lags: list[float] = []
        self.measured = (0.0, 0.0)  # from when to when the lag was measured
        self.unexplained = 0
        self.rejoining = 0.0

    def measure_lag(self, seconds: float) -> None:
        """Load on both servers, until the standby holds a copy of the logical slot and the time is over."""
        standby.wait_until(lambda: len(self.load.acknowledged()) > WARM, "the load did not begin")
        standby.wait_for_slot(self.pair.first, self.pair.second, SLOT)
        lag, began = ReplayLag(self.pair.first.cluster.dsn(), self.pair.second.cluster.dsn()), time.monotonic()
        lag.start()
        time.sleep(seconds)
        self.lags, self.measured = lag.stop(), (began, time.monotonic())
        self.facts["replay_lag_p99_ms"] = round(percentile(self.lags, 0.99) * 1000, 3)

    def fail_over(self) -> None:
        """kill -9 of the primary; the standby is promoted when it was silent long enough."""
        first, second = self.pair.first, self.pair.second
        killed = standby.kill(first)
        _wait_for_silence(first)
        silent = time.monotonic()
        standby.promote(second)
        promoted = time.monotonic()
        back = self._first_ack(second, killed)
        standby.lead(second)  # alone: commits wait for nobody until there is a standby again
        self.missing |= self._missing(second, [a for a in self.load.acknowledged() if a.port == first.cluster.port])
        self.facts |= {"rto_seconds": round(back - killed, 3), "detect_seconds": round(silent - killed, 3),
                       "promote_seconds": round(promoted - silent, 3)}

    def come_back(self) -> None:
        """The killed server becomes the standby of the new primary, and gets its copy of the slot."""
        first, second, password = self.pair.first, self.pair.second, self.pair.standby_password
        self.rejoining = time.monotonic()
        standby.admit(second, first, password)
        how = standby.rejoin(first, second, password)
        standby.lead(second, [first])
        standby.wait_in_sync(second, first)
        self.facts |= {"rejoined": how, "rejoin_seconds": round(time.monotonic() - self.rejoining, 3)}
        standby.wait_for_slot(second, first, SLOT)

    def hand_over(self) -> None:
        """Planned: the primary ends in order, the standby has all of its log and is promoted; roles are as at first."""
        first, second, password = self.pair.first, self.pair.second, self.pair.standby_password
        begun = time.monotonic()
        second.cluster.stop()  # fast: sends the standby all it has, then ends
        end = standby.shutdown_position(second)
        if not standby.has_replayed(first, end):
            raise ServerError(f"{first.name} has not replayed {end}, where {second.name} ended: it was not promoted,"
                              f" nothing is lost; start {second.name} again")
        standby.promote(first)
        back = self._first_ack(first, begun)
        self.missing |= self._missing(first, self.load.acknowledged())
        standby.lead(first)
        standby.admit(first, second, password)
        standby.follow(second, first, password)
        standby.lead(first, [second])
        standby.wait_in_sync(first, second)
        self.facts |= {"switchover_seconds": round(back - begun, 3),
                       "switchback_seconds": round(back - self.rejoining, 3)}

    def compare(self) -> None:
        """The last capture; then promises against the source, and the source against the captured log."""
        settings, acks = self.pair.settings, self.load.acknowledged()
        self.missing |= self._missing(self.pair.first, acks)
        last, lake = capture(settings), open_lake(settings)
        with psycopg.connect(settings.need("oltp_owner_dsn"), options=OPTIONS) as connection:
            tables = [name for name in captured.published(connection, PUBLICATION) if name not in self.before]
            found = captured.compare(lake, connection, tables)
        charges, updates = found.sources.get("charges", 0), found.updates.get("customers", 0)  # one in every payment
        self.unexplained = max(0, charges - len(acks) - self.load.in_doubt())
        whole = verify(settings)
        self.cdc = {
            "lost": found.lost + max(0, charges - updates), "doubled": found.doubled + max(0, updates - charges),
            "changes": found.changes, "transactions": whole.transactions, "batches": whole.batches,
            "epochs": _by_epoch(lake), "reached_end": last.reached_end,
            "problems": whole.problems, "equal": found.equal, "tables": found.tables,
        }

    def report(self) -> dict[str, Any]:
        """One object in the shape of the benches."""
        acks = self.load.acknowledged()
        facts = {"lost": len(self.missing), "doubled": self.cdc["doubled"] + self.unexplained,
                 "acknowledged": len(acks), "in_doubt": self.load.in_doubt(), **self.facts}
        goals = {"lost": 0, "doubled": 0, "rto_seconds": GOAL_RTO, "replay_lag_p99_ms": GOAL_LAG}
        bars = {name: {"value": facts[name], "goal": goal, "met": facts[name] <= goal} for name, goal in goals.items()}
        bars["cdc_lost"] = {"value": self.cdc["lost"], "goal": 0, "met": self.cdc["lost"] == 0}
        equal = self.cdc["equal"] and self.cdc["reached_end"] and not self.cdc["problems"]
        bars["cdc_equal"] = {"value": equal, "goal": True, "met": equal}
        return {"bench": "ha", "machine": _machine(self.pair.first), **facts, "cdc": self.cdc,
                "figures": _figures(self.lags, acks, *self.measured), "ratios": {}, "bars": bars}

    def _first_ack(self, member: Member, after: float) -> float:
        """Time of the first payment that a client was told of by this member."""
        def first() -> float | None:
            port = member.cluster.port
            return next((ack.at for ack in self.load.acknowledged() if ack.port == port and ack.at > after), None)

        standby.wait_until(first, f"no client could write to {member.name}", every=0.05)
        return first() or 0.0

    def _missing(self, member: Member, acks: list[Ack]) -> set[str]:
        """Acknowledged charges that the member does not hold."""
        with psycopg.connect(self.pair.url_of(member, "payments_app")) as connection:
            there = {charge for (charge,) in connection.execute("select id from oltp.charges")}
        return {ack.charge_id for ack in acks} - there


@contextmanager
def _load(pair: Pair, payers: list[Payer]) -> Iterator[Load]:
    load = Load(pair.url("payments_app"), payers, pair.home)
    try:
        yield load
    finally:
        load.stop(0)


@contextmanager
def _reader(settings: Settings) -> Iterator[None]:
    """The change data capture, again and again, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    reader = context.Process(target=_capture_on, args=(settings, stop, os.getpid()), daemon=True)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join(30)
        if reader.is_alive():
            reader.kill()
            reader.join()


def _capture_on(settings: Settings, stop: Event, parent: int) -> None:
    """Capture until told to stop. A server that is gone is tried again: the drill's last capture shows what stays."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not stop.is_set() and os.getppid() == parent:
        try:
            capture(settings)
        except (psycopg.Error, CaptureError):
            stop.wait(0.2)
        stop.wait(0.1)


def _wait_for_silence(member: Member) -> None:
    """What a failover manager does: a primary is given up when it left several probes in a row unanswered."""
    silent = 0
    while True:
        silent = 0 if standby.answers(member) else silent + 1
        if silent == PROBES:
            return
        time.sleep(PROBE_SECONDS)


def _by_epoch(lake: Lake) -> dict[str, int]:
    """Changes captured in each epoch: none is empty when the reader went on behind every promotion."""
    changes = {epoch.name: 0 for epoch in manifests.load_epochs(lake)}
    for manifest in manifests.Chain.load(lake).manifests:
        changes[manifest.epoch] += manifest.changes
    return changes


def _figures(samples: list[float], acks: list[Ack], began: float, killed: float) -> dict[str, dict[str, object]]:
    milliseconds = [sample * 1000 for sample in samples]
    by_second = Counter(int(ack.at - began) for ack in acks if began <= ack.at < killed)
    full = [by_second[second] for second in range(int(killed - began))] or [0]
    return {
        "replay_lag": {"median": round(median(milliseconds), 3), "min": round(min(milliseconds), 3),
                       "max": round(max(milliseconds), 3), "unit": "ms", "samples": len(samples)},
        "payments": {"median": median(full), "min": min(full), "max": max(full), "unit": "1/s"},
    }


def _machine(member: Member) -> dict[str, object]:
    return {"cpus": os.cpu_count(), "system": platform.system(), "processor": platform.machine(),
            "postgresql": postgres.version(member.cluster.place), "fsync": member.cluster.fsync}
