"""Level D and case 45: canaries arrive without a gap and move idle slots, one that is missing is named."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from stripe_platform.cdc import canary
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import waiting_canaries
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.verify import verify


@pytest.fixture(scope="module")
def watched(shop):
    shop.table("beside", "id integer primary key")
    shop.db.execute("insert into beside values (0)")
    shop.capture()
    return shop


def emit(shop, count: int = 1) -> list[int]:
    return [canary.emit(shop.settings, shop.source, shop.lake) for _n in range(count)]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_canaries_count_on_through_idle_captures_and_batches(watched):
    shop, first = watched, emit(watched)[0]
    shop.capture()
    assert waiting_canaries(shop.lake) == ((first, first),)
    before = slot_metrics(shop.settings, shop.source, shop.lake)
    emit(shop, 2)
    assert shop.capture().batches == []
    after = slot_metrics(shop.settings, shop.source, shop.lake)
    assert after.unacknowledged_bytes < 10_000
    assert (before.wal_status, after.wal_status, after.alarms) == ("reserved", "reserved", [])
    emit(shop)
    shop.db.execute("insert into beside values (1)")
    emit(shop)
    shop.capture()
    assert Chain.load(shop.lake).manifests[-1].canaries == ((first, first + 4),)
    assert waiting_canaries(shop.lake) == ()
    report = verify(shop.settings, lake=shop.lake, source=shop.source)
    assert report.problems == []
    assert report.canaries >= 5


def test_case_45_while_captured_tables_idle_canaries_let_the_log_go(watched):
    shop = watched
    shop.capture()
    shop.db.execute("create table elsewhere as select repeat(md5(n::text), 30) as t from generate_series(1, 4000) n")
    assert slot_metrics(shop.settings, shop.source, shop.lake).unacknowledged_bytes > 3_000_000
    emit(shop)
    shop.capture()
    assert slot_metrics(shop.settings, shop.source, shop.lake).unacknowledged_bytes < 10_000


def test_a_message_of_another_program_means_nothing(watched):
    shop = watched
    for transactional in (True, False):
        shop.db.execute("select pg_logical_emit_message(%s, 'theirs', 'x')", [transactional])
    with shop.db.transaction(force_rollback=True):
        shop.db.execute("select pg_logical_emit_message(true, 'stripe_platform.canary', '{\"number\": 99}')")
    shop.capture()
    assert verify(shop.settings, lake=shop.lake, source=shop.source).problems == []


@pytest.mark.parametrize("point", ["before the message", "after the commit"])
def test_an_emitter_killed_midway_leaves_no_gap(watched, monkeypatch, point):
    shop, number = watched, emit(watched)[0]
    child = os.fork()
    if not child:
        try:
            if point == "before the message":
                put = type(shop.lake).put
                monkeypatch.setattr(type(shop.lake), "put", lambda *args: (put(*args), die()))
            emit(shop)
            die()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert emit(shop) == [number + 1 + (point == "after the commit")]
    shop.capture()
    assert verify(shop.settings, lake=shop.lake, source=shop.source).problems == []


def test_a_canary_that_is_missing_or_comes_again_is_named():
    def chain(*ranges: tuple[int, int]) -> Chain:
        made = [dataclasses.replace(BATCH, seq=n, canaries=(pair,)) for n, pair in enumerate(ranges, start=1)]
        return Chain(made)

    assert canary.gaps(chain((4, 6), (7, 7)), ((8, 9),)) == []
    (missing,) = canary.gaps(chain((1, 3), (6, 7)))
    assert "canaries 4 to 5 are missing" in missing
    (again,) = canary.gaps(chain((1, 3)), ((3, 3),))
    assert "canary 3 came again" in again


BATCH = manifests.Manifest(1, None, "s", "s", "1", 1, 1, "e", 0, 1, 1, 1, 0, None, None, None)


def test_a_slot_that_is_gone_is_an_alarm(watched):
    gone = slot_metrics(watched.settings, dataclasses.replace(watched.source, slot="nobody"), watched.lake)
    assert gone.wal_status == "missing"
    assert "slot nobody of source shop is missing" in gone.alarms[0]
