"""Following a table through its versions: what a change of columns means for rows that are older than it.

The log carries no DDL, only the columns of the next change. Columns are matched by the source's own number where both
versions have it, else by name. What cannot be told apart, or rewrites values without a change in the log, stops the
table with a sentence: guessing would split a column silently or leave old values standing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.lake import Lake
from stripe_platform.cdc import columns as values
from stripe_platform.cdc import fold
from stripe_platform.cdc.catalogue import (
    CatalogueError,
    ColumnVersion,
    Lineage,
    TableVersion,
    declare_renames,
    versions,
)

_INTEGERS = {"smallint": 2, "integer": 4, "bigint": 8}
_TEXTS = ("text", "character varying")


@dataclass(frozen=True)
class Step:
    """What one version changed. `added`: value that older rows have (text, None = NULL) by column; `renamed`: old to
    new name; `retyped`: columns whose values stay and whose type does not; `rekeyed`: other columns name a row now.
    """

    added: dict[str, str | None] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    retyped: tuple[str, ...] = ()
    rekeyed: bool = False


def step(before: TableVersion, after: TableVersion, renames: Mapping[str, str] | None = None) -> Step:
    """What happened between two neighbouring versions. `renames`: old to new names as somebody declared them.

    `CatalogueError` where the log does not tell, with the remedy.
    """
    if before.oid != after.oid:
        raise CatalogueError(
            f"{after.qualified} is another table than the one of that name before, whose rows went without a change in"
            f" the log: take it anew with `stripe-platform cdc snapshot --table {after.table}`")
    same = _matched(before, after, renames)
    pairs = {new: old for old, new in same.items()}
    retyped = []
    for old, new in same.items():
        was, now = before.column(old), after.column(new)
        assert was is not None  # noqa: S101 - names come from the versions
        assert now is not None  # noqa: S101
        if was.type != now.type:
            if not keeps_values(was.type, now.type):
                raise CatalogueError(
                    f"{after.qualified}.{new} became {now.type} from {was.type}, which may have rewritten rows without"
                    f" a change in the log: take the table anew with `stripe-platform cdc snapshot --table"
                    f" {after.table}`")
            retyped.append(new)
    key = tuple(same.get(name, "") for name in before.key)
    return Step(
        added={c.name: c.missing for c in after.columns if c.name not in pairs},
        dropped=tuple(c.name for c in before.columns if c.name not in same),
        renamed={old: new for old, new in same.items() if old != new}, retyped=tuple(retyped),
        rekeyed=key != after.key)


def _matched(before: TableVersion, after: TableVersion, renames: Mapping[str, str] | None) -> dict[str, str]:
    """Old to new name of the columns that are in both versions."""
    if renames is not None:
        return {c.name: renames.get(c.name, c.name) for c in before.columns
                if after.column(renames.get(c.name, c.name)) is not None}
    by_number = {c.number: c.name for c in after.columns if c.number is not None}
    same = {c.name: by_number[c.number] for c in before.columns if c.number in by_number}
    for was in before.columns:
        now = after.column(was.name)
        if was.name not in same and now is not None and now.name not in same.values() and (
                was.number is None or now.number is None):
            same[was.name] = now.name
    for was in before.columns:
        for now in after.columns:
            unmatched = was.name not in same and now.name not in same.values()
            if unmatched and was.type == now.type and (was.number is None or now.number is None):
                raise CatalogueError(
                    f"{after.qualified}: column {was.name} went and {now.name} of the same type came in one step, and"
                    " nothing says whether it was renamed: declare it with `stripe-platform cdc rename --table"
                    f" {after.table} {was.name} {now.name}`, or as two columns with --not-renamed")
    return same


def keeps_values(before: str, after: str) -> bool:
    """Whether a change of type leaves every value that it accepts as it was, so that old rows need no rewriting."""
    was, now = before.partition("(")[0], after.partition("(")[0]
    if was in _INTEGERS:
        return now in _INTEGERS or now in _TEXTS or after == "numeric"
    if was in _TEXTS:
        return now == "text" or (now == "character varying" and _length(after) >= _length(before))
    if was == "numeric" and now == "numeric":
        return after == "numeric" or (before != "numeric" and _scale(after) == _scale(before)
                                      and _length(after) >= _length(before))
    if was == now and was in ("timestamp", "time"):  # a narrower one rounds
        return _length(after) >= _length(before)
    return now in _TEXTS and was in ("uuid", "json", "jsonb", "inet", "cidr")


def _length(kind: str) -> float:
    inside = kind.partition("(")[2].partition(")")[0].partition(",")[0]
    return int(inside) if inside else float("inf")


def _scale(kind: str) -> str:
    return kind.partition("(")[2].partition(")")[0].partition(",")[2]


def forward(rows: pa.Table, change: Step, after: TableVersion) -> pa.Table:
    """Rows (changes or states) of the version before, as they are in the version after."""
    gone = {name for dropped in change.dropped for name in (dropped, values.exact(dropped))}
    rows = rows.drop_columns([name for name in rows.column_names if name in gone])
    if change.renamed:
        names = change.renamed | {values.exact(old): values.exact(new) for old, new in change.renamed.items()}
        rows = rows.rename_columns([names.get(name, name) for name in rows.column_names])
    if "_unchanged" in rows.column_names and (change.renamed or change.dropped):
        rows = rows.set_column(rows.column_names.index("_unchanged"), "_unchanged", _lists(rows["_unchanged"], change))
    for name in change.retyped:
        column = after.column(name)
        if column is not None and name in rows.column_names and rows[name].type != column.arrow:
            rows = _retyped(rows, column)
    for name, missing in change.added.items():
        column = after.column(name)
        assert column is not None  # noqa: S101 - the step was made for this version
        array, exact = values.typed(pa.repeat(pa.scalar(missing, pa.string()), rows.num_rows), column.oid,
                                    in_key=column.in_key)
        rows = rows.append_column(name, array)
        if exact is not None:
            rows = rows.append_column(values.exact(name), exact)
    return rows


def _retyped(rows: pa.Table, to: ColumnVersion) -> pa.Table:
    """The column in another version's Arrow type, through its exact text."""
    name, beyond = to.name, values.exact(to.name)
    texts = values.text(rows[name].combine_chunks())
    if beyond in rows.column_names:
        texts, rows = pc.coalesce(rows[beyond].combine_chunks(), texts), rows.drop_columns([beyond])
    array, exact = values.typed(texts, to.oid, in_key=to.in_key)
    rows = rows.set_column(rows.column_names.index(name), name, array)
    return rows if exact is None else rows.append_column(beyond, exact)


def _lists(lists: pa.ChunkedArray, change: Step) -> pa.Array:
    if not pc.sum(pc.list_value_length(lists)).as_py():
        return lists
    return pa.array([[change.renamed.get(n, n) for n in names if n not in change.dropped] for names in
                     lists.to_pylist()], pa.list_(pa.string()))


def declare(lake: Lake, table: str, old: str, new: str, *, renamed: bool) -> None:
    """Answer what `step` could not tell: whether `old` became `new`, in the last step of the table that had both."""
    found = versions(lake, table)
    steps = [(was, now) for was, now in pairwise(found)
             if was.column(old) and not now.column(old) and now.column(new) and not was.column(new)]
    if not steps:
        raise CatalogueError(f"{table} has no step from column {old} to {new}: correct the names")
    declare_renames(lake, *steps[-1], {old: new} if renamed else {})


class Path:
    """The steps of one table, worked out once each. `renames`: declared ones by (ordinal of the later version)."""

    def __init__(self, lineage: Lineage) -> None:
        self.versions = lineage.versions
        self._renames = lineage.renames
        self._steps: dict[int, Step] = {}

    def version(self, ordinal: int) -> TableVersion:
        return self.versions[ordinal - 1]

    def step_to(self, ordinal: int) -> Step:
        """The step that leads to a version (from 2)."""
        if ordinal not in self._steps:
            made = step(self.version(ordinal - 1), self.version(ordinal), self._renames.get(ordinal))
            for name in made.added:
                self._refuse_unknown_default(name, ordinal)
            self._steps[ordinal] = made
        return self._steps[ordinal]

    def _refuse_unknown_default(self, name: str, ordinal: int) -> None:
        """A column that was another one again before it could be looked up, unless it went as it came."""
        column = self.version(ordinal).column(name)
        if column is None or column.number is not None or column.told:
            return
        if not any(name in self.step_to(n).dropped for n in range(ordinal + 1, len(self.versions) + 1)):
            raise CatalogueError(
                f"{self.version(ordinal).qualified}.{name} came and was changed again before it could be looked up, so"
                " what older rows have in it is not known: take the table anew with `stripe-platform cdc snapshot"
                f" --table {self.version(ordinal).table}`, or, where a stream feeds the log, set the source's dsn and"
                " read it into a lake of its own")

    def carry(self, rows: pa.Table, start: int, end: int) -> pa.Table:
        """Rows of version `start` as they are in version `end`."""
        for ordinal in range(start + 1, end + 1):
            rows = forward(rows, self.step_to(ordinal), self.version(ordinal))
        return rows

    def rekeyed(self, start: int, end: int) -> bool:
        return any(self.step_to(ordinal).rekeyed for ordinal in range(start + 1, end + 1))

    def passable(self, start: int, end: int) -> bool:
        """Whether rows of one version can be brought into another."""
        try:
            self.rekeyed(start, end)
        except CatalogueError:
            return False
        return True

    def stretches(self, changes: pa.Table) -> list[tuple[int, pa.Table]]:
        """Changes by runs of versions under which the same columns name a row: (last version of the run, its rows in
        that version's columns), in log order; rows of one key keep their order.

        Where the way through the versions is blocked, what a later truncation takes away need not go it.
        """
        try:
            return list(self._runs(changes))
        except CatalogueError:
            cut = fold.last_cut(changes)
            if cut is None:
                raise
            return list(self._runs(changes.filter(pc.invert(fold.before(changes, cut)))))

    def _runs(self, changes: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        numbers = changes["_version"].to_numpy()
        run: list[tuple[int, pa.Table]] = []
        for ordinal in sorted(set(numbers.tolist())):
            if run and self.rekeyed(run[-1][0], ordinal):
                yield self._joined(run)
                run = []
            own = changes.filter(pa.array(numbers == ordinal)) if (numbers != ordinal).any() else changes
            names = [n for n in own.column_names if not self._foreign(n, ordinal)]
            run.append((ordinal, self._typed(own.select(names), ordinal)))
        if run:
            yield self._joined(run)

    def _foreign(self, name: str, ordinal: int) -> bool:
        """Whether a column of the file is not one of this version's: other versions' rows are in the same file."""
        return values.is_own(name) and self.version(ordinal).column(name.removesuffix(values.EXACT)) is None

    def _typed(self, rows: pa.Table, ordinal: int) -> pa.Table:
        """Columns that the file holds as text because its versions disagree, in this version's type."""
        for column in self.version(ordinal).columns:
            if column.name in rows.column_names and rows[column.name].type != column.arrow:
                rows = _retyped(rows, column)
        return rows

    def _joined(self, run: list[tuple[int, pa.Table]]) -> tuple[int, pa.Table]:
        last = run[-1][0]
        parts = [self.carry(rows, ordinal, last) for ordinal, rows in run]
        return last, parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="default")


def multiset(state: pa.Table, changes: pa.Table) -> pa.Table:
    """A keyless table's rows after changes: each whole row comes and goes by itself, doubles count.

    `changes` hold the whole row on every operation; both tables' own columns decide, the envelope does not.
    """
    names = [n for n in changes.column_names if values.is_own(n)]
    names += [n for n in state.column_names if n not in names]
    sign = np.where(pc.equal(changes["_op"], "d").to_numpy(zero_copy_only=False), -1, 1)
    both = pa.concat_tables([
        state.append_column("_sign", pa.array(np.ones(state.num_rows, np.int64))),
        changes.select([n for n in changes.column_names if n in names]).append_column("_sign", pa.array(sign)),
    ], promote_options="default")
    counted = both.group_by(names, use_threads=False).aggregate([("_sign", "sum")])
    times = counted["_sign_sum"].to_numpy()
    if (times < 0).any():
        raise CatalogueError("a row without a key is deleted that no earlier change made: take the table anew from"
                             " the source, its beginning is not in the log")
    return counted.take(pa.array(np.repeat(np.arange(len(times)), times))).select(names)
