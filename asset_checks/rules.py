"""Rules over a profile, named in plain words; Great Expectations judges them.

A profile has one row per partition and holds only counts, so a rule never sees a value of the business.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rule:
    """One expectation: `column` lies in [low, high] (None is open), or equals column `same_as`."""

    name: str
    column: str
    low: float | None = None
    high: float | None = None
    same_as: str | None = None

    def __post_init__(self) -> None:
        if self.same_as is None and self.low is None and self.high is None:
            raise ValueError(f"rule {self.name!r} can never fail: give low, high or same_as")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the profile this rule needs."""
        return (self.column,) if self.same_as is None else (self.column, self.same_as)

    def expectation(self, *, critical: bool) -> Any:
        """The Great Expectations object; severity is set each time, because its default is critical."""
        from great_expectations import expectations as gxe

        common: dict[str, Any] = {"severity": "critical" if critical else "warning", "meta": {"rule": self.name}}
        if self.same_as is not None:
            return gxe.ExpectColumnPairValuesToBeEqual(column_A=self.column, column_B=self.same_as, **common)
        return gxe.ExpectColumnValuesToBeBetween(
            column=self.column, min_value=self.low, max_value=self.high, **common)


def none_of(*columns: str) -> tuple[Rule, ...]:
    """Counts of violations that must be zero."""
    return tuple(Rule(f"no_{column}", column, high=0) for column in columns)


def at_least(column: str, low: float) -> Rule:
    return Rule(f"{column}_at_least_{low:g}", column, low=low)


def within(column: str, low: float, high: float) -> Rule:
    return Rule(f"{column}_within", column, low=low, high=high)


def equal(column: str, same_as: str) -> Rule:
    return Rule(f"{column}_equals_{same_as}", column, same_as=same_as)


def all_hold(frame: pd.DataFrame, rules: Sequence[Rule], *, critical: bool) -> bool:
    """Whether every rule holds in every row, asked with as few expectations as there are bounds.

    Columns of one bound are judged as one long column: an expectation costs far more than a row.
    """
    import numpy as np
    import pandas as pd

    singles: dict[tuple[Any, ...], list[Any]] = {}
    pairs: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}
    for rule in rules:  # kinds of numbers stay apart: as floats, two sums of cents could become equal
        left = frame[rule.column]
        if rule.same_as is None:
            singles.setdefault((rule.low, rule.high, left.dtype), []).append(left)
        else:
            right = frame[rule.same_as]
            pairs.setdefault((left.dtype, right.dtype), []).append((left, right))
    columns: dict[str, Any] = {}
    merged: list[Rule] = []
    for number, ((low, high, _), parts) in enumerate(singles.items()):
        columns[f"c{number}"] = np.concatenate(parts)
        merged.append(Rule(f"c{number}", f"c{number}", low, high))
    for number, both in enumerate(pairs.values()):
        columns[f"a{number}"], columns[f"b{number}"] = (np.concatenate(side) for side in zip(*both, strict=True))
        merged.append(Rule(f"p{number}", f"a{number}", same_as=f"b{number}"))
    longest = max(len(values) for values in columns.values())
    long = pd.DataFrame({name: np.resize(values, longest) for name, values in columns.items()})  # repeats to fill
    return all(verdicts(long, merged, critical=critical).values())


def verdicts(frame: pd.DataFrame, rules: Sequence[Rule], *, critical: bool) -> Mapping[str, bool | None]:
    """Judge all rows of a profile together: rule name -> True held, False broken, None could not be evaluated."""
    batch = _batch_definition().get_batch({"dataframe": frame})
    from great_expectations import ExpectationSuite

    suite = ExpectationSuite(name="suite", expectations=[rule.expectation(critical=critical) for rule in rules])
    results = batch.validate(suite, result_format="BOOLEAN_ONLY").results
    found: dict[str, bool | None] = dict.fromkeys(rule.name for rule in rules)  # absent from the answer: None
    for result in results:
        found[result.expectation_config.meta["rule"]] = None if _errored(result.exception_info) else result.success
    return found


def _errored(info: Mapping[str, Any]) -> bool:
    """An expectation that raised says so at the top, or nested under the metric that raised."""
    if "raised_exception" in info:
        return bool(info["raised_exception"])
    return any(isinstance(nested, Mapping) and nested.get("raised_exception") for nested in info.values())


@cache
def _batch_definition() -> Any:
    """An in-memory context: nothing written to disk, nothing sent out, no bars drawn."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    bars: Any = {"globally": False, "metric_calculations": False}
    context.variables.progress_bars = bars
    source = context.data_sources.add_pandas("profiles")
    return source.add_dataframe_asset("profile").add_batch_definition_whole_dataframe("whole")
