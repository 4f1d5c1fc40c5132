"""The three outcomes, each from what causes it."""

from __future__ import annotations

import dagster as dg
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asset_checks import rules as rule_book
from asset_checks.judge import ROWS, WHOLE, Check, judge
from asset_checks.rules import Rule, at_least, equal, none_of, within
from asset_checks.stores import Stores

DAYS = ["2026-06-01", "2026-06-02", "2026-06-03"]
NOWHERE = Stores(None, None, None, None, None)
CARD = "4242424242424242"


def check(profile, *rules: Rule, **more) -> Check:
    return Check(dg.AssetKey(["raw", "charges"]), "sound", "All is well.", profile,
                 rules or none_of("negative_amounts"), **more)


def profiled(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"partition": DAYS, ROWS: [10, 10, 10], "negative_amounts": [0, 0, 0]} | columns)


def outcomes(made: Check, partitions: list[str] | None = None) -> list[str]:
    return [verdict.outcome for verdict in judge(made, NOWHERE, partitions or DAYS)]


def test_counts_within_their_rules_pass_and_say_how_many_rows_were_seen():
    found = judge(check(lambda *_: profiled()), NOWHERE, DAYS)
    assert [(v.partition, v.outcome, v.rows_scanned) for v in found] == [(day, "passed", 10) for day in DAYS]


def test_a_violation_fails_its_own_day_and_names_the_rule():
    found = judge(check(lambda *_: profiled(negative_amounts=[0, 3, 0])), NOWHERE, DAYS)
    assert [v.outcome for v in found] == ["passed", "failed", "passed"]
    assert found[1].reasons == ("no_negative_amounts",)


def test_a_good_range_is_judged_in_one_call_and_a_bad_one_day_by_day(monkeypatch):
    calls = []
    real = rule_book.verdicts
    monkeypatch.setattr(rule_book, "verdicts", lambda frame, *a, **k: calls.append(len(frame)) or real(frame, *a, **k))
    judge(check(lambda *_: profiled()), NOWHERE, DAYS)
    assert calls == [3]
    judge(check(lambda *_: profiled(negative_amounts=[1, 0, 0])), NOWHERE, DAYS)
    assert calls[1:] == [3, 1, 1, 1]


def test_a_profile_that_raises_is_not_evaluated_and_its_text_stays_inside():
    def broken(*_):
        raise ValueError(f"invalid input: {CARD}")

    found = judge(check(broken), NOWHERE, DAYS)
    assert [v.outcome for v in found] == ["not_evaluated"] * 3
    assert found[0].reasons == ("profile raised ValueError",)


@pytest.mark.parametrize("frame", [
    profiled().iloc[:0], profiled().drop(columns=["negative_amounts"]), profiled().drop(columns=[ROWS]), pd.DataFrame(),
    profiled(**{ROWS: [0, 0, 0]}), profiled(negative_amounts=[None, None, None]),
    pd.concat([profiled(), profiled()]), profiled(negative_amounts=[float("nan")] * 3),
])
def test_nothing_to_judge_is_not_a_pass(frame):
    assert outcomes(check(lambda *_: frame)) == ["not_evaluated"] * 3


def test_a_day_missing_from_the_profile_is_not_evaluated_and_the_others_are_judged():
    assert outcomes(check(lambda *_: profiled().iloc[[0, 2]])) == ["passed", "not_evaluated", "passed"]


def test_a_day_below_its_floor_is_not_evaluated():
    made = check(lambda *_: profiled(files=[1, 0, 1]), floors={"files": 1})
    found = judge(made, NOWHERE, DAYS)
    assert [v.outcome for v in found] == ["passed", "not_evaluated", "passed"]
    assert found[1].reasons == ("files below its floor of 1",)


def test_an_expectation_that_errs_is_not_evaluated():
    made = check(lambda *_: profiled(negative_amounts=["a", "b", "c"]))
    found = judge(made, NOWHERE, DAYS)
    assert [v.outcome for v in found] == ["not_evaluated"] * 3
    assert found[0].reasons == ("no_negative_amounts could not be evaluated",)


def test_equality_bounds_and_least_counts_are_judged_exactly_up_to_the_last_unit():
    large = 2**53 + 1  # beyond what a float tells apart
    frame = profiled(here=[large, large, 5], there=[large, large - 1, 5])
    assert outcomes(check(lambda *_: frame, equal("here", "there"))) == ["passed", "failed", "passed"]
    assert outcomes(check(lambda *_: frame, within("there", 0, 10))) == ["failed", "failed", "passed"]
    assert outcomes(check(lambda *_: frame, at_least("there", 6))) == ["passed", "passed", "failed"]


def test_an_asset_without_days_has_one_verdict():
    whole = pd.DataFrame({"partition": [WHOLE], ROWS: [4], "negative_amounts": [0]})
    assert outcomes(check(lambda *_: whole, partitioned=False), [WHOLE]) == ["passed"]


def test_a_check_that_could_pass_on_nothing_is_refused():
    with pytest.raises(ValueError, match="floor above 0"):
        check(lambda *_: profiled(), floors={ROWS: 0})
    with pytest.raises(ValueError, match="has no rule"):
        Check(dg.AssetKey("a"), "empty", "", lambda *_: profiled(), ())
    with pytest.raises(ValueError, match="can never fail"):
        Rule("anything", ROWS)


LARGE = 2**53
MANY = (*none_of("a", "b"), at_least("c", 1), within("b", 0, 5), equal("c", "d"), equal("e", "f"))


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 2, st.integers(0, 2), st.integers(0, 2),
                          st.sampled_from((LARGE, LARGE + 1)), st.sampled_from((LARGE, LARGE + 1))),
                min_size=1, max_size=3))  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_judging_columns_of_one_bound_together_says_what_each_alone_says(rows):
    frame = pd.DataFrame(rows, columns=list("abcdef"))
    alone = rule_book.verdicts(frame, MANY, critical=True)
    assert rule_book.all_hold(frame, MANY, critical=True) == all(alone.values())
