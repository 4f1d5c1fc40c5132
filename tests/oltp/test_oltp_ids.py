"""Ids order by time, repeat under a seed, and can never be taken for a card number."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_platform.oltp.ids import boundary_id, new_id, new_token, seeded, tokens, unix_us, uuid7_ids

EPOCH, LATE = dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1)  # noqa: DTZ001 - the strategy adds the zone
instants = st.datetimes(EPOCH, LATE, timezones=st.just(dt.UTC))


@given(st.lists(instants, min_size=2, max_size=50, unique=True), st.integers(0, 2**32))
def test_ids_of_distinct_microseconds_order_as_time_does(moments: list[dt.datetime], seed: int):
    us = np.array([unix_us(m) for m in moments])
    ids = uuid7_ids("ch", us, seeded(seed))
    assert [ids[i] for i in np.argsort(us)] == sorted(ids)
    assert len(set(ids)) == len(ids)


@given(instants, st.integers(0, 2**32))
def test_an_id_is_a_uuid_of_version_7_that_names_its_millisecond(moment: dt.datetime, seed: int):
    for name in (uuid7_ids("ch", np.array([unix_us(moment)]), seeded(seed))[0], new_id("ch", moment)):
        assert re.fullmatch(r"ch_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", name)
        assert int(name[3:15], 16) == unix_us(moment) // 1000


@given(instants, st.integers(0, 2**32))
def test_no_id_and_no_token_holds_digits_enough_for_a_card_number(moment: dt.datetime, seed: int):
    names = uuid7_ids("ch", np.array([unix_us(moment)]), seeded(seed)) + tokens("tok", 1, seeded(seed))
    for name in names:
        # The head of an id is its time and starts with a 0, which no card number does.
        assert max(map(len, re.findall("[0-9]+", name)), default=0) <= 13
        assert all(run.startswith("0") for run in re.findall("[0-9]{13,}", name))


@given(instants, st.integers(0, 2**32))
def test_ids_of_a_day_lie_between_its_boundaries(moment: dt.datetime, seed: int):
    (name,) = uuid7_ids("ch", np.array([unix_us(moment)]), seeded(seed))
    day = moment.date()
    assert boundary_id("ch", day) <= name < boundary_id("ch", day + dt.timedelta(days=1))


def test_the_same_seed_gives_the_same_names_and_another_seed_others():
    us = np.arange(100)
    assert uuid7_ids("ch", us, seeded(1, "a")) == uuid7_ids("ch", us, seeded(1, "a"))
    assert set(uuid7_ids("ch", us, seeded(1, "a"))).isdisjoint(uuid7_ids("ch", us, seeded(1, "b")))
    assert tokens("tok", 3, seeded(7)) == tokens("tok", 3, seeded(7))
    assert new_token("tok") != new_token("tok")


def test_instants_without_zone_or_outside_the_range_are_refused():
    with pytest.raises(ValueError, match="time zone"):
        unix_us(dt.datetime(2026, 6, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="microseconds"):
        uuid7_ids("ch", np.array([-1]), seeded(1))
