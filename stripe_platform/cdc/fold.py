"""Folding changes into states: the newest row of each key, with unchanged values taken from where they last stood.

Unknown is not NULL: a value that an update did not carry (unchanged TOAST) is taken from the key's earlier change in
the same fold, or else from the state the fold is applied to, at the old key where the update changed the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stripe_platform.cdc.columns import FENCE, is_own, name_lists, text

PENDING = "_pending"  # columns whose value must come from the earlier state
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Truncation:
    """All earlier rows of the table go. `fence`: its epoch, commit LSN and ordinal."""

    fence: tuple[str, int, int]
    row: dict[str, object]


def key_text(rows: pa.Table, key: Sequence[str]) -> pa.ChunkedArray:
    """One string per row that identifies its key."""
    if len(key) == 1:
        return _text(rows[key[0]])
    return pc.binary_join_element_wise(*(_escaped(_text(rows[name])) for name in key), SEPARATOR)


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_binary(values.type):
        return pa.chunked_array([text(chunk) for chunk in values.chunks], pa.string())
    return values.cast(pa.string())


def _escaped(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values in which the separator cannot occur: ('a', 'b' + separator) is another key than ('a' + separator, 'b')."""
    if not pc.any(pc.match_substring_regex(values, "[\x1e\x1f]")).as_py():
        return values
    return pc.replace_substring(pc.replace_substring(values, "\x1e", "\x1e0"), SEPARATOR, "\x1e1")


def doomed(parts: Iterable[pa.Table | Truncation]) -> Iterator[tuple[pa.Table | Truncation, bool]]:
    """Parts of a fold, and whether a truncation follows at once: what such rows left out need not be known."""
    for part, following in pairwise([*parts, None]):
        if part is not None:
            yield part, isinstance(following, Truncation)


def last_cut(changes: pa.Table) -> tuple[str, int, int] | None:
    """Position of the last truncation among changes, None where there is none."""
    cuts = changes.filter(pc.equal(changes["_op"], "t")).select(list(FENCE)).to_pylist()
    return max((cut["_epoch"], cut["_commit_lsn"], cut["_ord"]) for cut in cuts) if cuts else None


def segments(changes: pa.Table) -> Iterator[pa.Table | Truncation]:
    """Split changes at their truncations, in commit order; between them tables as given."""
    is_truncation = pc.equal(changes["_op"], "t")
    if not pc.any(is_truncation).as_py():
        yield changes
        return
    cuts = changes.filter(is_truncation).sort_by([(name, "ascending") for name in FENCE]).to_pylist()
    rest = changes.filter(pc.invert(is_truncation))
    for cut in cuts:
        fence = (cut["_epoch"], cut["_commit_lsn"], cut["_ord"])
        earlier = before(rest, fence)
        yield rest.filter(earlier)
        yield Truncation(fence, cut)
        rest = rest.filter(pc.invert(earlier))
    yield rest


def survivors(rows: pa.Table, fence: tuple[str, int, int]) -> pa.Table:
    """Rows of a state that a truncation leaves: those that came after it, which are none unless it arrives late."""
    gone = before(rows, fence)
    return rows.slice(0, 0) if pc.all(gone).as_py() else rows.filter(pc.invert(gone))


def before(rows: pa.Table, fence: tuple[str, int, int]) -> pa.Array:
    epoch, lsn, ordinal = (rows[name] for name in FENCE)
    same_commit = pc.and_(pc.equal(lsn, fence[1]), pc.less(ordinal, fence[2]))
    same_epoch = pc.and_(pc.equal(epoch, fence[0]), pc.or_(pc.less(lsn, fence[1]), same_commit))
    return pc.or_(pc.less(epoch, fence[0]), same_epoch)


def collapse(changes: pa.Table, key: Sequence[str]) -> pa.Table:
    """The newest change of each key, ordered by key; truncations must have been split off.

    `changes`: rows sorted by key, in commit order within one key (a stable sort of daily files in day order).
    Result: their columns without `_unchanged`, plus `_pending` (list of column names, mostly empty) and
    `_from_<key>`: the key whose earlier state has the pending values. A delete keeps the last known values.
    """
    if not changes.num_rows:
        return _with_pending(changes, key, [], {}, np.zeros(0, np.int64))
    changes = changes.combine_chunks()
    rows = changes.num_rows
    text = key_text(changes, key).combine_chunks()
    starts = np.ones(rows, bool)
    starts[1:] = pc.not_equal(text[1:], text[:-1]).to_numpy(zero_copy_only=False)
    last = np.flatnonzero(np.append(starts[1:], True))
    deleted = pc.equal(changes["_op"], "d").to_numpy(zero_copy_only=False)
    marked = pc.list_flatten(changes["_unchanged"]).unique().to_pylist()
    if not marked and not deleted[last].any():
        return _with_pending(changes.take(pa.array(last)), key, [], {}, last)
    group = np.maximum.accumulate(np.where(starts, np.arange(rows), 0))
    plain = [name for name in changes.column_names if is_own(name) and name not in (*key, *marked)]
    sources: dict[str, np.ndarray] = {}
    known = _fill(np.where(deleted, -1, np.arange(rows)), group)[last]
    sources |= dict.fromkeys(plain, known)
    origin = last.copy()
    if marked:
        sources |= _resolve_unchanged(changes, marked, deleted, group, last, origin)
    return _with_pending(changes.take(pa.array(last)), key, list(sources), sources, origin, changes)


def _fill(source: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Per row the newest known source of its key so far, -1 where none is."""
    newest = np.maximum.accumulate(np.where(source != -1, np.arange(len(source)), -1))
    return np.where(newest >= group, source[newest], -1)


def _resolve_unchanged(changes: pa.Table, marked: list[str], deleted: np.ndarray, group: np.ndarray, last: np.ndarray,
                       origin: np.ndarray) -> dict[str, np.ndarray]:
    """Sources of the columns that some update left out; moves `origin` to the old key where a key change did."""
    rows = changes.num_rows
    lists = changes["_unchanged"].combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    names = pc.list_flatten(lists)
    sources = {}
    for name in marked:
        left_out = parents[pc.equal(names, name).to_numpy(zero_copy_only=False)]
        source = np.where(deleted, -1, np.arange(rows))
        source[left_out] = -1
        sources[name] = source
    came_from = _key_changes(changes, deleted)
    barrier: dict[int, int] = {}  # row of the new key -> row of the old key that holds the start of its history
    for row, old in came_from:
        for name in marked:
            source = sources[name]
            if source[row] == -1:
                found = next((source[n] for n in range(old - 1, group[old] - 1, -1) if source[n] != -1), -1)
                source[row] = found if found >= 0 else -2
        barrier[row] = next((barrier[n] for n in range(old, group[old] - 1, -1) if n in barrier), old)
    if barrier:
        moved = np.full(rows, -1)
        moved[list(barrier)] = list(barrier.values())
        through = _fill(moved, group)[last]
        origin[:] = np.where(through >= 0, through, origin)
    return {name: np.maximum(_fill(source, group)[last], -1) for name, source in sources.items()}


def _key_changes(changes: pa.Table, deleted: np.ndarray) -> list[tuple[int, int]]:
    """(row of the new key, row of the old key) of key changes that left values out, in commit order."""
    incomplete = pc.and_(pc.equal(changes["_op"], "c"), pc.greater(pc.list_value_length(changes["_unchanged"]), 0))
    rows = np.flatnonzero(incomplete.to_numpy(zero_copy_only=False))
    if not len(rows):
        return []
    lsn, ordinal = changes["_commit_lsn"].to_numpy(), changes["_ord"].to_numpy()
    old = {(lsn[n], ordinal[n]): int(n) for n in np.flatnonzero(deleted)}
    rows = rows[np.lexsort((ordinal[rows], lsn[rows]))]
    return [(int(n), old[lsn[n], ordinal[n] - 1]) for n in rows]


def _with_pending(newest: pa.Table, key: Sequence[str], filled: list[str], sources: dict[str, np.ndarray],
                  origin: np.ndarray, changes: pa.Table | None = None) -> pa.Table:
    count = newest.num_rows
    missing = np.zeros((len(filled), count), bool)
    result = newest.drop_columns(["_unchanged"])
    for n, name in enumerate(filled):
        assert changes is not None  # noqa: S101 - given whenever something is filled
        missing[n] = sources[name] < 0
        picks = pa.array(np.maximum(sources[name], 0), mask=missing[n])
        result = result.set_column(result.column_names.index(name), name, changes[name].take(picks))
    result = result.append_column(PENDING, name_lists(filled, missing))
    for name in key:
        values = changes[name].take(pa.array(origin)) if changes is not None else newest[name]
        result = result.append_column(f"_from_{name}", values)
    return result
