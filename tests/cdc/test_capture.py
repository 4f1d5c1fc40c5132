"""Capture from a real server: what was committed is in the batches, once, with its day."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import hashlib
import json
import re

import psycopg
import pyarrow as pa
import pytest
from cdc_source import FIRST, account_id, accounts, close, long_text, owner, rate, reference

from stripe_platform.cdc import capture as capturing
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import CaptureBusyError, CaptureError, capture, ensure_slot, ledger_day_open
from stripe_platform.cdc.compact import compact, read_batch_file
from stripe_platform.cdc.daily import Source
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.pgoutput import lsn_int
from stripe_platform.cdc.verify import verify

DAY2 = FIRST + dt.timedelta(days=1)


def changes(store, table: str) -> list[dict]:
    """All captured changes of a table in commit order."""
    parts = [read_batch_file(store, Source(m.seq, f.path, f.sha256))
             for m in Chain.load(store).manifests for f in m.files_of(table)]
    return pa.concat_tables(parts, promote_options="default").to_pylist() if parts else []


def test_every_kind_of_change_arrives_with_its_operation_and_position(source, store):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 3, name=long_text("a"))
        connection.execute("update oltp.accounts set charges_enabled = false where id = %s", [account_id(1)])
        connection.execute("update oltp.accounts set id = %s where id = %s", [account_id(9), account_id(2)])
        connection.execute("delete from oltp.accounts where id = %s", [account_id(3)])
        rate(connection, FIRST, "0.9123456789")
        connection.execute("truncate oltp.exchange_rates")
    report = capture(source)
    assert report.rows == {"currencies": 2, "countries": 1, "accounts": 7, "exchange_rates": 2}
    found = changes(store, "accounts")
    assert [(r["_op"], r["id"]) for r in found] == [
        *(("c", account_id(n)) for n in (1, 2, 3)), ("u", account_id(1)), ("d", account_id(2)), ("c", account_id(9)),
        ("d", account_id(3))]
    copied = found[:3]
    assert len({r["_commit_lsn"] for r in copied}) == 1  # one COPY, one commit: only the ordinal tells them apart
    assert [r["_ord"] for r in copied] == [1, 2, 3]
    assert copied[0]["name"] == long_text("a") + "1"
    assert copied[0]["created"] == dt.datetime(2026, 6, 1, 12, 0, 0, 123456, dt.UTC)
    assert found[3]["_unchanged"] == ["name"]
    assert found[3]["name"] is None
    assert (found[4]["_commit_lsn"], found[4]["_ord"] + 1) == (found[5]["_commit_lsn"], found[5]["_ord"])
    rates = changes(store, "exchange_rates")
    assert [(r["_op"], r["rate"]) for r in rates] == [("c", "0.9123456789"), ("t", None)]
    assert verify(source, lake=store).problems == []


def test_a_rolled_back_transaction_leaves_no_trace(source, store):
    with owner(source) as connection:
        reference(connection)
        with connection.transaction(force_rollback=True):
            accounts(connection, 1, 5)
        with connection.transaction():
            accounts(connection, 10, 1)
            with connection.transaction(force_rollback=True):
                accounts(connection, 11, 1)
    capture(source)
    assert [r["id"] for r in changes(store, "accounts")] == [account_id(10)]


def test_a_day_boundary_closes_a_batch_and_until_stops_there(source, store):
    with owner(source) as connection:
        for n, day in enumerate((FIRST, DAY2)):
            with connection.transaction():
                if not n:
                    reference(connection)
                accounts(connection, n * 10, 2)
                close(connection, day)
        accounts(connection, 50, 1)
    first = capture(source, until=FIRST)
    assert (first.days_closed, first.open_day, len(first.batches)) == ([FIRST], DAY2, 1)
    assert capture(source, until=FIRST).batches == []
    rest = capture(source)
    assert (rest.days_closed, rest.open_day) == ([DAY2], dt.date(2026, 6, 3))
    chain = Chain.load(store)
    assert chain.days == (FIRST, DAY2, None)
    assert [m.boundaries for m in chain.manifests] == [1, 1, 0]
    assert ledger_day_open(store) == dt.date(2026, 6, 3)
    assert [r["id"] for r in changes(store, "accounts")] == [account_id(n) for n in (0, 1, 10, 11, 50)]


def test_a_batch_of_the_open_day_belongs_to_the_day_that_closes_it(source, store):
    with owner(source) as connection:
        reference(connection)
        capture(source)
        with connection.transaction():
            accounts(connection, 1, 1)
            close(connection, DAY2)  # a calendar may skip days
    capture(source)
    assert Chain.load(store).days == (DAY2, DAY2)


def test_a_batch_ends_at_a_commit_when_it_is_full_and_memory_is_flushed_inside_a_transaction(
        source, store, monkeypatch):
    monkeypatch.setattr(capturing, "BATCH_ROWS", 50)
    monkeypatch.setattr(capturing, "CHUNK_BYTES", 4_000)
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 0, 200)  # one transaction is never cut
        for n in range(200, 260):
            accounts(connection, n, 1)
    capture(source)
    assert [m.changes for m in Chain.load(store).manifests] == [203, 50, 10]
    assert sorted(r["id"] for r in changes(store, "accounts")) == [account_id(n) for n in range(260)]
    assert verify(source, lake=store).problems == []


def test_the_slot_is_never_ahead_of_what_is_durable(source, store):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 1)
    capture(source)
    newest = manifests.last(store)
    assert newest is not None
    with psycopg.connect(source.need("oltp_owner_dsn")) as connection:
        row = connection.execute("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
                                 [source.cdc_slot]).fetchone()
    assert row is not None
    assert lsn_int(row[0]) <= newest.to_lsn


def test_an_idle_slot_moves_over_log_that_holds_nothing_of_ours(source, store):
    with owner(source) as connection:
        reference(connection)
        capture(source)
        before = _confirmed(connection, source.cdc_slot)
        connection.execute(
            "create table public.elsewhere as select repeat(md5(n::text), 30) from generate_series(1, 4000) n")
        capture(source)
        assert _confirmed(connection, source.cdc_slot) - before > 1 << 20
        accounts(connection, 1, 1)
    report = capture(source)
    assert report.rows == {"accounts": 1}
    assert Chain.load(store).manifests[-1].from_lsn == Chain.load(store).manifests[-2].to_lsn
    assert verify(source, lake=store).problems == []


def _confirmed(connection: psycopg.Connection, slot: str) -> int:
    row = connection.execute(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", [slot]).fetchone()
    assert row is not None
    return lsn_int(row[0])


def test_a_second_writer_is_refused_in_one_sentence(source):
    with owner(source) as connection:
        reference(connection)
    folder = source.home / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"cdc-{source.cdc_slot}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CaptureBusyError, match=f"another capture of slot {source.cdc_slot} is running"):
            capture(source, wait_seconds=0.2)


def test_a_slot_that_vanished_is_an_error_not_a_new_beginning(source):
    with owner(source) as connection:
        reference(connection)
    capture(source)
    with psycopg.connect(source.need("cdc_dsn"), autocommit=True) as connection:
        connection.execute("select pg_drop_replication_slot(%s)", [source.cdc_slot])
    with pytest.raises(CaptureError, match="is gone from the source"):
        capture(source)


def test_a_slot_that_someone_else_advanced_is_an_error(source):
    with owner(source) as connection:
        reference(connection)
        capture(source)
        accounts(connection, 1, 3)
    with psycopg.connect(source.need("cdc_dsn"), autocommit=True) as connection:
        connection.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [source.cdc_slot])
    with pytest.raises(CaptureError, match=r"was advanced to .* the stretch between is lost"):
        capture(source)


def test_ensuring_the_slot_twice_is_harmless(source, store):
    assert ensure_slot(source) == ensure_slot(source)
    assert len(manifests.load_epochs(store)) == 1


@pytest.fixture
def three_batches(source, store):
    with owner(source) as connection:
        reference(connection)
        capture(source)
        for n in range(2):
            accounts(connection, 2 * n, 2)
            capture(source)
    return store


def test_a_missing_manifest_is_named(three_batches, source):
    three_batches.delete("cdc/manifests/000000000002.json")
    with pytest.raises(ChainError, match=r"000000000002\.json is missing"):
        Chain.load(three_batches)
    assert verify(source, lake=three_batches).problems


def ahead(manifest: bytes) -> bytes:
    """The batch says that it ends later than it does: a digit of its position."""
    end = json.loads(manifest)["to_lsn"]
    return manifest.replace(end.encode(), manifests.lsn_text(lsn_int(end) + (1 << 24)).encode())


@pytest.mark.parametrize(("spoil", "named"), [
    (lambda manifest: manifest[:len(manifest) // 2], "cannot be read as a batch manifest"),
    (lambda _manifest: b"", "cannot be read as a batch manifest"),
    (lambda manifest: manifest[:40] + bytes(512) + manifest[552:], "cannot be read as a batch manifest"),
    (ahead, "is not what was written, its own hash differs"),
    (lambda manifest: manifest.replace(b'"content_hash": "', b'"content_hash": "0'), "is not what was written"),
    (lambda manifest: manifest.replace(b'"content_hash"', b'"content_hasi"'), "cannot be read as a batch manifest"),
], ids=["torn", "empty", "a block of zeros", "another position", "another hash", "another name"])
def test_a_spoilt_newest_manifest_is_named_and_stops_the_log_until_it_is_restored(three_batches, source, spoil, named):
    path = manifests.last(three_batches).path
    good = three_batches.read(path)
    three_batches.put(path, spoil(good))
    sentence = f"^{path} {named}.*: restore it from a backup$"
    with owner(source) as connection:
        accounts(connection, 100, 3)
    for refused in (lambda: capture(source), lambda: compact(three_batches, "accounts", FIRST, first_day=FIRST)):
        with pytest.raises(ChainError, match=sentence):
            refused()
    (problem,) = verify(source, lake=three_batches).problems
    assert re.match(sentence, problem)
    three_batches.put(path, good)
    capture(source)
    assert verify(source, lake=three_batches).problems == []
    assert [r["id"] for r in changes(three_batches, "accounts")][-3:] == [account_id(n) for n in (100, 101, 102)]


def test_no_byte_of_a_newest_manifest_changes_unseen(three_batches):
    newest = manifests.last(three_batches)
    good = three_batches.read(newest.path)
    for place in range(len(good)):
        for bit in (0x01, 0x20, 0x80):
            with pytest.raises(ChainError, match=newest.path):
                manifests.decode(good[:place] + bytes([good[place] ^ bit]) + good[place + 1:], newest.path)
            with pytest.raises(ChainError, match=newest.path):
                manifests.decode(good[:place], newest.path)


def test_a_manifest_of_a_release_that_had_no_hash_is_read_and_written_as_it_was():
    old = manifests.Manifest(1, None, "oltp", "slot", "1", 1, 1, "000001-00000001", 0, 8, 1, 0, 0, None, None, None)
    assert b"content_hash" not in old.encode()
    assert manifests.decode(old.encode(), old.path) == old
    new = old.hashed()
    assert manifests.decode(new.encode(), new.path) == new == new.hashed()
    assert hashlib.sha256(new.encode()).hexdigest() == new.digest != old.digest


def test_a_changed_manifest_breaks_the_chain_behind_it(three_batches):
    path = "cdc/manifests/000000000002.json"
    changed = dataclasses.replace(manifests.read(three_batches, 2), transactions=2)
    three_batches.put(path, changed.hashed().encode())
    with pytest.raises(ChainError, match=r"000000000003\.json does not follow"):
        Chain.load(three_batches)


def test_a_tampered_or_missing_batch_file_is_found(three_batches, source):
    path = "cdc/batches/000000000002/accounts.parquet"
    good = three_batches.read(path)
    three_batches.put(path, good[:100] + bytes([good[100] ^ 1]) + good[101:])
    report = verify(source, lake=three_batches)
    assert report.problems == [f"{path} is not what its manifest says: restore it from a backup"]
    assert report.verified_through == manifests.lsn_text(Chain.load(three_batches).manifests[0].to_lsn)
    three_batches.delete(path)
    assert "is missing in the lake" in verify(source, lake=three_batches).problems[0]


def test_a_log_without_any_batch_proves_nothing(three_batches, source):
    for path in three_batches.list("cdc/manifests"):
        three_batches.delete(path)
    problems = verify(source, lake=three_batches).problems
    assert any("nothing to prove" in problem for problem in problems)
    assert any("batch 2 has files in the lake and no manifest" in problem for problem in problems)
    assert any("was advanced to" in problem for problem in problems)


def test_a_daily_file_altered_or_made_from_other_batches_is_found(three_batches, source):
    compact(three_batches, "accounts", FIRST, first_day=FIRST)
    assert verify(source, lake=three_batches).problems == []
    data, named = f"cdc/daily/accounts/{FIRST}.parquet", f"cdc/daily/accounts/{FIRST}.json"
    good, manifest = three_batches.read(data), three_batches.read(named)
    three_batches.put(data, good[:100] + bytes([good[100] ^ 1]) + good[101:])
    assert "is not what its manifest says" in verify(source, lake=three_batches).problems[0]
    three_batches.put(data, good)
    content = json.loads(manifest)
    content["sources"][0]["sha256"] = "0" * 64
    three_batches.put(named, json.dumps(content).encode())
    assert "names batch files that are not in the chain" in verify(source, lake=three_batches).problems[0]
