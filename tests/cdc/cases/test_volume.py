"""Case 28: one transaction of a million rows and more is landed whole in memory that does not grow with it."""

from __future__ import annotations

import hashlib
import os

import pytest

from stripe_platform.bench import peak_mb
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.verify import verify

pytestmark = pytest.mark.volume
SMALL, LARGE = 600_000, 3_000_000  # below four chunks of 32 MB the peak is not reached yet


def peak_megabytes(work) -> float:
    """Peak resident memory of a forked child that does the work, beyond what it began with."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            before = peak_mb()
            work()
            grown = peak_mb() - before
            os.write(writing, str(grown).encode())
        finally:
            os._exit(0)
    os.close(writing)
    _pid, status = os.waitpid(child, 0)
    assert status == 0
    with os.fdopen(reading) as pipe:
        return float(pipe.read())


def test_case_28_memory_is_the_same_for_a_transaction_five_times_as_large(shop):
    shop.table("c28", "id bigint primary key, n integer, v text, at timestamptz")
    shop.capture()
    grown = {}
    for rows in (SMALL, LARGE):
        shop.db.execute(f"insert into c28 select n + {rows * 10}, n % 100, repeat(md5(n::text), 4), now()"
                        f" from generate_series(1, {rows}) n")
        grown[rows] = peak_megabytes(lambda: capture(shop.settings, lake=shop.lake, source=shop.source))
        newest = Chain.load(shop.lake).manifests[-1]
        assert (newest.transactions, newest.changes) == (1, rows)  # all of it, or none
    print(f"peak memory beyond the start: {grown}")
    assert grown[LARGE] < grown[SMALL] * 1.2 + 20
    assert verify(shop.settings, lake=shop.lake, source=shop.source).problems == []


def test_case_28_rows_with_ten_kilobytes_each_cost_no_more(shop):
    shop.table("c28_wide", "id bigint primary key, v text")
    shop.db.execute("alter table c28_wide alter v set storage external")
    shop.capture()
    grown = {}
    for rows in (20_000, 100_000):
        shop.db.execute(f"insert into c28_wide select n + {rows * 10}, repeat(md5(n::text), 320)"
                        f" from generate_series(1, {rows}) n")
        grown[rows] = peak_megabytes(lambda: capture(shop.settings, lake=shop.lake, source=shop.source))
    print(f"peak memory beyond the start: {grown}")
    assert grown[100_000] < grown[20_000] * 1.2 + 20


def test_case_11_a_value_of_64_mebibytes_arrives_byte_by_byte(shop):
    shop.table("c11", "id integer primary key, v bytea")
    shop.db.execute("insert into c11 values (1, %s)", [os.urandom(64 << 20)])
    shop.capture()
    (expected,) = shop.db.execute("select md5(v) from c11").fetchone()
    (row,) = shop.log("c11")
    assert hashlib.md5(row["v"]).hexdigest() == expected  # noqa: S324 - PostgreSQL's own, no secret
    shop.apply("c11")
    assert shop.warehouse.execute("select md5(v) from raw.shop__c11").fetchone() == (expected,)
