"""One random history through the real Debezium engine and through our reader: the same batches, the same states."""

from __future__ import annotations

import json
import secrets

import psycopg
import pytest
from debezium_peers import (
    DEPLOYED,
    PLACEHOLDER,
    TABLES,
    broker,
    create_topics,
    deployed_connector,
    hashes,
    published,
    states,
    write_history,
)
from psycopg import sql
from pydantic import SecretStr

from resources.lake import LocalLake
from stripe_platform.cdc import kafka
from stripe_platform.cdc.bench import PEERS, run_engine
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.debezium_values import Encoding
from stripe_platform.cdc.intake import intake, of_lake
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.replay import events
from stripe_platform.cdc.source import Source
from stripe_platform.cdc.verify import verify
from stripe_platform.settings import load_settings

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PEERS.exists(), reason="run `make peers` first")]
SOURCE = Source("peer", "public", "cdc_dsn", "cdc_slot", "cdc_publication", TABLES, declared=False)
ENCODING = Encoding(placeholder=PLACEHOLDER)


@pytest.fixture
def place(servers, own_home, monkeypatch):
    """A database of this test alone with its tables and a slot; (settings, superuser's URL)."""
    name = f"peer_{secrets.token_hex(4)}"
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        url = servers.superuser("oltp", name)
        with psycopg.connect(url, autocommit=True) as conn:
            published(conn, f"{name}_ours")
            conn.execute("select pg_copy_logical_replication_slot(%s, %s)", [f"{name}_ours", f"{name}_theirs"])
        yield load_settings().model_copy(update={
            "cdc_dsn": SecretStr(url), "cdc_slot": f"{name}_ours", "cdc_publication": "peers"}), url, f"{name}_theirs"
        admin.execute("select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
                      " where database = %s and active_pid is not null", [name])
        admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s",
                      [name])
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.mark.parametrize(("changes", "size"), [
    (4_000, 40), pytest.param(1_000_000, 2_000, marks=pytest.mark.volume)])
def test_debezium_and_we_fold_one_history_to_one_state(place, tmp_path, changes, size):
    settings, url, slot = place
    with psycopg.connect(url, autocommit=True) as conn:
        write_history(conn, 20_260_601, changes, size)
        stored = {name: conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(name))).fetchone()[0]
                  for name in TABLES}
    ours, theirs = LocalLake(tmp_path / "ours"), LocalLake(tmp_path / "theirs")
    landed = capture(settings, lake=ours, source=SOURCE)
    with broker() as address:
        create_topics(address, [f"payments.{n}" for n in ("transaction", *(f"public.{t}" for t in TABLES))], 3)
        told = run_engine(deployed_connector(url, slot, "peers"), {"kind": "kafka", "bootstrap": address},
                          until=landed.total)
        report = intake(settings, lambda positions: kafka.Topics(address, "payments", positions), stream="payments",
                        catalogue=of_lake(ours), encoding=ENCODING, lake=theirs, source=SOURCE)
        again = intake(settings, lambda positions: kafka.Topics(address, "payments", positions), stream="payments",
                       catalogue=of_lake(ours), encoding=ENCODING, lake=theirs, source=SOURCE)
    assert told["events"] >= landed.total >= changes
    assert (report.rows, report.transactions) == (landed.rows, landed.transactions)
    assert (report.order, report.refused, report.waiting) == ("total", 0, 0)
    assert again.batches == []
    found, other = states(ours), states(theirs)
    assert {name: state.num_rows for name, state in found.items()} == stored
    for name in TABLES:
        assert hashes(other[name]) == hashes(found[name])
    assert Chain.load(theirs).manifests[-1].to_lsn == Chain.load(ours).manifests[-1].to_lsn
    unread = settings.model_copy(update={"cdc_dsn": None})  # a slot of the source's is not what this lake continues
    assert verify(unread, lake=theirs, source=SOURCE).problems == []


def test_debezium_server_is_configured_as_kafka_connect_is():
    connect = json.loads((DEPLOYED / "connector.json").read_text())["config"]
    lines = (DEPLOYED / "application.properties").read_text().splitlines()
    server = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    about_connect = ("key.converter", "value.converter", "topic.creation", "exactly.once", "tasks.max")
    expected = {f"debezium.source.{name}": value.replace("${env:", "${") for name, value in connect.items()
                if not name.startswith(about_connect)}
    assert expected.items() <= server.items()
    assert [server[f"debezium.format.{part}.schemas.enable"] for part in ("key", "value")] == ["false", "false"]


def test_our_batches_written_to_a_broker_are_read_back_as_they_were(place, tmp_path):
    settings, url, _slot = place
    with psycopg.connect(url, autocommit=True) as conn:
        write_history(conn, 7, 1_500, 20)
    ours, read_back = LocalLake(tmp_path / "ours"), LocalLake(tmp_path / "read_back")
    landed = capture(settings, lake=ours, source=SOURCE)
    with broker() as address:
        create_topics(address, [f"again.{n}" for n in ("transaction", *(f"public.{t}" for t in TABLES))], 3)
        written = kafka.write(address, events(ours, "again", SOURCE, placeholder=PLACEHOLDER))
        report = intake(settings, lambda positions: kafka.Topics(address, "again", positions), stream="again",
                        catalogue=of_lake(ours), encoding=ENCODING, lake=read_back, source=SOURCE)
    assert written == landed.total + 2 * landed.transactions
    assert (report.rows, report.refused, report.order) == (landed.rows, 0, "total")
    found, other = states(ours), states(read_back)
    for name in TABLES:
        assert hashes(other[name]) == hashes(found[name])
