"""`up`, `down`, `status` on real servers: what is promised about processes, ports, files and killed servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pymongo
import pytest

from stripe_platform.embedded import servers as embedded
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.processes import Proc

Home = tuple[Path, Path]  # the home, and the private folder above it


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of this module under a private folder, started after an `up` that died while making a database."""
    private = tmp_path_factory.mktemp("private")
    private.chmod(0o700)
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in private.parents}
    home = private / "home"
    place = embedded.places.choose(home)
    place.folder("oltp")
    (place.data / "oltp" / "PG_VERSION").write_text("18\n")
    (place.data / "oltp.draft").touch()
    up(home)
    yield home
    embedded.remove(home)
    assert {folder: stat.S_IMODE(folder.stat().st_mode) for folder in private.parents} == modes
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not place.data.exists()


@pytest.fixture
def running(home: Path) -> Path:
    """The home with its servers running."""
    up(home)
    return home


def up(home: Path) -> None:
    """`up` without waiting for the disk: what is tested here are processes, which die without a power cut."""
    embedded.up(home, {}, fsync=False)


def pids(home: Path) -> dict[str, str]:
    return {row["name"]: row["pid"] for row in embedded.status(home)}


def processes(home: Path) -> list[psutil.Process]:
    """Every living process that works in the servers' data folders."""
    place = embedded.places.find(home)
    assert place is not None
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(place.data):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def connections(home: Path) -> dict[str, str]:
    lines = (home / "connections.env").read_text().splitlines()
    return {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines if line[0] != "#")}


def test_up_twice_is_harmless(running: Path) -> None:
    before, files = pids(running), (running / "connections.env").read_text()
    up(running)
    assert pids(running) == before
    assert (running / "connections.env").read_text() == files
    assert [row["state"] for row in embedded.status(running)] == ["running"] * 3


def test_two_ups_at_once_start_one_set_of_servers(home: Path) -> None:
    embedded.down(home)
    with ThreadPoolExecutor(2) as pool:
        for started in [pool.submit(up, home) for _ in range(2)]:
            started.result()
    assert sorted(p.name() for p in processes(home) if p.ppid() not in {q.pid for q in processes(home)}) == [
        "postgres", "postgres", "secantusd-rs"]


def test_secrets_are_readable_for_their_owner_alone(running: Path) -> None:
    for name in ("connections.env", "servers.json", "dagster/dagster.yaml"):
        assert stat.S_IMODE((running / name).stat().st_mode) == 0o600, name


def test_dagster_keeps_its_runs_in_postgresql(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    monkeypatch.setenv("DAGSTER_HOME", str(servers.home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert instance.get_runs_count() == 0
        assert not instance.telemetry_enabled


def test_down_leaves_no_process_and_ports_are_remembered(running: Path) -> None:
    before = connections(running)
    assert processes(running)
    embedded.down(running)
    assert processes(running) == []
    assert [row["state"] for row in embedded.status(running)] == ["stopped"] * 3
    embedded.down(running)
    embedded.up(running, {})
    assert connections(running) == before
    for name in embedded.CLUSTERS:
        with psycopg.connect(embedded.superuser(running, name)) as connection:
            assert connection.execute("show fsync").fetchone() == ("on",)


def test_after_kill_of_everything_up_recovers_with_the_data_there(running: Path) -> None:
    urls = connections(running)
    with psycopg.connect(urls["STRIPE_PLATFORM_OLTP_OWNER_DSN"]) as connection:
        connection.execute("create table public.kept as select 41 as answer")
    with pymongo.MongoClient(urls["MONGODB_URI"]) as client:
        client.kept.things.insert_one({"_id": 41})
    victims = [Proc.of(p.pid) for p in processes(running)]
    for victim in victims:
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
    for victim in victims:
        assert victim is not None
        assert victim.wait(10)
    up(running)
    with psycopg.connect(urls["STRIPE_PLATFORM_OLTP_OWNER_DSN"]) as connection:
        assert connection.execute("select answer from public.kept").fetchone() == (41,)
    with pymongo.MongoClient(urls["MONGODB_URI"]) as client:
        assert client.kept.things.count_documents({"_id": 41}) == 1


def test_a_killed_postmaster_alone_is_replaced(running: Path) -> None:
    before = pids(running)
    os.kill(int(before["oltp"]), signal.SIGKILL)
    up(running)
    after = pids(running)
    assert after["oltp"] not in ("", before["oltp"])
    assert (after["warehouse"], after["documents"]) == (before["warehouse"], before["documents"])


def test_a_pid_file_that_names_somebody_else_is_stale(
    running: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedded.down(running)
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        place = embedded.places.find(running)
        assert place is not None
        pid_file = place.data / "oltp" / "postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n{place.data / 'oltp'}\n0\n1\n\n127.0.0.1\n0 0\nready\n")
        up(running)
        assert f"its pid file names {bystander.pid}" in caplog.text
        assert bystander.poll() is None
        assert pids(running)["oltp"] != str(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def test_the_pid_file_of_a_killed_stand_alone_backend_is_stale(running: Path) -> None:
    embedded.down(running)
    place = embedded.places.find(running)
    assert place is not None
    # pg_rewind, killed while its stand-alone backend recovers, leaves such a file: the pid is negative.
    (place.data / "oltp" / "postmaster.pid").write_text(f"-26214\n{place.data / 'oltp'}\n0\n1\n\n\n0 0\n\n")
    assert pids(running)["oltp"] == ""
    embedded.down(running)
    up(running)
    assert int(pids(running)["oltp"]) > 0


def test_a_server_of_a_killed_up_that_nobody_remembers_is_found_again(running: Path) -> None:
    before = pids(running)
    stored = json.loads((running / "servers.json").read_text())
    (running / "servers.json").write_text(json.dumps({**stored, "processes": {}}))
    up(running)
    assert pids(running) == before


def test_a_taken_port_is_one_sentence_with_the_remedy(running: Path) -> None:
    ports = json.loads((running / "ports.json").read_text())
    for name in ("oltp", "documents"):
        embedded.down(running)
        with socket.create_server(("127.0.0.1", ports[name])), pytest.raises(ServerError) as caught:
            up(running)
        message = str(caught.value)
        assert message.startswith(f"Port {ports[name]} of the ")
        assert f"(pid {os.getpid()})" in message
        assert "delete" in message
        assert "ports.json" in message
        assert "\n" not in message


def test_without_its_port_file_a_running_server_moves_to_a_new_port(running: Path) -> None:
    before = connections(running)
    (running / "ports.json").unlink()
    up(running)
    after = connections(running)
    assert before["STRIPE_PLATFORM_OLTP_DSN"] != after["STRIPE_PLATFORM_OLTP_DSN"]
    assert [row["state"] for row in embedded.status(running)] == ["running"] * 3
    psycopg.connect(after["STRIPE_PLATFORM_OLTP_DSN"]).close()


def test_a_lost_password_file_is_one_sentence(running: Path) -> None:
    stored = (running / "servers.json").read_text()
    try:
        (running / "servers.json").unlink()
        with pytest.raises(ServerError, match=r"refuses the password in .*servers\.json: restore that file"):
            up(running)
    finally:
        (running / "servers.json").write_text(stored)
        (running / "servers.json").chmod(0o600)


def test_the_log_names_the_broken_rule_and_not_the_value(running: Path) -> None:
    secret = "4242424242424242"
    with psycopg.connect(connections(running)["STRIPE_PLATFORM_OLTP_OWNER_DSN"], autocommit=True) as connection:
        connection.execute("create table if not exists public.cards (number text constraint one_card unique)")
        connection.execute("insert into public.cards values (%s) on conflict do nothing", [secret])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into public.cards values (%s)", [secret])
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("select %s::text::uuid", [secret]).fetchall()
    place = embedded.places.find(running)
    assert place is not None
    log = (place.data / "oltp.log").read_text()
    assert "one_card" in log
    assert secret not in log.replace(f'type uuid: "{secret}"', "")


def test_the_clusters_are_set_up_for_their_work(running: Path) -> None:
    expected = {
        "oltp": {"wal_level": "logical", "synchronous_commit": "on", "TimeZone": "UTC"},
        "warehouse": {"wal_level": "minimal", "max_wal_senders": "0", "synchronous_commit": "off", "TimeZone": "UTC"},
    }
    for name, settings in expected.items():
        with psycopg.connect(embedded.superuser(running, name)) as connection:
            found = dict(connection.execute("select name, setting from pg_settings").fetchall())
            assert {key: found[key] for key in settings} == settings
            assert found["listen_addresses"] == "127.0.0.1"


def test_a_password_is_always_asked(running: Path) -> None:
    url = connections(running)["STRIPE_PLATFORM_OLTP_DSN"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.split(":", 2)[0] + "://payments_app:wrong@" + url.rsplit("@", 1)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to change user")
def test_root_runs_the_servers_as_another_user_and_outside_a_private_folder(running: Path) -> None:
    place = embedded.places.find(running)
    assert place is not None
    assert place.data.parent == embedded.places.ELSEWHERE
    assert {p.username() for p in processes(running)} == {embedded.places.SYSTEM_USER}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to change user")
def test_programs_in_a_private_folder_are_copied(running: Path, tmp_path: Path) -> None:
    place = embedded.places.find(running)
    assert place is not None
    folder = tmp_path / "programs"
    folder.mkdir(mode=0o700)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o700)
    copy = place.program([folder])
    try:
        assert copy.is_relative_to(embedded.places.ELSEWHERE)
        assert place.reachable(copy / "programs" / "run")
        assert place.program([folder]) == copy
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["open folder", "private folder"])
def test_a_home_deleted_under_its_running_servers_is_made_anew(mode: int) -> None:
    home = Path(tempfile.mkdtemp()) / "home"  # pytest's own folders are private
    home.parent.chmod(mode)
    up(home)
    first = processes(home)
    with psycopg.connect(connections(home)["STRIPE_PLATFORM_WAREHOUSE_DSN"], autocommit=True) as connection:
        connection.execute("create table kept_in_memory as select generate_series(1, 100000)")  # a checkpoint has work
    place = embedded.places.find(home)
    assert place is not None
    shutil.rmtree(home)
    up(home)
    try:
        assert not [p for p in first if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert {row["state"] for row in embedded.status(home)} == {"running"}
        with psycopg.connect(connections(home)["STRIPE_PLATFORM_WAREHOUSE_DSN"]) as connection:
            assert connection.execute("select to_regclass('kept_in_memory')").fetchone() == (None,)
    finally:
        embedded.remove(home)
        home.parent.rmdir()
