"""Folding against a model that applies one change at a time."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_platform.cdc import fold
from stripe_platform.cdc.columns import ENVELOPE
from stripe_platform.cdc.compact import sort_by_key
from stripe_platform.cdc.snapshots import merge

SCHEMA = pa.schema([("id", pa.string()), ("a", pa.string()), ("b", pa.string()), *ENVELOPE])
STATE = pa.schema([("id", pa.string()), ("a", pa.string()), ("b", pa.string()),
                   ("_epoch", pa.string()), ("_commit_lsn", pa.int64()), ("_ord", pa.int64())])
IDS = ["k1", "k2", "k3", "k4", "k5"]


@st.composite
def histories(draw) -> list[tuple[list[dict], dict[str, tuple[str, str]]]]:
    """Days of changes as the log has them, each with the state that is true after it."""
    state: dict[str, tuple[str, str]] = {}
    days, lsn, serial = [], 0, 0
    for _day in range(draw(st.integers(1, 4))):
        rows: list[dict] = []
        for _commit in range(draw(st.integers(0, 5))):
            lsn, ordinal = lsn + 10, 0
            for _change in range(draw(st.integers(1, 4))):
                serial += 1
                fresh = (f"a{serial}", f"b{serial}")
                present, absent = sorted(state), [k for k in IDS if k not in state]
                kind = draw(st.sampled_from("ccuuukdt"))
                made: list[tuple] = []
                if kind == "c" and absent:
                    key = draw(st.sampled_from(absent))
                    state[key] = fresh
                    made = [("c", key, *fresh, [])]
                elif kind in "uk" and present:
                    key, left = draw(st.sampled_from(present)), draw(st.sets(st.sampled_from("ab"), max_size=2))
                    values = tuple(state[key][n] if name in left else fresh[n] for n, name in enumerate("ab"))
                    sent = tuple(None if name in left else values[n] for n, name in enumerate("ab"))
                    if kind == "u" or not absent:
                        state[key] = values
                        made = [("u", key, *sent, sorted(left))]
                    else:
                        new = draw(st.sampled_from(absent))
                        del state[key]
                        state[new] = values
                        made = [("d", key, None, None, []), ("c", new, *sent, sorted(left))]
                elif kind == "d" and present:
                    key = draw(st.sampled_from(present))
                    del state[key]
                    made = [("d", key, None, None, [])]
                elif kind == "t" and draw(st.integers(0, 3)) == 0:
                    state.clear()
                    made = [("t", None, None, None, [])]
                for op, key, a, b, left in made:
                    ordinal += 1
                    rows.append({"id": key, "a": a, "b": b, "_op": op, "_commit_lsn": lsn, "_ord": ordinal,
                                 "_commit_ts": None, "_epoch": "e1", "_source": "s", "_unchanged": left})
        days.append((rows, dict(state)))
    return days


def fold_in(state: pa.Table, rows: list[dict]) -> pa.Table:
    for part in fold.segments(pa.Table.from_pylist(rows, SCHEMA)):
        if isinstance(part, fold.Truncation):
            state = state.slice(0, 0)
        elif part.num_rows:
            state = merge(state, fold.collapse(sort_by_key(part, ["id"]), ["id"]), ["id"])
    return state


def content(state: pa.Table) -> dict[str, tuple[str, str]]:
    return {r["id"]: (r["a"], r["b"]) for r in state.to_pylist()}


@settings(deadline=None, max_examples=80)
@given(histories())
def test_folding_day_by_day_gives_the_state_that_the_source_had(history):
    state = STATE.empty_table()
    for rows, expected in history:
        state = fold_in(state, rows)
        assert content(state) == expected
        assert state["id"].to_pylist() == sorted(expected)


@settings(deadline=None, max_examples=40)
@given(histories())
def test_folding_all_days_at_once_gives_the_same_rows_as_day_by_day(history):
    single = STATE.empty_table()
    for rows, _expected in history:
        single = fold_in(single, rows)
    together = fold_in(STATE.empty_table(), [row for rows, _expected in history for row in rows])
    assert together.select(STATE.names).to_pylist() == single.select(STATE.names).to_pylist()


def test_an_update_whose_earlier_state_is_not_known_is_pending_not_null():
    row = {"id": "k", "a": "new", "b": None, "_op": "u", "_commit_lsn": 1, "_ord": 1, "_epoch": "e", "_source": "s",
           "_unchanged": ["b"]}
    (newest,) = fold.collapse(pa.Table.from_pylist([row], SCHEMA), ["id"]).to_pylist()
    assert newest[fold.PENDING] == ["b"]
    assert newest["_from_id"] == "k"
