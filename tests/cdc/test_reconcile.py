"""The log's fold is compared with the source at one position; every kind of error is found and named by its key."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
import threading

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cdc_source import FIRST, account_id, accounts, close, owner, rate, reference

from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc import segments
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.proof import Proof, TableProof, verified
from stripe_platform.cdc.reconcile import reconcile
from stripe_platform.cdc.snapshots import snapshot_range
from stripe_platform.cdc.verify import verify

pytestmark = pytest.mark.servers
MANY = 400


@pytest.fixture
def log(source, store):
    """Two closed days and an open one: rows made, changed, deleted."""
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 0, MANY)
        rate(connection, FIRST, "0.92")
        close(connection, FIRST)
        connection.execute("update oltp.accounts set name = name || '!' where id < %s", [account_id(50)])
        connection.execute("delete from oltp.accounts where id >= %s", [account_id(MANY - 10)])
        capture(source)
        accounts(connection, MANY, 5)
    capture(source)
    return store


def proof_of(proof: Proof, table: str) -> TableProof:
    return next(t for t in proof.tables if t.table == table)


def test_a_whole_log_equals_its_source_and_says_how_far(source, log):
    proof = reconcile(source)
    assert (proof.equal, proof.problems()) == (True, [])
    assert (proof_of(proof, "accounts").rows, proof_of(proof, "accounts").rows_of_log) == (MANY - 5, MANY - 5)
    assert verified(log)["accounts"]["verified_through"] == proof.lsn
    assert verified(log)["charges"]["rows"] == 0


def test_writers_that_go_on_meanwhile_do_not_disturb_the_proof(source, log):
    over = threading.Event()

    def write() -> None:
        with owner(source) as connection:
            for n in range(1000, 4000, 10):
                if over.is_set():
                    return
                accounts(connection, n, 10)
                connection.execute("update oltp.accounts set name = name || '?' where id < %s", [account_id(9)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        proofs = [reconcile(source, tables=["accounts"]) for _ in range(3)]
    finally:
        over.set()
        writer.join()
    assert [p.problems() for p in proofs] == [[], [], []]
    assert proof_of(proofs[-1], "accounts").rows > MANY


def test_a_snapshot_in_between_shortens_the_way_and_changes_nothing(source, log):
    compact_range(log, ["accounts"], [FIRST])
    snapshot_range(log, ["accounts"], [FIRST])
    assert reconcile(source, tables=["accounts"]).equal


def rewrite(log, change, first: int = 1) -> None:
    """Put another content into a batch and let the whole chain of hashes fit it again."""
    altered: manifests.Manifest | None = None
    for manifest in manifests.Chain.load(log).manifests:
        files = []
        if manifest.seq < first:
            continue
        for file in manifest.files:
            if altered is None and file.table == "accounts":
                rows = change(pq.read_table(io.BytesIO(log.read(file.path))))
                sink = io.BytesIO()
                pq.write_table(rows, sink)
                log.put(file.path, sink.getvalue())
                ops = {c["values"]: c["counts"] for c in pc.value_counts(rows["_op"]).to_pylist()}
                file = dataclasses.replace(file, rows=rows.num_rows, ops=ops,
                                           sha256=hashlib.sha256(sink.getvalue()).hexdigest())
            files.append(file)
        changed = sum(f.rows for f in files) - sum(f.rows for f in manifest.files)
        altered = dataclasses.replace(manifest, files=tuple(files), changes=manifest.changes + changed,
                                      previous=altered.digest if altered else manifest.previous).hashed()
        log.put(altered.path, altered.encode())


def _with(rows: pa.Table, name: str, values: list) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows.schema.field(name).type))


def lose(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 100), rows.slice(101)])


def alter(rows: pa.Table) -> pa.Table:
    names = rows["name"].to_pylist()
    return _with(rows, "name", [*names[:100], "other", *names[101:]])


def swap(rows: pa.Table) -> pa.Table:
    names = rows["name"].to_pylist()
    names[100], names[101] = names[101], names[100]
    return _with(rows, "name", names)


def add(rows: pa.Table) -> pa.Table:
    stranger = _with(rows.slice(100, 1), "id", [account_id(99_999)])
    return pa.concat_tables([rows, _with(stranger, "_ord", [rows.num_rows + 1])])


@pytest.mark.parametrize(("change", "found", "first"), [
    (lose, {"lost": 1}, 100), (alter, {"altered": 1}, 100), (swap, {"altered": 2}, 100), (add, {"extra": 1}, 99_999),
])  # fmt: skip
def test_an_error_that_the_chain_of_hashes_cannot_show_is_found_and_named(source, log, change, found, first):
    before = reconcile(source, tables=["accounts"])
    rewrite(log, change)
    proof = reconcile(source, tables=["accounts"])
    table = proof_of(proof, "accounts")
    assert (table.counts, table.differences[0].key) == (found, account_id(first))
    assert account_id(first) in proof.problems()[0]
    assert "restore the lake from a backup" in proof.problems()[0], "the platform's own tables cannot be taken anew"
    assert verified(log)["accounts"]["verified_through"] == before.lsn
    assert verified(log)["accounts"]["differs_at"] == proof.lsn


def test_a_change_that_is_in_the_log_twice_is_found_by_its_ordinal(source, log):
    rewrite(log, lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]))
    assert any("twice" in problem for problem in verify(source, lake=log).problems)


def test_a_change_that_came_late_is_awaited_not_called_lost(source, log):
    """What is committed and not captured yet is brought first: a proof is of one position, not of two moments."""
    with owner(source) as connection:
        accounts(connection, 50_000, 30)
    proof = reconcile(source, tables=["accounts"])
    assert (proof.equal, proof_of(proof, "accounts").rows) == (True, MANY - 5 + 30)


def test_a_row_changed_in_the_source_behind_the_log_is_found(source, log, servers):
    """As a restore of one table would do it: no change was logged."""
    with psycopg.connect(source.need("oltp_owner_dsn"), autocommit=True) as connection:
        publication = source.cdc_publication
        connection.execute(f"alter publication {publication} drop table oltp.accounts")
        connection.execute("update oltp.accounts set mcc = '5999' where id = %s", [account_id(7)])
        connection.execute(f"alter publication {publication} add table oltp.accounts")
    table = proof_of(reconcile(source, tables=["accounts"]), "accounts")
    assert (table.counts, [d.key for d in table.differences]) == ({"altered": 1}, [account_id(7)])


def test_a_second_proof_looks_at_what_changed_since_the_first(source, log):
    reconcile(source, tables=["accounts"])
    with owner(source) as connection:
        accounts(connection, 60_000, 3)
        connection.execute("update oltp.accounts set name = name || '?' where id < %s", [account_id(2)])
        connection.execute("delete from oltp.accounts where id = %s", [account_id(9)])
    proof = reconcile(source, tables=["accounts"], whole=False)
    table = proof_of(proof, "accounts")
    assert (table.equal, table.keys, table.rows, table.total) == (True, 6, 5, MANY - 5 + 2)
    assert verified(log)["accounts"]["verified_through"] == proof.lsn
    assert proof_of(reconcile(source, tables=["accounts"], whole=False), "accounts").keys == 0


def without(name: str):
    """The log without the changes of one account."""
    return lambda rows: rows.filter(pc.not_equal(rows["id"], name))


@pytest.mark.parametrize(("statement", "counts"), [
    ("update oltp.accounts set name = 'lost' where id = %s", {"altered": 1}),
    ("delete from oltp.accounts where id = %s", {"extra": 1}),
], ids=["update", "delete"])  # fmt: skip
def test_a_change_that_the_log_lost_is_found_by_the_sources_own_row_versions(source, log, statement, counts):
    before = reconcile(source, tables=["accounts"])
    with owner(source) as connection:
        connection.execute(statement, [account_id(11)])
        accounts(connection, 70_000, 1)
    batch = capture(source).batches[-1]
    rewrite(log, without(account_id(11)), first=batch)
    table = proof_of(reconcile(source, tables=["accounts"], whole=False), "accounts")
    assert (table.counts, [d.key for d in table.differences]) == (counts, [account_id(11)])
    assert verified(log)["accounts"]["verified_through"] == before.lsn


def test_a_table_that_differed_is_compared_whole_until_it_is_mended(source, log):
    reconcile(source, tables=["accounts"])
    first = log.read(manifests.read(log, 1).files_of("accounts")[0].path)
    kept = {path: log.read(path) for path in log.list(segments.SINGLES)}
    rewrite(log, alter)
    assert reconcile(source, tables=["accounts"], whole=False).equal, "nothing changed since: what was proven stands"
    assert not reconcile(source, tables=["accounts"]).equal
    assert not reconcile(source, tables=["accounts"], whole=False).equal
    log.put(manifests.read(log, 1).files_of("accounts")[0].path, first)
    for path, data in kept.items():
        log.put(path, data)
    mended = proof_of(reconcile(source, tables=["accounts"], whole=False), "accounts")
    assert (mended.equal, mended.keys) == (True, None)


def test_every_row_is_compared_again_when_its_week_is_over(source, log, monkeypatch):
    reconcile(source, tables=["accounts"])
    rewrite(log, alter)
    monkeypatch.setattr("stripe_platform.cdc.reconcile.WHOLE_EVERY", dt.timedelta(0))
    assert proof_of(reconcile(source, tables=["accounts"], whole=False), "accounts").counts == {"altered": 1}


def test_a_truncated_table_is_compared_whole(source, log):
    reconcile(source, tables=["reviews"])
    with owner(source) as connection:
        connection.execute("truncate oltp.reviews")
    assert proof_of(reconcile(source, tables=["reviews"], whole=False), "reviews").keys is None


def test_a_key_of_several_columns_is_looked_up_by_all_of_them(source, log):
    reconcile(source, tables=["exchange_rates"])
    with owner(source) as connection:
        connection.execute("update oltp.exchange_rates set rate = rate + 1")
    table = proof_of(reconcile(source, tables=["exchange_rates"], whole=False), "exchange_rates")
    assert (table.equal, table.keys, table.rows) == (True, 1, 1)
