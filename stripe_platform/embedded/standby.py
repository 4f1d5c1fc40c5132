"""Streaming replication between embedded OLTP servers: clone, follow, promote, rejoin.

A member's name is everywhere the same: its physical slot on the primary, its `application_name`, its entry in
`synchronous_standby_names` and in `synchronized_standby_slots`. The last keeps logical slots behind the standby, so
that no reader of changes ever holds a commit that a promoted standby lacks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from stripe_platform.embedded import postgres, processes
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.postgres import Cluster

ROLE = "payments_standby"  # REPLICATION, nothing else
CONFIG = "replication.conf"
SIGNAL = "standby.signal"
WAIT_SECONDS = 180.0  # a busy machine is slow, not wrong
# Equal on every member, so that a change of roles needs no restart of the one that is promoted.
BOTH = {
    "hot_standby": "on", "hot_standby_feedback": "on", "sync_replication_slots": "on",
    "wal_retrieve_retry_interval": "100ms", "wal_receiver_status_interval": "1s",
    "wal_keep_size": "1GB",  # what pg_rewind reads back to the fork, beyond what the slots keep
}


@dataclass(frozen=True)
class Member:
    """One server of a replication group."""

    name: str
    cluster: Cluster

    def connect(self) -> psycopg.Connection:
        """The superuser's connection, each statement its own transaction."""
        return psycopg.connect(self.cluster.dsn(), autocommit=True, connect_timeout=5)


def lead(member: Member, standbys: Sequence[Member] = (), *, synchronous: bool = True) -> None:
    """Make a running server the primary of `standbys`: a commit waits for any one of them; without any, for none.

    Name a standby when it streams, not before: commits and the readers of changes wait for the named ones.
    """
    quoted = ", ".join(f'"{standby.name}"' for standby in standbys)
    values = {
        "synchronous_standby_names": f"ANY 1 ({quoted})" if standbys and synchronous else "",
        "synchronized_standby_slots": ", ".join(standby.name for standby in standbys),
    }
    _configure(member, values)
    with member.connect() as connection:
        connection.execute("select pg_reload_conf()")


def admit(primary: Member, standby: Member, password: str) -> None:
    """Role and physical slot under which a standby reads; the slot keeps the log from now on."""
    postgres.ensure_roles(primary.cluster, {ROLE: password}, {ROLE: "replication"})
    with primary.connect() as connection:
        connection.execute("select pg_create_physical_replication_slot(%(slot)s, true) where not exists"
                           " (select 1 from pg_replication_slots where slot_name = %(slot)s)", {"slot": standby.name})


def clone(primary: Member, standby: Member, password: str) -> None:
    """A base backup of the primary as a running hot standby; its data folder must be empty."""
    _program(standby, "pg_basebackup", "--pgdata", str(standby.cluster.data), "--dbname", _conninfo(primary, standby),
             "--slot", standby.name, "--wal-method", "stream", "--checkpoint", "fast", password=password)
    follow(standby, primary, password)


def follow(standby: Member, primary: Member, password: str) -> None:
    """Start a server that is down as a hot standby of `primary`, whose history must contain its own."""
    # The database name is for the slots' synchronisation: it reads the primary's catalogue.
    values = {"primary_conninfo": f"{_conninfo(primary, standby)} password={password}",
              "primary_slot_name": standby.name}
    _configure(standby, values)
    path = standby.cluster.data / SIGNAL
    path.touch(mode=0o600)
    standby.cluster.place.own(path)
    standby.cluster.start()
    _drop_own_slots(standby)


def rejoin(former: Member, primary: Member, password: str) -> str:
    """A former primary that was killed or cut off becomes a standby again; how: `rewound` or `cloned`.

    pg_rewind takes back what it wrote behind the fork: commits that no client was told of. Where it cannot, the data
    are copied anew.
    """
    former.cluster.stop()
    (former.cluster.data / "postmaster.pid").unlink(missing_ok=True)  # of the killed one; nobody works there any more
    source = f"host=127.0.0.1 port={primary.cluster.port} user=postgres dbname=postgres"
    try:
        _program(former, "pg_rewind", "--target-pgdata", str(former.cluster.data), "--source-server", source,
                 password=primary.cluster.password)
        how = "rewound"
    except ServerError:
        shutil.rmtree(former.cluster.data)
        clone(primary, former, password)
        return "cloned"
    follow(former, primary, password)
    return how


def promote(standby: Member, seconds: float = WAIT_SECONDS) -> None:
    """Make a standby the primary and wait until it takes writes. Make sure first that the old primary is dead."""
    with standby.connect() as connection:
        connection.execute("select pg_promote(false)")
        wait_until(lambda: _one(connection, "select not pg_is_in_recovery()"), f"{standby.name} was not promoted",
                   seconds, every=0.005)


def kill(member: Member) -> float:
    """kill -9 of the postmaster and all its children; returns when none is left, with the time of the first signal."""
    running = processes.working_in(member.cluster.data, postgres.PROGRAM)
    first = member.cluster.find()
    begun = time.monotonic()
    for process in sorted(running, key=lambda found: first is None or found.pid != first.pid):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    while left := processes.working_in(member.cluster.data, postgres.PROGRAM):
        for process in left:
            process.stop(1, signal.SIGKILL)
    return begun


def answers(member: Member) -> bool:
    """Whether the server takes a connection and a statement within a second."""
    try:
        with psycopg.connect(member.cluster.dsn(), connect_timeout=1, options="-c statement_timeout=1s") as connection:
            return bool(_one(connection, "select true"))
    except psycopg.Error:
        return False


def wait_in_sync(primary: Member, standby: Member, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a commit of the primary is only acknowledged when it is on the standby's disk."""
    with primary.connect() as connection:
        wait_until(
            lambda: _one(connection, "select count(*) = 1 from pg_stat_replication where application_name = %s"
                                     " and state = 'streaming' and sync_state in ('sync', 'quorum')", standby.name),
            f"{standby.name} does not follow {primary.name} synchronously", seconds)


def wait_for_slot(primary: Member, standby: Member, slot: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until the standby holds a usable copy of a logical slot, so that a promotion keeps it.

    The slot's reader must be at work: a copy is usable when the slot has moved past where the standby began.
    """
    def copied() -> bool:
        _one(leading, "select pg_log_standby_snapshot()::text")  # the slot moves over one; an idle primary writes none
        _one(following, "select pg_reload_conf()")  # wakes the worker, whose naps grow to 30 s while it cannot copy
        return _one(following, "select count(*) = 1 from pg_replication_slots where slot_name = %s and synced"
                               " and not temporary and invalidation_reason is null", slot)

    with primary.connect() as leading, standby.connect() as following:
        wait_until(copied, f"slot {slot} was not copied to {standby.name}", seconds, every=0.2)


def shutdown_position(member: Member) -> str:
    """LSN of a stopped server's last checkpoint: the end of all it ever wrote."""
    done = _program(member, "pg_controldata", "--pgdata", str(member.cluster.data))
    facts = dict(line.split(":", 1) for line in done.splitlines() if ":" in line)
    if facts["Database cluster state"].strip() != "shut down":
        raise ServerError(f"{member.name} was not shut down in order: rejoin it with pg_rewind instead")
    return facts["Latest checkpoint location"].strip()


def has_replayed(standby: Member, lsn: str) -> bool:
    """Whether a standby replayed the record that begins at `lsn`."""
    with standby.connect() as connection:
        return _one(connection, "select pg_last_wal_replay_lsn() > %s::pg_lsn", lsn)


def wait_until(holds: Callable[[], object], otherwise: str, seconds: float = WAIT_SECONDS, every: float = 0.02) -> None:
    """Poll; `ServerError` when it does not hold in time."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise ServerError(f"{otherwise} within {seconds:.0f} s: see the servers' logs")
        time.sleep(every)


def _drop_own_slots(standby: Member) -> None:
    """Slots that a former primary kept: its logical ones stop the synchronisation, its physical ones pin the log."""
    with standby.connect() as connection:
        connection.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                           " where not synced and active_pid is null")


def _configure(member: Member, values: dict[str, str]) -> None:
    """Write the member's replication settings, which are read after all others; a running server must reload them."""
    place, path = member.cluster.place, member.cluster.data / CONFIG
    text = "".join(f"{name} = '{value}'\n" for name, value in {**BOTH, **values}.items())
    path.touch(mode=0o600)
    path.write_text(text)
    place.own(path)
    main = member.cluster.data / "postgresql.conf"
    include = f"include '{CONFIG}'\n"
    if include not in main.read_text():
        with main.open("a") as file:
            file.write(include)


def _conninfo(primary: Member, standby: Member) -> str:
    return (f"host=127.0.0.1 port={primary.cluster.port} user={ROLE} dbname=postgres application_name={standby.name}"
            " connect_timeout=2 keepalives_idle=5 keepalives_interval=1 keepalives_count=3")


def _one(connection: psycopg.Connection, query: str, *values: object) -> bool:
    row = connection.execute(query.encode(), values).fetchone()
    return bool(row and row[0])


def _program(member: Member, name: str, *arguments: str, password: str | None = None) -> str:
    """Output of a PostgreSQL program, run as the servers' user; the password never stands in the process list."""
    place = member.cluster.place
    identity = place.identity()
    if password is not None:
        identity["env"] = {**identity["env"], "PGPASSWORD": password}
    done = subprocess.run([str(postgres.binaries(place) / name), *arguments], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False, **identity)
    if done.returncode != 0:
        reason = " ".join((done.stderr or "no message").split())[-400:]
        raise ServerError(f"{name} of {member.name} failed: {reason} (log: {member.cluster.log_file})")
    return done.stdout
