"""Cases 47 and 48: the source changes its columns in mid-stream; what the log cannot tell stops that table alone."""

from __future__ import annotations

import pytest
from any_source import DAY

from stripe_platform.cdc.backfill import backfill
from stripe_platform.cdc.catalogue import CatalogueError, declare_renames, versions
from stripe_platform.cdc.snapshots import state_at

CHANGES = {
    "add": ["alter table {t} add extra integer"],
    "add_with_default": ["alter table {t} add extra text not null default 'it''s'"],
    "add_with_default_now": ["alter table {t} add extra timestamptz not null default now()"],
    "add_array_default": ["alter table {t} add extra text[] default '{{\"a,b\",NULL}}'"],
    "add_infinite_default": ["alter table {t} add extra timestamptz not null default 'infinity'"],
    "drop": ["alter table {t} drop column n"],
    "rename": ["alter table {t} rename v to w"],
    "rename_of_the_key": ["alter table {t} rename id to code"],
    "swap_two_names": ["alter table {t} rename v to x", "alter table {t} rename doc to v",
                       "alter table {t} rename x to doc"],
    "widen_integer": ["alter table {t} alter n type bigint"],
    "narrow_integer": ["alter table {t} alter n type smallint"],
    "integer_to_text": ["alter table {t} alter n type text"],
    "widen_varchar": ["alter table {t} alter v type varchar(40)"],
    "varchar_to_text": ["alter table {t} alter v type text"],
    "widen_numeric": ["alter table {t} alter m type numeric(20,2)"],
    "numeric_unbounded": ["alter table {t} alter m type numeric"],
    "two_in_one_transaction": ["begin", "alter table {t} add extra integer default 7", "alter table {t} drop column v",
                               "insert into {t} (id, n) values (90, 1)", "commit"],
    "drop_and_add_again": ["alter table {t} drop column v", "alter table {t} add v varchar(20)"],
    "drop_and_add_with_default": ["alter table {t} drop column n, add n integer default 3"],
    "rename_and_add_under_the_old_name": ["alter table {t} rename v to w", "alter table {t} add v varchar(20)"],
    "another_key": ["alter table {t} drop constraint {t}_pkey", "alter table {t} add primary key (n)"],
    "wider_key": ["alter table {t} drop constraint {t}_pkey", "alter table {t} add primary key (n, id)"],
    "type_of_the_key": ["alter table {t} alter id type bigint"],
    "no_change_in_between": [
        "alter table {t} add e1 integer default 1", "alter table {t} drop column e1", "alter table {t} add e2 text"],
}
LONG = "repeat(md5(id::text), 200)"


def fill(shop, suffix: str) -> dict[str, str]:
    """A table with a few rows for each change."""
    tables = {name: f"{name}_{suffix}" for name in CHANGES}
    for table in tables.values():
        shop.db.execute(f"create table {table} (id integer primary key, n integer not null, v varchar(20),"
                        " m numeric(12,2), doc text)")
        shop.db.execute(f"alter table {table} alter doc set storage external")
    shop.publish(*tables.values())
    for table in tables.values():
        shop.db.execute(f"insert into {table} select id, id, 'v' || id, id + 0.5, {LONG} from generate_series(1, 6) id")
        shop.db.execute(f"delete from {table} where id = 6")
    return tables


def change(shop, tables: dict[str, str]) -> None:
    for name, table in tables.items():
        for statement in CHANGES[name]:
            shop.db.execute(statement.format(t=table))


@pytest.fixture(scope="module", params=["told", "looked_up"])
def between(shop, request):
    """Each change between two batches, after the rows of before were applied; a trigger tells it, or one looks up."""
    shop.tell(request.param == "told")
    tables = fill(shop, request.param)
    shop.capture()
    for table in tables.values():
        shop.apply(table)
    change(shop, tables)
    shop.capture()  # without a change of rows the log does not know of it yet
    for table in tables.values():
        shop.db.execute(f"update {table} set m = m + 100 where m < 3")  # leaves the long text out
    shop.capture()
    shop.tell(True)
    return tables


@pytest.fixture(scope="module")
def inside(shop):
    """All is read at the end, when the catalogue shows what came last: only what was told in the log can be right."""
    shop.tell(True)
    tables = fill(shop, "inside")
    for table in tables.values():
        shop.db.execute(f"update {table} set m = 0 where id = 1")
    change(shop, tables)
    for table in tables.values():
        shop.db.execute(f"update {table} set m = m + 100 where m < 3")
        shop.db.execute(f"alter table {table} add later integer default 5")
        shop.db.execute(f"delete from {table} where m = 100")
    shop.capture()
    return tables


@pytest.mark.parametrize("name", CHANGES)
def test_case_47_a_change_between_two_batches(shop, between, name):
    shop.judge(between[name])


@pytest.mark.parametrize("name", CHANGES)
def test_case_47_a_change_inside_one_batch(shop, inside, name):
    shop.judge(inside[name])


@pytest.fixture
def untold(shop):
    """The same source where nobody may make an event trigger."""
    shop.tell(False)
    yield shop
    shop.tell(True)


def test_case_47_a_rename_that_nothing_tells_stops_its_table_until_somebody_says(untold):
    """Two renames before the capture: the catalogue shows the last name only."""
    shop = untold
    shop.table("renamed", "id integer primary key, v text")
    shop.table("beside", "id integer primary key")
    shop.db.execute("insert into renamed values (1, 'a')")
    shop.agree("renamed")
    shop.db.execute("alter table renamed rename v to w")
    shop.db.execute("insert into renamed values (2, 'b')")
    shop.db.execute("insert into beside values (1)")
    shop.db.execute("alter table renamed rename w to x")
    shop.db.execute("insert into renamed values (3, 'c')")
    shop.agree("beside")
    for reader in (shop.apply, lambda table: state_at(shop.lake, table, DAY, first_day=DAY)):
        with pytest.raises(CatalogueError, match=r"public\.renamed: column v went and w .*cdc rename --table renamed"):
            reader("renamed")
    assert shop.raw_rows("renamed", ["id", "v"]) == [("1", "a")]
    first, second, third = versions(shop.lake, "renamed")
    with pytest.raises(CatalogueError, match="no step from column v to y"):
        declare_renames(shop.lake, first, second, {"v": "y"})
    declare_renames(shop.lake, first, second, {"v": "w"})
    declare_renames(shop.lake, second, third, {"w": "x"})
    shop.agree("renamed")


@pytest.mark.parametrize(("before", "after", "using"), [
    ("numeric(12,4)", "numeric(12,2)", ""), ("text", "integer", " using length(v)"), ("integer", "text", ""),
    ("timestamptz", "date", ""), ("timestamp(6)", "timestamp(0)", ""), ("json", "jsonb", " using v::jsonb"),
    ("boolean", "text", ""), ("character(5)", "text", "")])
def test_case_47_a_type_that_may_rewrite_rows_stops_its_table(shop, before, after, using):
    table = f"retyped_{before.split('(')[0]}_{after.split('(')[0]}"
    value = {"text": "'abc'", "integer": "1", "json": "'{}'", "boolean": "true"}.get(before) or {
        "n": "1.2345", "t": "'2026-06-01 12:00:00.6'", "c": "'ab'"}[before[0]]
    shop.table(table, f"id integer primary key, v {before}")
    shop.db.execute(f"insert into {table} values (1, {value})")
    shop.agree(table)
    shop.db.execute(f"alter table {table} alter v type {after}{using}")
    shop.db.execute(f"insert into {table} values (2, null)")
    if (before, after) == ("integer", "text"):
        shop.agree(table)
        return
    shop.capture()
    with pytest.raises(CatalogueError, match=rf"{table}\.v became .* which may have rewritten rows.*cdc snapshot"):
        shop.apply(table)


def test_case_47_a_default_that_could_not_be_looked_up_is_not_taken_for_null(untold):
    shop = untold
    shop.table("fleeting", "id integer primary key")
    shop.table("went", "id integer primary key")
    for table in ("fleeting", "went"):
        shop.db.execute(f"insert into {table} values (1)")
    shop.agree("fleeting", "went")
    for table in ("fleeting", "went"):
        shop.db.execute(f"alter table {table} add v integer default 7")
        shop.db.execute(f"insert into {table} values (2)")
    shop.db.execute("alter table fleeting alter v type bigint")
    shop.db.execute("insert into fleeting values (3)")
    shop.db.execute("alter table went drop v")
    shop.db.execute("insert into went values (3)")
    shop.agree("went")
    with pytest.raises(CatalogueError, match=r"public\.fleeting\.v came and was changed again"):
        shop.apply("fleeting")


def test_case_47_a_table_that_is_renamed_goes_on_under_its_new_name(shop):
    shop.table("first_name", "id integer primary key, v text")
    shop.db.execute("insert into first_name values (1, 'a')")
    shop.agree("first_name")
    shop.db.execute("alter table first_name rename to second_name")
    shop.withdraw("first_name")
    shop.publish("second_name")
    shop.db.execute("insert into second_name values (2, 'b')")
    shop.capture()
    assert [row["id"] for row in shop.log("second_name")] == [2]


def test_case_47_a_table_dropped_and_made_again_under_its_name_is_another_one(shop):
    shop.table("again", "id integer primary key, v text")
    shop.db.execute("insert into again values (1, 'a')")
    shop.agree("again")
    shop.db.execute("drop table again")
    shop.table("again", "id integer primary key, v text")
    shop.db.execute("insert into again values (2, 'b')")
    shop.capture()
    with pytest.raises(CatalogueError, match=r"public\.again is another table .*cdc snapshot --table again"):
        shop.apply("again")
    backfill(shop.settings, shop.source, ["again"], lake=shop.lake)
    shop.agree("again")


def test_case_48_old_batches_replayed_after_a_newer_schema_take_nothing_back(shop):
    shop.table("c48", "id integer primary key, v text, gone integer")
    shop.db.execute("insert into c48 values (1, 'a', 1), (2, 'b', 2)")
    shop.agree("c48")
    shop.db.execute("alter table c48 drop gone, add extra integer default 5")
    shop.db.execute("alter table c48 rename v to w")
    shop.db.execute("update c48 set w = 'c' where id = 1")
    shop.agree("c48")
    shop.warehouse.execute("delete from raw._applied where table_name = 'shop__c48'")
    shop.agree("c48")
    shop.warehouse.execute("update raw.shop__c48 set w = 'spoilt'")
    from stripe_platform.warehouse import raw

    raw.apply(shop.warehouse, shop.lake, "c48", [DAY], first_day=DAY, reapply=True)
    shop.agree("c48")
