"""Any PostgreSQL source through the real Debezium engine: what nobody declared lands as our own reader lands it."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from debezium_peers import DEPLOYED, PLACEHOLDER, TABLES, deployed_connector, hashes, published, states, write_history
from psycopg import sql

from resources.lake import LocalLake
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.bench import PEERS, run_engine
from stripe_platform.cdc.capture import CaptureReport, capture
from stripe_platform.cdc.debezium_values import DEFAULT, OURS
from stripe_platform.cdc.describe import asker
from stripe_platform.cdc.intake import IntakeReport, intake
from stripe_platform.cdc.jsonl import Files
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.cdc.verify import verify
from stripe_platform.settings import Settings, load_settings

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PEERS.exists(), reason="run `make peers` first")]
OURS_ALONE = json.loads((DEPLOYED / "connector.json").read_text())["config"]
ANY = json.loads((DEPLOYED / "source.json").read_text())["config"]
NAMES = {"topic.prefix", "slot.name", "publication.name", "topic.creation.transactions.include"}
DESCRIBED = {name: value for name, value in ANY.items() if OURS_ALONE.get(name) != value and name not in NAMES}
DEFAULTS = {"key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true",
            "decimal.handling.mode": "precise", "time.precision.mode": "adaptive", "tombstones.on.delete": "true"}
MORE = """
create table loose (a int, b text, n numeric(12,3), primary key (a)); alter table loose replica identity full;
create table unkeyed (a int, b text); alter table unkeyed replica identity full;
create table moving (
    id serial primary key, code varchar(9) not null default 'x', e mood, n numeric(10,2), u numeric, t3 timestamp(3),
    ti3 time(3), ti time, d date, j json, words text[], _op text);
"""


@dataclass
class Shop:
    """A database of this test alone. `slots`: those that the engine may read, one a run."""

    settings: Settings
    source: ConfiguredSource
    url: str
    slots: list[str]
    folder: Path

    def engine(self, until: int, **more: str) -> Path:
        """What the engine makes of the slot, as a file."""
        path = self.folder / f"{secrets.token_hex(4)}.jsonl"
        run_engine(deployed_connector(self.url, self.slots.pop(), "peers") | more,
                   {"kind": "jsonl", "path": str(path)}, until=until, timeout=120)
        return path

    def read(self, path: Path, name: str, *, asks: bool, encoding=OURS) -> tuple[LocalLake, IntakeReport]:
        lake = LocalLake(self.folder / name)
        report = intake(self.settings, lambda positions: Files([path], positions), stream="payments", lake=lake,
                        source=self.source, ask=asker(self.settings, self.source) if asks else None,
                        encoding=replace(encoding, placeholder=PLACEHOLDER))
        assert intake(self.settings, lambda positions: Files([path], positions), stream="payments", lake=lake,
                      source=self.source, encoding=encoding).batches == []
        assert verify(self.settings, lake=lake, source=self.source).problems == []
        return lake, report


@pytest.fixture
def shop(servers, own_home, tmp_path, monkeypatch):
    name = f"peer_{secrets.token_hex(4)}"
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        url = servers.superuser("oltp", name)
        monkeypatch.setenv("PEER_DSN", url)
        slots = [f"{name}_{n}" for n in range(3)]
        with psycopg.connect(url, autocommit=True) as conn:
            published(conn, f"{name}_ours")
            conn.execute(MORE)
            conn.execute("alter publication peers add table loose, unkeyed, moving")
            for slot in slots:
                conn.execute("select pg_copy_logical_replication_slot(%s, %s)", [f"{name}_ours", slot])
        source = ConfiguredSource("peer", "public", "PEER_DSN", f"{name}_ours", "peers", {})
        yield Shop(load_settings(), source, url, slots, tmp_path)
        admin.execute("select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
                      " where database = %s and active_pid is not null", [name])
        admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s",
                      [name])
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


def moves(url: str) -> None:
    """Rows that come, change their key, lose their long values, and go."""
    run(url, "insert into loose select n, 'b' || n, n / 7.0 from generate_series(1, 20) n",
        "update loose set b = null where a < 5", "update loose set a = a + 100 where a between 5 and 8",
        "delete from loose where a > 15 and a < 100",
        "insert into unkeyed values (1, 'x'), (1, 'x'), (2, null)", "update unkeyed set b = 'y' where a = 2",
        "delete from unkeyed where ctid = (select ctid from unkeyed where a = 1 limit 1)",
        "insert into moving (e, n, u, t3, ti3, ti, d, j, words, _op) select 'ok', 1.5, 1e10, '2026-01-01 00:00:01.5',"
        " '01:02:03.4', '01:02:03.456789', '2026-06-01', '{\"a\": 1}', '{a,b}', 'own' from generate_series(1, 3)",
        "update moving set id = 100 where id = 1", "delete from moving where id = 2")


def events_of(landed: CaptureReport) -> int:
    """Events of what was captured: the one update of an unkeyed row is two changes here."""
    return landed.total - 1


def versions(lake: LocalLake) -> dict[str, list[str]]:
    chain = Chain.load(lake)
    return {table: [v.schema_id for v in catalogue.versions(lake, table, chain=chain)]
            for table in catalogue.tables(chain)}


def columns(lake: LocalLake, table: str) -> list[list[tuple[str, str]]]:
    return [[(c.name, c.type) for c in v.columns] for v in catalogue.versions(lake, table)]


def test_what_the_catalogue_describes_lands_as_our_own_reader_lands_it(shop):
    with psycopg.connect(shop.url, autocommit=True) as conn:
        write_history(conn, 5, 600, 10)
    moves(shop.url)
    ours = LocalLake(shop.folder / "ours")
    landed = capture(shop.settings, lake=ours, source=shop.source)
    theirs, report = shop.read(shop.engine(events_of(landed)), "theirs", asks=True)
    assert (report.rows, report.refused, report.order) == (landed.rows, 0, "total")
    assert versions(theirs) == versions(ours)
    keys = TABLES | {"loose": ("a",), "moving": ("id",)}
    found, other = states(ours, keys), states(theirs, keys)
    assert {name: hashes(other[name]) for name in keys} == {name: hashes(found[name]) for name in keys}


def test_what_the_events_describe_lands_without_the_source_and_follows_its_ddl(shop):
    with psycopg.connect(shop.url, autocommit=True) as conn:
        write_history(conn, 6, 600, 10)
    moves(shop.url)
    run(shop.url, "alter table moving add more int not null default 5, add note text, drop column u",
        "insert into moving (code) values ('y')", "alter table moving alter more type bigint",
        "update moving set more = 7 where id = 3", "truncate moving", "insert into moving (more) values (1), (2)")
    ours = LocalLake(shop.folder / "ours")
    landed = capture(shop.settings, lake=ours, source=shop.source)
    theirs, report = shop.read(shop.engine(events_of(landed), **DESCRIBED), "theirs", asks=False)
    assert (report.rows, report.refused, report.order) == (landed.rows, 0, "total")
    for table in ("pairs", "documents", "loose", "unkeyed", "moving"):
        own = [[(name, "mood" if kind == "public.mood" else kind) for name, kind in version]
               for version in columns(ours, table)]
        assert columns(theirs, table) == own, table
    found, other = states(ours), states(theirs)
    for name in TABLES:
        assert hashes(other[name]) == hashes(found[name])


def test_debeziums_own_defaults_need_nothing_but_their_schemas(shop):
    moves(shop.url)
    ours = LocalLake(shop.folder / "ours")
    landed = capture(shop.settings, lake=ours, source=shop.source)
    gone = sum(f.ops.get("d", 0) for m in Chain.load(ours).manifests for name in ("loose", "moving")
               for f in m.files_of(name))  # each is followed by a tombstone
    gone += 1  # and the one that was deleted of the unkeyed
    more = DEFAULTS | {"unavailable.value.placeholder": PLACEHOLDER}
    theirs, report = shop.read(shop.engine(events_of(landed) + gone, **more), "theirs", asks=False, encoding=DEFAULT)
    assert (report.rows, report.refused) == (landed.rows, 0)
    keys = {"loose": ("a",), "moving": ("id",)}
    found, other = states(ours, keys), states(theirs, keys)
    assert {name: hashes(other[name]) for name in keys} == {name: hashes(found[name]) for name in keys}
