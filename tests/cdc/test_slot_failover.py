"""The slot may fail over, and the change log follows a promoted standby only where nothing can be missing."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from resources.lake import LocalLake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import CaptureError, durable_position, ensure_slot
from stripe_platform.cdc.manifest import Epoch
from stripe_platform.cdc.slot import SlotState, follow_promotion, refuse_a_foreign_slot

EPOCH = Epoch(1, "slot", "77", 1, 50)
PROMOTED = SlotState("77", 2, 300, True, 90, None, "reserved", history={1: 200})


def failover(settings) -> bool:
    with psycopg.connect(settings.need("oltp_owner_dsn")) as connection:
        row = connection.execute("select failover from pg_replication_slots where slot_name = %s",
                                 [settings.cdc_slot]).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.servers
def test_a_new_slot_is_copied_to_standbys(source):
    assert failover(source)


@pytest.mark.servers
def test_a_slot_of_an_earlier_release_gets_the_option_and_keeps_its_place(source, store):
    with psycopg.connect(source.need("oltp_owner_dsn")) as connection:
        before = connection.execute("select confirmed_flush_lsn from pg_replication_slots where slot_name = %s",
                                    [source.cdc_slot]).fetchone()
    with psycopg.connect(source.need("cdc_dsn"), replication="database", autocommit=True) as connection:
        connection.execute(f'ALTER_REPLICATION_SLOT "{source.cdc_slot}" (FAILOVER false)'.encode())
    assert not failover(source)
    epoch = ensure_slot(source)
    assert failover(source)
    assert manifests.load_epochs(store) == [epoch]
    with psycopg.connect(source.need("oltp_owner_dsn")) as connection:
        assert connection.execute("select confirmed_flush_lsn from pg_replication_slots where slot_name = %s",
                                  [source.cdc_slot]).fetchone() == before


@pytest.mark.parametrize("durable", [100, 200])
def test_a_promoted_standby_is_followed_while_all_we_hold_is_before_the_promotion(durable):
    refuse_a_foreign_slot(EPOCH, PROMOTED, durable)


@pytest.mark.parametrize("state", [
    replace(PROMOTED, system_identifier="78"),  # another server
    replace(PROMOTED, history={1: 149}),  # promoted before it had all we hold
    replace(PROMOTED, history={}),  # its history does not know our timeline
    replace(PROMOTED, timeline=1, system_identifier="78"),
], ids=["system", "behind", "stranger", "other"])
def test_any_other_server_is_refused(state):
    with pytest.raises(CaptureError, match="on another server or timeline"):
        refuse_a_foreign_slot(EPOCH, state, 150)


def test_the_former_primary_is_refused_after_the_promotion_was_followed():
    former = SlotState("77", 1, 300, True, 90, None, "reserved")
    with pytest.raises(CaptureError, match="on another server or timeline"):
        refuse_a_foreign_slot(Epoch(2, "slot", "77", 2, 150), former, 150)


def test_a_slot_made_anew_after_the_promotion_is_refused():
    with pytest.raises(CaptureError, match="the stretch between is lost"):
        refuse_a_foreign_slot(EPOCH, replace(PROMOTED, confirmed_lsn=250), 150)


def test_two_promotions_at_once_are_followed_by_the_history_of_the_last():
    twice = replace(PROMOTED, timeline=3, history={1: 200, 2: 280})
    refuse_a_foreign_slot(EPOCH, twice, 150)
    with pytest.raises(CaptureError):
        refuse_a_foreign_slot(EPOCH, twice, 250)


def test_a_followed_promotion_begins_an_epoch_where_the_durable_log_ends(tmp_path):
    lake = LocalLake(tmp_path)
    manifests.save_epoch(lake, EPOCH)
    assert follow_promotion(lake, EPOCH, SlotState("77", 1, 0, True, 0, None, None), 60) == EPOCH
    following = follow_promotion(lake, EPOCH, PROMOTED, 150)
    assert following == Epoch(2, "slot", "77", 2, 150)
    assert manifests.load_epochs(lake) == [EPOCH, following]
    assert following.name > EPOCH.name
    assert durable_position(lake) == (following, 150)
