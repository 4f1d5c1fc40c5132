"""Certified input: what the blocking checks said of each partition, kept across runs, asked before every mart.

Dagster blocks only within one run; a later run of a mart alone would read what an earlier check refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Literal

import dagster as dg
import psycopg

Outcome = Literal["passed", "failed", "not_evaluated"]
WHOLE = "all"  # partition of a verdict over an asset that has no partitions
PROVEN = "equals_the_source"  # name of the check on a change log that its table equals the source's


class UncertifiedInputError(RuntimeError):
    """An input partition without a passed verdict of every blocking check; the message names the remedy."""


def record_verdicts(
    conn: psycopg.Connection,
    *,
    asset_key: dg.AssetKey | str,
    check_name: str,
    blocking: bool,
    run_id: str,
    outcomes: Iterable[tuple[str, Outcome, int]],
) -> int:
    """Store what one check said: (partition, outcome, rows scanned) each; the newest wins. The caller commits.

    Partition is an ISO day, or `WHOLE` for an asset without partitions. Only counts are kept, no value of the data.
    Returns how many verdicts were given.
    """
    rows = [
        (_name(asset_key), check_name, partition, outcome, blocking, rows_scanned, run_id)
        for partition, outcome, rows_scanned in outcomes
    ]
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.check_verdicts
                (asset_key, check_name, partition, outcome, blocking, rows_scanned, run_id, evaluated_at)
            values (%s, %s, %s, %s, %s, %s, %s, clock_timestamp())
            on conflict (asset_key, check_name, partition) do update set
                outcome = excluded.outcome, blocking = excluded.blocking, rows_scanned = excluded.rows_scanned,
                run_id = excluded.run_id, evaluated_at = excluded.evaluated_at
            """,
            rows,
        )
    return len(rows)


def _name(asset_key: dg.AssetKey | str) -> str:
    return asset_key if isinstance(asset_key, str) else asset_key.to_user_string()


_REFUSED = """
with wanted as (
    select k.asset_key, p.partition
    from unnest(%(keys)s::text[]) as k (asset_key)
    cross join unnest(%(partitions)s::text[]) as p (partition)
),
judged as (
    select w.asset_key, w.partition, v.check_name, v.outcome
    from wanted as w
    left join ops.check_verdicts as v
        on w.asset_key = v.asset_key and w.partition = v.partition and v.blocking
)
select asset_key, partition, check_name, outcome, count(*) over ()
from judged
where outcome is distinct from 'passed'
order by partition, asset_key, check_name
limit 1
"""

_REFUSED_ANY_DAY = """
with judged as (
    select k.asset_key, v.partition, v.check_name, v.outcome
    from unnest(%(keys)s::text[]) as k (asset_key)
    left join ops.check_verdicts as v on k.asset_key = v.asset_key and v.blocking
)
select asset_key, partition, check_name, outcome, count(*) over ()
from judged
where outcome is distinct from 'passed'
order by partition nulls first, asset_key, check_name
limit 1
"""


# A change log that was never compared with its source is certified by its own records; one that differs is not.
_DIFFERING = """
select asset_key, null, check_name, outcome, count(*) over ()
from ops.check_verdicts
where asset_key = any(%s) and check_name = %s and blocking and outcome <> 'passed'
order by asset_key
limit 1
"""


def certified(
    conn: psycopg.Connection, asset_keys: Sequence[dg.AssetKey | str], days: Sequence[dt.date] | None
) -> None:
    """Raise `UncertifiedInputError` unless every blocking check passed every one of these partitions.

    No verdict counts as refused, and so does a raw table whose change log differs from its source. `days=None` is for
    unpartitioned readers of partitioned inputs: whatever days have been judged must all have passed, and at least one
    must have been.
    """
    keys = [_name(key) for key in asset_keys]
    if not keys or (days is not None and not days):
        raise ValueError("certified() was asked about nothing: name at least one asset and one day")
    query = _REFUSED if days is not None else _REFUSED_ANY_DAY
    partitions = [day.isoformat() for day in days or ()]
    logs = ["cdc/" + name.removeprefix("raw/") for name in keys if name.startswith("raw/")]
    row = (conn.execute(query, {"keys": keys, "partitions": partitions}).fetchone()
           or conn.execute(_DIFFERING, [logs, PROVEN]).fetchone())
    if row is None:
        return
    asset, partition, check, outcome, refused = row
    what = f"{asset} of {partition}" if partition else asset
    if outcome is None:
        reason = "no blocking check has judged it"
        remedy = f"materialize {asset} with its checks for that day first"
    else:
        reason = f"blocking check {check} {'failed' if outcome == 'failed' else 'could not be evaluated'}"
        again = " with config reapply: true" if asset.startswith("raw/") else ""
        remedy = f"mend the data or the check, materialize {asset} and its checks for that day{again}, then repeat"
        if check == PROVEN:
            remedy = "`stripe-platform cdc verify` names the rows and the remedy; judge again after it"
    more = f" ({refused - 1} more refused)" if refused > 1 else ""
    raise UncertifiedInputError(f"{what} is not certified: {reason}{more}; {remedy}")
