"""Cases 1 to 3 and 12 to 28: row images, keys, statements and transactions, from SQL to the warehouse."""

from __future__ import annotations

import hashlib

import psycopg
import pytest

from stripe_platform.cdc.capture import CaptureError
from stripe_platform.cdc.catalogue import newest
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.verify import verify


def long_text(seed: str) -> str:
    """Text that PostgreSQL must store out of line: long, and of no use to compress."""
    return "".join(hashlib.sha256(f"{seed}{n}".encode()).hexdigest() for n in range(200))


def fill_long(shop, table: str, key: str) -> None:
    """A row whose four values all lie out of line."""
    text = long_text(key)
    shop.db.execute(f"insert into {table} values (%s, %s, %s::jsonb, %s, %s, 0)",
                    [key, text, f'{{"a": "{text}"}}', text.encode(), [text, None, 'q"']])


LONG = "id text primary key, t text, j jsonb, b bytea, a text[], n integer"


def test_case_01_an_update_that_leaves_long_values_untouched_keeps_them(shop):
    shop.table("c01", LONG)
    fill_long(shop, "c01", "k")
    shop.db.execute("update c01 set n = 1")
    shop.agree("c01")
    assert shop.log("c01")[-1]["_unchanged"] == ["t", "j", "b", "a"]


def test_case_02_the_same_with_insert_and_update_in_different_batches(shop):
    shop.table("c02", LONG)
    fill_long(shop, "c02", "k")
    shop.agree("c02")
    for _update in range(3):
        shop.db.execute("update c02 set n = n + 1")
        shop.agree("c02")
    assert [len(row["_unchanged"]) for row in shop.log("c02")] == [0, 4, 4, 4]


@pytest.mark.parametrize("between", [False, True], ids=["one batch", "two batches"])
def test_case_03_a_key_change_with_unchanged_toast_keeps_its_value_under_the_new_key(shop, between):
    table = f"c03_{between:d}"
    shop.table(table, LONG)
    fill_long(shop, table, "old")
    if between:
        shop.agree(table)
    shop.db.execute(f"update {table} set id = 'new'")
    shop.db.execute(f"update {table} set n = 5")
    shop.agree(table)
    assert shop.operations(table) == "cdcu"


def test_case_03_a_long_key_that_did_not_change_names_its_row(shop):
    """A key out of line is sent as the old key and left out of the new row."""
    shop.table("c03_long", "id text, v text, n integer")
    shop.db.execute("alter table c03_long alter id set storage external, alter v set storage external")
    # The index would take no key of this length in line: btree allows 2704 bytes.
    shop.db.execute("alter table c03_long add primary key (id)")
    shop.db.execute("insert into c03_long values (%s, %s, 0)", ["k" * 2500, long_text("v")])
    shop.db.execute("update c03_long set n = 1")
    shop.agree("c03_long")
    assert shop.operations("c03_long") == "cu"


def test_case_12_an_enum_value_added_in_mid_stream_flows(shop):
    shop.db.execute("create type phase as enum ('new', 'done')")
    shop.table("c12", "id integer primary key, v phase, vs phase[]")
    shop.db.execute("insert into c12 values (1, 'new', '{new,done}')")
    shop.capture()
    shop.db.execute("alter type phase add value 'held' before 'done'")
    shop.db.execute("insert into c12 values (2, 'held', '{held}')")
    shop.db.execute("alter type phase rename value 'done' to 'gone'")
    shop.db.execute("update c12 set v = 'gone'")
    shop.db.execute("update c12 set vs = null")
    shop.agree("c12")


def test_case_13_a_stored_generated_column_is_in_the_stream_as_in_the_table(shop):
    shop.table("c13", "id integer primary key, n integer, twice integer generated always as (n * 2) stored")
    shop.db.execute("insert into c13 (id, n) values (1, 4), (2, null)")
    shop.db.execute("update c13 set n = 5 where id = 1")
    shop.agree("c13")


def test_case_16_a_composite_key_keeps_its_own_order(shop):
    shop.table("c16", "a integer, b text, c date, v text, primary key (c, a, b)")
    shop.db.execute("insert into c16 values (10, 'x', '2026-06-01', 'v'), (9, E'x\\x1f', 'infinity', 'w'),"
                    " (9, 'x', '-infinity', 'w')")
    shop.db.execute("update c16 set v = 'z' where c = 'infinity'")
    shop.db.execute("delete from c16 where c = '-infinity'")
    shop.agree("c16")
    assert newest(shop.lake, Chain.load(shop.lake), "c16").key == ("c", "a", "b")


def test_case_16_keys_that_a_separator_could_confuse_are_two(shop):
    shop.table("c16_b", "a text, b text, v integer, primary key (b, a)")
    shop.db.execute("insert into c16_b values (E'x\\x1f', 'y', 1), ('x', E'y\\x1f', 2), (E'\\x1fx', 'y', 3),"
                    " ('x', E'\\x1fy', 4), ('', E'\\x1e', 5), (E'\\x1e', '', 6)")
    shop.db.execute("update c16_b set v = v + 10 where v % 2 = 0")
    shop.agree("c16_b")


@pytest.mark.parametrize("kind", ["numeric", "interval", "double precision", "citext"])
def test_case_16_keys_equal_to_the_source_and_different_as_text_change_in_place(shop, kind):
    shop.db.execute("create extension if not exists citext")
    first, second = {"numeric": ("1.0", "1.00"), "interval": ("1 day", "24:00"), "double precision": ("0", "-0"),
                     "citext": ("key", "KEY")}[kind]
    table = f"c16_{kind.split()[0]}"
    shop.table(table, f"id {kind} primary key, v integer")
    shop.db.execute(f"insert into {table} values ('{first}', 1)")
    shop.agree(table)
    shop.db.execute(f"update {table} set id = '{second}', v = 2")
    shop.agree(table)


def test_case_17_a_key_change_takes_the_old_key_and_makes_the_new_one_at_once(shop):
    shop.table("c17", "id integer primary key, v text")
    shop.db.execute("insert into c17 select n, 'v' || n from generate_series(1, 5) n")
    shop.db.execute("update c17 set id = id + 100 where id in (1, 2)")
    with shop.db.transaction():  # two keys swap
        shop.db.execute("update c17 set id = -1 where id = 3")
        shop.db.execute("update c17 set id = 3 where id = 4")
        shop.db.execute("update c17 set id = 4 where id = -1")
    shop.agree("c17")
    rows = [row for row in shop.log("c17") if row["_op"] == "d"]
    assert [row["id"] for row in rows][:2] == [1, 2]


def test_case_18_a_table_without_a_key_under_full_is_a_log_and_a_multiset(shop):
    shop.table("c18", "n integer, t text, at timestamptz, d double precision")
    shop.db.execute("alter table c18 replica identity full")
    shop.db.execute("insert into c18 values (1, 'a', 'infinity', 'NaN'), (1, 'a', 'infinity', 'NaN')")
    shop.db.execute("insert into c18 values (2, null, null, 0)")
    shop.agree("c18")
    with shop.db.transaction():
        shop.db.execute("delete from c18 where ctid = (select ctid from c18 where n = 1 limit 1)")
        shop.db.execute("update c18 set t = %s where n = 2", [long_text("t")])
    shop.agree("c18")
    shop.db.execute("update c18 set n = n + 10")  # the long text is left out of the new row, and is in the old one
    shop.agree("c18")
    assert "u" not in shop.operations("c18")
    shop.db.execute("truncate c18")
    shop.db.execute("insert into c18 values (5)")
    shop.agree("c18")


@pytest.mark.parametrize("identity", ["default", "nothing"])
def test_case_18_rows_that_nothing_names_are_refused_before_they_are_read(shop, identity):
    table = f"c18_{identity}"
    shop.db.execute(f"create table {table} (n integer)")
    shop.db.execute(f"alter table {table} replica identity {identity}")
    shop.publish(table)
    shop.db.execute(f"insert into {table} values (1)")
    try:
        with pytest.raises(CaptureError, match=rf"public\.{table} of source shop: .*would name no row.*primary key"):
            shop.capture()
    finally:
        shop.withdraw(table)
    shop.capture()


def test_case_19_the_replica_identity_may_change_live(shop):
    shop.table("c19", "id integer primary key, code text not null unique, v text")
    shop.db.execute("insert into c19 values (1, 'a', 'x'), (2, 'b', %s), (3, 'c', 'z')", [long_text("c19")])
    shop.db.execute("delete from c19 where id = 3")
    shop.agree("c19")
    shop.db.execute("alter table c19 replica identity using index c19_code_key")
    shop.db.execute("update c19 set id = 20 where code = 'b'")
    shop.db.execute("update c19 set code = 'A' where id = 1")
    shop.agree("c19")
    shop.db.execute("alter table c19 replica identity full")
    shop.db.execute("update c19 set v = 'full' where id = 1")
    shop.db.execute("alter table c19 replica identity default")
    shop.db.execute("update c19 set code = 'B' where id = 20")
    shop.db.execute("delete from c19 where id = 1")
    shop.db.execute("insert into c19 values (3, 'c', 'again')")
    shop.agree("c19")


def test_case_20_a_delete_that_knows_only_the_key_is_a_tombstone(shop):
    shop.table("c20", "id integer primary key, v text not null, n numeric not null default 1")
    shop.db.execute("insert into c20 values (1, 'a'), (2, 'b')")
    shop.agree("c20")
    shop.db.execute("delete from c20 where id = 1")
    shop.agree("c20")
    assert shop.warehouse.execute("select id, v, n, _deleted from raw.shop__c20 where _deleted").fetchall() == [
        (1, "a", 1, True)]  # its last values stay


def test_case_21_insert_update_delete_in_one_transaction_and_a_delete_that_comes_again(shop):
    shop.table("c21", "id integer primary key, v text")
    with shop.db.transaction():
        shop.db.execute("insert into c21 values (1, 'a'), (2, 'a')")
        shop.db.execute("update c21 set v = 'b'")
        shop.db.execute("delete from c21 where id = 1")
    shop.db.execute("delete from c21 where id = 2")
    shop.db.execute("insert into c21 values (2, 'c')")
    with shop.db.transaction():
        shop.db.execute("delete from c21 where id = 2")
        shop.db.execute("insert into c21 values (2, 'd')")
    shop.agree("c21")
    assert shop.operations("c21") == "ccuuddcdc"


def test_case_22_truncate_of_one_of_many_and_cascaded_then_inserts_in_the_same_transaction(shop):
    shop.db.execute("create table c22 (id integer primary key, v text)")
    shop.db.execute("create table c22_child (id integer primary key, parent integer references c22, v text)")
    shop.publish("c22", "c22_child")
    shop.db.execute("insert into c22 values (1, 'a'), (2, 'b')")
    shop.db.execute("insert into c22_child values (1, 1, 'a')")
    shop.agree("c22", "c22_child")
    with shop.db.transaction():
        shop.db.execute("insert into c22 values (3, 'gone at once')")
        shop.db.execute("truncate c22 cascade")
        shop.db.execute("insert into c22 values (1, 'new')")
    shop.db.execute("insert into c22_child values (7, 1, 'new')")
    shop.agree("c22", "c22_child")
    shop.db.execute("truncate c22_child, c22 restart identity")
    shop.agree("c22", "c22_child")
    shop.db.execute("insert into c22 values (9, 'last')")
    shop.agree("c22", "c22_child")
    assert shop.operations("c22") == "ccctctc"


def test_case_23_a_copy_with_one_position_brings_every_row_once(shop):
    shop.table("c23", "id integer primary key, v text")
    with shop.db.cursor() as cursor, cursor.copy("copy c23 from stdin") as copy:
        for n in range(1000):
            copy.write_row((n, f"v{n}"))
    shop.db.execute("insert into c23 select n, 'many' from generate_series(1000, 1099) n")
    shop.agree("c23")
    assert [row["_ord"] for row in shop.log("c23")[:1000]] == list(range(1, 1001))


def test_case_25_a_row_that_moves_into_or_out_of_the_filter_comes_or_goes(shop):
    shop.db.execute("create table c25 (id integer primary key, region text not null, secret text, v text)")
    shop.db.execute("alter table c25 replica identity full")
    shop.db.execute("create table c25_key (id integer, region text, v text, secret text, primary key (id, region))")
    shop.publish("c25", where="region = 'eu'")
    shop.publish("c25_key", where="region = 'eu'", columns=("id", "region", "v"))
    for table in ("c25", "c25_key"):
        shop.db.execute(f"insert into {table} (id, region, v) values (1, 'eu', 'a'), (2, 'us', 'b'), (3, 'eu', 'c')")
        shop.db.execute(f"update {table} set region = 'us' where id = 1")
        shop.db.execute(f"update {table} set region = 'eu', v = 'moved in' where id = 2")
        shop.db.execute(f"update {table} set v = 'stays' where id = 3")
        shop.db.execute(f"delete from {table} where id = 1")
    shop.agree("c25", where="region = 'eu'")
    shop.agree("c25_key", where="region = 'eu'", names=["id", "region", "v"])
    assert "secret" not in newest(shop.lake, Chain.load(shop.lake), "c25_key").encoded.decode()
    assert shop.operations("c25_key") == "ccdcu"


def test_case_26_what_was_rolled_back_is_not_there_and_two_phases_come_at_their_commit(shop):
    shop.table("c26", "id integer primary key, v text")
    with shop.db.transaction(force_rollback=True):
        shop.db.execute("insert into c26 values (1, 'never')")
    with shop.db.transaction():
        shop.db.execute("insert into c26 values (2, 'a')")
        with shop.db.transaction(force_rollback=True):
            shop.db.execute("update c26 set v = 'never'")
        with shop.db.transaction():
            shop.db.execute("update c26 set v = 'b'")
    shop.agree("c26")
    assert shop.operations("c26") == "cu"
    for name, row in (("kept", 3), ("dropped", 4)):
        shop.db.execute("begin")
        shop.db.execute(f"insert into c26 values ({row}, 'prepared')")
        shop.db.execute(f"prepare transaction '{name}'")
    shop.db.execute("insert into c26 values (5, 'meanwhile')")
    shop.agree("c26")
    assert shop.operations("c26") == "cuc"
    shop.db.execute("rollback prepared 'dropped'")
    shop.db.execute("commit prepared 'kept'")
    shop.agree("c26")
    assert [row["id"] for row in shop.log("c26")] == [2, 2, 5, 3]


def test_case_27_interleaved_long_and_short_transactions_arrive_in_commit_order(shop):
    shop.table("c27", "id integer primary key, v integer")
    shop.db.execute("insert into c27 values (0, 0)")
    with psycopg.connect(shop.settings.variable("SHOP_OWNER_DSN")) as long:
        for n in range(1, 6):
            long.execute("insert into c27 values (%s, %s)", [100 + n, n])
            shop.db.execute("insert into c27 values (%s, %s)", [n, n])
            shop.capture()  # a restart with a transaction open: it must come whole, later
        long.execute("update c27 set v = 77 where id = 0")
    shop.agree("c27")
    assert [row["id"] for row in shop.log("c27")] == [0, 1, 2, 3, 4, 5, 101, 102, 103, 104, 105, 0]
    assert verify(shop.settings, lake=shop.lake, source=shop.source).problems == []


def test_case_29_a_transaction_over_two_tables_is_never_cut(shop, monkeypatch):
    from stripe_platform.cdc import capture as capturing

    shop.db.execute("create table c29_a (id integer primary key)")
    shop.db.execute("create table c29_b (id integer primary key)")
    shop.publish("c29_a", "c29_b")
    shop.capture()
    monkeypatch.setattr(capturing, "BATCH_ROWS", 10)
    monkeypatch.setattr(capturing, "CHUNK_BYTES", 500)
    for start in (0, 100):
        with shop.db.transaction():
            for n in range(start, start + 40):
                shop.db.execute(f"insert into c29_{'ab'[n % 2]} values ({n})")
    report = shop.agree("c29_a", "c29_b")
    assert len(report.batches) == 2
    manifests = Chain.load(shop.lake).manifests[-2:]
    assert [(m.transactions, m.changes, len(m.files)) for m in manifests] == [(1, 40, 2), (1, 40, 2)]


def test_partitions_arrive_as_their_root_also_when_a_row_moves_between_them(shop):
    shop.db.execute("create table parts (id integer, region text, v text, primary key (id, region))"
                    " partition by list (region)")
    for region in ("eu", "us"):
        shop.db.execute(f"create table parts_{region} partition of parts for values in ('{region}')")
    shop.publish("parts")
    shop.db.execute("insert into parts values (1, 'eu', 'a'), (2, 'us', 'b')")
    shop.db.execute("update parts set region = 'us' where id = 1")
    shop.db.execute("create table parts_jp (v text, region text not null, id integer not null)")  # another order
    shop.db.execute("alter table parts attach partition parts_jp for values in ('jp')")
    shop.db.execute("insert into parts values (3, 'jp', %s)", [long_text("jp")])
    shop.db.execute("update parts set id = 4 where region = 'jp'")
    shop.agree("parts")
    shop.db.execute("truncate parts")
    shop.agree("parts")


def test_columns_with_odd_names_are_kept_and_the_log_s_own_names_are_set_apart(shop):
    shop.table("odd", '"_id" integer primary key, "Ünï ""q""" text, "select" integer, "a.b" text,'
                      ' _op text, "x::text" text')
    shop.db.execute("insert into odd values (1, 'v', 2, 'w', %s, 'c')", [long_text("odd")])
    shop.db.execute('update odd set "select" = 3')
    shop.agree("odd", names=["_id", 'Ünï "q"', "select", "a.b"])
    stored = shop.warehouse.execute('select "source _op", "source x: :text" from raw.shop__odd').fetchall()
    assert stored == [(long_text("odd"), "c")]


def test_ciphertext_reaches_the_log_and_never_raw_whatever_the_source(shop):
    shop.table("sealed", "id integer primary key, name_ciphertext text, v text")
    shop.db.execute("insert into sealed values (1, %s, 'a')", [long_text("secret")])
    shop.db.execute("update sealed set v = 'b'")
    shop.agree("sealed", names=["id", "v"])
    assert [n for n in _columns(shop, "shop__sealed") if n.endswith("_ciphertext")] == []
    assert shop.log("sealed")[0]["name_ciphertext"] == long_text("secret")


def _columns(shop, table: str) -> list[str]:
    return [row[0] for row in shop.warehouse.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0", [f"raw.{table}"])]
