"""Batch files of old, proven days go, and everything that read them reads the same from the daily files."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import signal

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cdc_source import FIRST, account_id, accounts, close, long_text, owner, raw_all, raw_state, reference, source_state
from killing import die, in_child
from typer.testing import CliRunner

from asset_checks.judge import judge
from asset_checks.stores import Stores
from asset_checks.suites.cdc import CHECKS
from resources.lake import LakeError
from resources.warehouse import connect_postgres
from stripe_platform.cdc import batches, proof, reconcile, retained, retention
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact, compact_range, encode, files_through, gather
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.replay import events
from stripe_platform.cdc.retention import retain
from stripe_platform.cdc.snapshots import snapshot_range, state_at
from stripe_platform.cdc.verify import verify
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp.accounts import create_customer
from stripe_platform.settings import Settings
from stripe_platform.vault import ErasedSubjectError, open_value
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.stream import RawStream

DAYS = [FIRST + dt.timedelta(days=n) for n in range(4)]
TABLES = ("accounts", "countries", "currencies", "exchange_rates")


@pytest.fixture
def proven(source, store):
    """Four closed days in several batches each: values left out, keys changed, rows deleted, a truncation; proven."""
    with owner(source) as connection:
        reference(connection)
        for n, day in enumerate(DAYS):
            accounts(connection, 10 * n, 4, name=long_text(str(n)))
            capture(source)
            connection.execute("insert into oltp.exchange_rates values (%s, 'usd', 'eur', 1.5)", [day])
            if n:
                connection.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(10 * n - 9)])
                connection.execute("update oltp.accounts set id = %s where id = %s",
                                   [account_id(900 + n), account_id(10 * n - 8)])
                connection.execute("delete from oltp.accounts where id = %s", [account_id(10 * n - 7)])
            if n == 2:
                connection.execute("truncate oltp.exchange_rates")
            capture(source)
            close(connection, day)
        accounts(connection, 500, 1)
        capture(source)
        compact_range(store, TABLES, DAYS)
        assert reconcile.reconcile(source, tables=TABLES).equal
        yield source_state(connection, "accounts")


def standing(store) -> list[int]:
    """Numbers of the batches that have files."""
    return sorted({int(path.split("/")[2]) for path in store.list(batches.FOLDER)})


def of_days(store, days: list[dt.date]) -> list[int]:
    chain = Chain.load(store)
    return [m.seq for m in chain.manifests if m.files and chain.day_of(m.seq) in days]


def test_days_old_enough_go_oldest_first_and_the_newer_ones_stay(proven, store):
    planned = retain(store, 2, FIRST, dry_run=True)
    assert (planned.removed, planned.refused) == (False, None)
    assert [day.day for day in planned.days] == DAYS[:2]
    assert standing(store) == of_days(store, [*DAYS, None])
    assert retained.days(store) == []
    weighed = sum(store.size(path) for path in store.list(batches.FOLDER)
                  if int(path.split("/")[2]) in of_days(store, DAYS[:2]))
    done = retain(store, 2, FIRST)
    assert (done.days, done.bytes, done.removed) == (planned.days, weighed, True)
    assert standing(store) == of_days(store, [*DAYS[2:], None])
    assert sorted(int(p.name) for p in (store.root / batches.FOLDER).iterdir()) == standing(store)
    assert retain(store, 2, FIRST).days == []
    assert [day.day for day in retain(store, 0, FIRST).days] == DAYS[2:]
    assert standing(store) == of_days(store, [None])


def everything(settings: Settings, store) -> dict[str, object]:
    """What the readers of batch files make of them, none of it from what an earlier call kept."""
    retained._cache.clear()
    chain = Chain.load(store)
    report = dataclasses.asdict(verify(settings, lake=store))
    found: dict[str, object] = {"verify": report, "replay": list(events(store, "p")),
                                "replay from the middle": list(events(store, "p", first=4))}
    for table in TABLES:
        found[f"daily {table}"] = [compact(store, table, day, chain=chain, first_day=FIRST) for day in DAYS]
        found[f"state {table}"] = state_at(store, table, DAYS[2]).to_pylist()
        for manifest in chain.manifests:
            files = tuple(dailies.Source(manifest.seq, f.path, f.sha256) for f in manifest.files_of(table))
            if files:
                rows = gather(store, table, files, chain)
                found[f"batch {manifest.seq} {table}"] = (rows.schema, rows.to_pylist())
        files = files_through(store, chain, table, DAYS[3:], 7, FIRST, FIRST)
        found[f"files {table}"] = [(day, pq.read_table(path).num_rows) for path, day in files.items()]
    return found


def test_everything_that_read_batch_files_reads_the_same_without_them(proven, source, store, warehouse):
    before = everything(source, store)
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        connection.autocommit = True
        for table in TABLES:
            raw.apply(connection, store, table, DAYS)
        rows = {table: raw_all(connection, table) for table in TABLES}
        connection.execute("drop schema raw cascade")
        assert len(retain(store, 0, FIRST).days) == 4
        assert standing(store) == of_days(store, [None])
        assert before["verify"]["problems"] == []
        assert everything(source, store) == before
        for table in TABLES:
            raw.apply(connection, store, table, DAYS)
            assert raw_all(connection, table) == rows[table]
        connection.execute("drop schema raw cascade")
        chain = Chain.load(store)
        stream = RawStream(connection, store, "oltp", FIRST)
        for manifest in chain.manifests:
            stream.take(chain, [manifest])
        assert raw_state(connection, "accounts") == proven
    assert reconcile.reconcile(source).equal
    snapshot_range(store, ["accounts"], DAYS)
    assert reconcile.reconcile(source).equal


def test_checks_of_the_log_hold_for_days_without_batch_files_and_see_what_is_altered(proven, store):
    retain(store, 1, FIRST)
    checks = {check.asset.path[-1]: check for check in CHECKS}
    names = [day.isoformat() for day in DAYS]
    for name in ("batches", "accounts"):
        assert [v.outcome for v in judge(checks[name], Stores.of_settings(), names)] == ["passed"] * 4
    made = dailies.read(store, "accounts", FIRST)
    rows = encode(dailies.read_changes(store, made).slice(1))
    store.put(dailies.data_path("accounts", FIRST), rows)
    store.put(dailies.manifest_path("accounts", FIRST), dataclasses.replace(
        made, size=len(rows), sha256=hashlib.sha256(rows).hexdigest()).encode())
    (verdict,) = judge(checks["accounts"], Stores.of_settings(), names[:1])
    assert "no_altered_files" in verdict.reasons
    for path in store.list(batches.FOLDER)[:1]:
        store.delete(path)
    assert [v.outcome for v in judge(checks["batches"], Stores.of_settings(), names)].count("failed") == 1


def refused(store) -> str:
    before = store.list(batches.FOLDER)
    report = retain(store, 0, FIRST)
    assert store.list(batches.FOLDER) == before
    assert report.days == []
    assert retained.days(store) == []
    return str(report.refused)


@pytest.mark.parametrize(("spoil", "sentence"), [
    ({}, "accounts is not verified up to the end of 2026-06-01"),
    ({"accounts": {"whole_through": "0/1"}}, "accounts is not verified up to the end of 2026-06-01"),
    ({"accounts": {"epoch": ""}}, "accounts is not verified up to the end of 2026-06-01"),
    ({"currencies": {"differs_at": "0/9"}}, "currencies differs from its source since 0/9"),
])
def test_a_day_that_is_not_proven_stays_and_the_table_is_named(proven, store, spoil, sentence):
    known = proof.verified(store)
    known = {table: known[table] | facts for table, facts in spoil.items()} | (
        {table: facts for table, facts in known.items() if table not in spoil} if spoil else {})
    store.put(proof.VERIFIED, json.dumps(known).encode())
    assert refused(store).startswith(sentence)


def test_a_day_that_is_not_compacted_or_was_open_then_stays(proven, store):
    made = dailies.read(store, "currencies", FIRST)
    store.put(dailies.manifest_path("currencies", FIRST), dataclasses.replace(made, closed=False).encode())
    assert refused(store).startswith("cdc/currencies of 2026-06-01 was compacted while the day was open")
    store.delete(dailies.manifest_path("currencies", FIRST))
    assert refused(store).startswith("cdc/currencies of 2026-06-01 is missing: materialize")


def altered(rows: pa.Table, what: str) -> pa.Table:
    if what == "a row less":
        return rows.slice(1)
    if what == "a row more":
        return pa.concat_tables([rows, rows.slice(0, 1)])
    if what == "a row of no batch":
        stray = rows.slice(0, 1)
        place = stray.column_names.index("_commit_lsn")
        return pa.concat_tables([rows, stray.set_column(place, "_commit_lsn", pa.array([1], pa.int64()))])
    name, values = ("mcc", ["9999"]) if what == "a value" else ("_ord", [77])
    column = pa.array([*values, *rows[name].to_pylist()[1:]], rows.schema.field(name).type)
    return rows.set_column(rows.column_names.index(name), name, column)


@pytest.mark.parametrize("what", [
    "a row less", "a row more", "a row of no batch", "a value", "an ordinal", "other bytes"])
def test_a_daily_file_that_differs_from_its_batches_keeps_them(proven, store, what):
    made = dailies.read(store, "accounts", FIRST)
    data = encode(altered(dailies.read_changes(store, made), what)) if what != "other bytes" else b"x"
    store.put(dailies.data_path("accounts", FIRST), data)
    if what != "other bytes":
        store.put(dailies.manifest_path("accounts", FIRST), dataclasses.replace(
            made, size=len(data), sha256=hashlib.sha256(data).hexdigest()).encode())
    assert refused(store).startswith("cdc/accounts of 2026-06-01 differs from the batches it was made from")


@pytest.mark.parametrize("point", ["before a daily file is durable", "before the record", "before the first file goes",
                                   "between the files"])
def test_a_call_killed_at_each_step_loses_nothing_and_the_next_one_ends_its_work(
        proven, source, store, monkeypatch, point):
    before = list(events(store, "p"))

    def work() -> None:
        kind = type(store)
        if point == "before a daily file is durable":
            monkeypatch.setattr(kind, "put", die)
        elif point == "before the record":
            monkeypatch.setattr(kind, "put_if_absent", die)
        else:
            delete, left = kind.delete, iter(range(0 if point.startswith("before") else 3))
            monkeypatch.setattr(kind, "delete", lambda self, path: delete(self, path)
                                if next(left, None) is not None else die())
        retain(store, 2, FIRST)

    count = len(store.list(batches.FOLDER))
    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert len(store.list(batches.FOLDER)) == count - (3 if point == "between the files" else 0)
    assert verify(source, lake=store).problems == []
    assert list(events(store, "p")) == before
    retain(store, 2, FIRST)
    assert standing(store) == of_days(store, [*DAYS[2:], None])
    assert verify(source, lake=store).problems == []
    assert list(events(store, "p")) == before


def test_daily_files_are_on_disk_before_the_record_and_the_record_before_the_first_file_goes(
        proven, store, monkeypatch):
    steps: list[str] = []
    kind = type(store)
    for name in ("put", "put_if_absent", "delete"):
        real = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, path, *a, _real=real, _name=name, **more: (
            steps.append(f"{_name} {path} {more.get('durable', True)}"), _real(self, path, *a, **more))[1])
    retain(store, 3, FIRST)
    record = steps.index(f"put_if_absent {retained.path_of(FIRST)} True")
    assert {step.split()[1] for step in steps[:record]} == {
        of(table, FIRST) for table in TABLES for of in (dailies.data_path, dailies.manifest_path)}
    assert all(step.startswith("put ") and step.endswith("True") for step in steps[:record])
    assert len(steps) > record + 1
    assert all(step.startswith(f"delete {batches.FOLDER}") for step in steps[record + 1:])


def test_what_is_done_to_a_retained_day_is_named_and_nothing_is_made_from_it(proven, source, store, monkeypatch):
    retain(store, 1, FIRST)
    made = dailies.read(store, "accounts", DAYS[1])
    path = dailies.data_path("accounts", DAYS[1])
    data = store.read(path)
    store.delete(dailies.manifest_path("accounts", DAYS[1]))  # derived: written again from record and chain
    with monkeypatch.context() as patch:
        patch.setitem(batches.PARQUET, "compression", "snappy")  # a later release may write other bytes
        assert compact(store, "accounts", DAYS[1]) == made
    assert dailies.read(store, "accounts", DAYS[1]) == made
    assert store.read(path) == data

    store.put(path, data[:-1] + b"x")
    assert any(p.startswith(f"{path} is not what cdc/retained/2026-06-02.json says")
               for p in verify(source, lake=store).problems)
    store.delete(path)
    with pytest.raises(ChainError, match="is missing, and its batches' files are gone: restore it from a backup"):
        compact(store, "accounts", DAYS[1])
    store.put(path, data)
    assert verify(source, lake=store).problems == []

    record = store.read(retained.path_of(FIRST))
    store.put(retained.path_of(FIRST), record.replace(b'"rows": ', b'"rows": 1'))
    (problem,) = verify(source, lake=store).problems
    assert problem.startswith("cdc/retained/2026-06-02.json does not follow the record before it")
    other = dataclasses.replace(retained.read(store, FIRST), digest="0" * 64)
    store.put(retained.path_of(FIRST), other.encode())
    assert any("names another batch" in problem for problem in verify(source, lake=store).problems)
    store.put(retained.path_of(FIRST), b"{")
    with pytest.raises(ChainError, match=r"cdc/retained/2026-06-01.json cannot be read"):
        list(events(store, "p"))


def test_a_file_that_is_gone_without_a_record_is_missing(proven, source, store):
    retain(store, 3, FIRST)
    seq = of_days(store, [DAYS[1]])[0]
    store.delete(f"cdc/batches/{seq:012d}/accounts.parquet")
    with pytest.raises(LakeError, match=r"accounts.parquet is missing in the lake"):
        list(events(store, "p"))
    assert any("accounts.parquet is missing" in problem for problem in verify(source, lake=store).problems)


def test_a_batch_in_which_a_table_changed_keeps_its_files(source, store):
    with owner(source) as connection:
        reference(connection)
        capture(source)
        accounts(connection, 0, 2)
        connection.execute("alter table oltp.accounts add column later text")
        connection.execute("insert into oltp.accounts (id, type, country, default_currency, business_type, mcc, name,"
                           " token, created, later) values (%s, 'standard', 'FR', 'eur', 'company', '5411', 'n', 't9',"
                           " '2026-06-01', 'x')", [account_id(9)])
        close(connection, FIRST)
    capture(source)
    compact_range(store, TABLES, [FIRST])
    reconcile.reconcile(source)
    before = list(events(store, "p"))
    assert retain(store, 0, FIRST).refused is None
    assert [p.rpartition("/")[2] for p in store.list(batches.FOLDER)] == ["accounts.2.parquet", "accounts.parquet"]
    assert list(events(store, "p")) == before
    assert verify(source, lake=store).problems == []


def test_the_command_tells_what_goes_and_refuses_with_a_sentence(proven, store, monkeypatch):
    from stripe_platform.cli import app

    def told(*arguments: str) -> tuple[int, dict]:
        result = CliRunner().invoke(app, ["cdc", "retain", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    assert told()[1]["days"] == []  # 35 days are kept
    code, planned = told("--days", "3", "--dry-run")
    assert (code, planned["removed"], [d["day"] for d in planned["days"]]) == (0, False, ["2026-06-01"])
    assert planned["bytes"] == sum(d["bytes"] for d in planned["days"]) > 0
    monkeypatch.setenv("STRIPE_PLATFORM_BATCH_DAYS", "none")
    assert told()[1]["keep_days"] is None
    monkeypatch.setenv("STRIPE_PLATFORM_BATCH_DAYS", "3")
    code, done = told()
    assert (code, done["removed"], done["days"]) == (0, True, planned["days"])
    store.delete(proof.VERIFIED)
    code, stopped = told("--days", "0")
    assert code == 1
    assert stopped["refused"].endswith("run `stripe-platform cdc verify`")


def test_two_calls_at_once_record_a_day_once(proven, store):
    chain = Chain.load(store)
    first = retention._record(store, chain, FIRST, FIRST)
    assert retention._record(store, chain, FIRST, FIRST) == first
    store.put(retained.path_of(FIRST), dataclasses.replace(first, last=1).encode())
    with pytest.raises(retention.RetentionError, match="was written with other content"):
        retention._record(store, chain, FIRST, FIRST)


def test_the_log_holds_personal_data_as_ciphertext_and_its_proofs_survive_an_erasure(source, store):
    """In batch and daily files, before and after the batch files went: no clear value, one that its key opens."""
    ring, names = open_keyring(source), {"name_ciphertext": b"Ada Lovelace", "email_ciphertext": b"ada@example.org"}
    with owner(source) as connection:
        reference(connection)
        with psycopg.connect(source.need("oltp_dsn"), autocommit=True) as writer:
            name, email = (clear.decode() for clear in names.values())
            customer = create_customer(writer, ring, country="FR", currency="eur", name=name, email=email)
        close(connection, FIRST)
        capture(source)
        compact_range(store, ("customers", *TABLES), [FIRST])
        files = [path for path in store.list("cdc") if path.endswith(".parquet")]
        assert {path.split("/")[1] for path in files} == {"batches", "daily"}
        cells = [str(value).encode() if not isinstance(value, bytes) else value for path in files
                 for column in pq.read_table(store.open(path)).columns for value in column.to_pylist()]
        assert not [cell for cell in cells for clear in names.values() if clear in cell]
        chain = Chain.load(store)
        (batch,) = [m for m in chain.manifests if m.files_of("customers")]
        logged = pq.read_table(store.open(batch.files_of("customers")[0].path))
        daily = dailies.read_changes(store, dailies.read(store, "customers", FIRST))
        for name, clear in names.items():
            for rows in (logged, daily):
                assert open_value(connection, ring, rows[name][0].as_py(), "oltp.customers", name, customer,
                                  customer) == clear
        assert reconcile.reconcile(source).equal
        assert retain(store, 0, FIRST).refused is None
        connection.execute("delete from vault.subject_keys where subject = %s", [customer])
        kept = retained.rows_of(store, chain, "customers", batch.seq)
        with pytest.raises(ErasedSubjectError):
            open_value(connection, ring, kept["name_ciphertext"][0].as_py(), "oltp.customers", "name_ciphertext",
                       customer, customer)
    assert kept["name_ciphertext"].to_pylist() == logged["name_ciphertext"].to_pylist()
    assert verify(source, lake=store).problems == []
    assert reconcile.reconcile(source).equal
