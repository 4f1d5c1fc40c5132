"""The offline SQL of the declared features, for PostgreSQL: plain window functions, one sort per entity.

Counts are range frames over time, exact to the microsecond. A share of frauds cannot be one frame, because a label
has two times (when it happened, when it was known); each fraud enters a running sum at
max(happened + delay, known) and leaves it at happened + delay + window.
"""

from __future__ import annotations

from psycopg import sql

from stripe_platform.features.declarations import ENTITY_COLUMNS, FEATURES, Current, Entity, Feature, Rolling

CURRENT_SQL = {
    "amount": "cast(amount_eur as double precision) / 100",
    "weekend": "case when extract(isodow from event_ts at time zone 'UTC') >= 6 then 1 else 0 end",
    "night": "case when extract(hour from event_ts at time zone 'UTC') <= 6 then 1 else 0 end",
}
COLUMN_TYPES = {"amount": "double precision", "weekend": "integer", "night": "integer",
                "count": "integer", "mean_amount": "double precision", "fraud_share": "double precision"}
KEY_COLUMNS = {"charge_id": "text", "event_day": "date", "event_ts": "timestamptz",
               "customer_token": "text", "terminal_id": "text"}


def column_types(features: tuple[Feature, ...] = FEATURES) -> dict[str, str]:
    """Column name -> PostgreSQL type of the feature table, keys first."""
    return KEY_COLUMNS | {
        f.name: COLUMN_TYPES[f.value if isinstance(f, Current) else f.aggregate] for f in features
    }


def select_features(
    charges: sql.Composable, disputes: sql.Composable, features: tuple[Feature, ...] = FEATURES
) -> sql.Composed:
    """One statement that yields `column_types` rows for event days %(first)s..%(last)s, both included.

    `charges` and `disputes` are tables shaped like marts.fct_charges and marts.fct_disputes; %(history)s is the first
    event day read. Columns beyond the needed ones are ignored.
    """
    stages: list[sql.Composable] = [_charges(charges), _frauds(disputes)]
    source, carried = "charge", ["amount_eur", *KEY_COLUMNS]
    for entity in ENTITY_COLUMNS:
        rolling = [f for f in features if isinstance(f, Rolling) and f.entity == entity]
        if not rolling:
            continue
        stages += _entity_stages(entity, rolling, source, carried)
        source, carried = f"{entity}_done", [*carried, *(f.name for f in rolling)]
    columns = [sql.Identifier(c) for c in KEY_COLUMNS]
    for f in features:
        value = sql.SQL(CURRENT_SQL[f.value]) if isinstance(f, Current) else sql.Identifier(f.name)
        columns.append(sql.SQL("{} as {}").format(value, sql.Identifier(f.name)))  # type: ignore[arg-type]
    return sql.SQL("with {}\nselect {}\nfrom {}\nwhere event_day >= %(first)s").format(
        sql.SQL(",\n").join(stages), _listed(columns), sql.Identifier(source))


def _charges(charges: sql.Composable) -> sql.Composed:
    return sql.SQL("""charge as (
    select charge_id collate "C" as charge_id, event_day, created as event_ts,
        customer_token collate "C" as customer_token, terminal_id collate "C" as terminal_id, amount_eur
    from {}
    where event_day between %(history)s and %(last)s and status <> 'failed'
)""").format(charges)


def _frauds(disputes: sql.Composable) -> sql.Composed:
    return sql.SQL("""fraud as (
    select charge_id, min(created) as known_at
    from {}
    where reason = 'fraudulent' and created >= %(history)s and created < %(last)s + 1
    group by charge_id
)""").format(disputes)


def _entity_stages(entity: Entity, rolling: list[Rolling], source: str, carried: list[str]) -> list[sql.Composable]:
    """CTEs `<entity>_rows` (charges and label events), `<entity>_sums`, `<entity>_done` (the finished features)."""
    column = sql.Identifier(ENTITY_COLUMNS[entity])
    shares = [f for f in rolling if f.aggregate == "fraud_share"]
    rows, sums, done = (sql.Identifier(f"{entity}_{part}") for part in ("rows", "sums", "done"))
    plain = [sql.Identifier(c) for c in carried]
    events = _label_events(entity, shares, carried) if shares else sql.SQL("")
    zeros = [sql.SQL("0 as {}").format(sql.Identifier(f"{f.name}_step")) for f in shares]
    frames = sorted({(f.window_days, f.delay_days) for f in rolling})
    made: list[sql.Composable] = []
    for window, delay in frames:
        made += _frame_sums(window, delay, any(
            f.aggregate == "mean_amount" for f in rolling if (f.window_days, f.delay_days) == (window, delay)))
    made += [sql.SQL("sum({}) over (by_time) as {}").format(
        sql.Identifier(f"{f.name}_step"), sql.Identifier(f"{f.name}_frauds")) for f in shares]
    windows: list[sql.Composable] = [sql.SQL("by_time as (partition by {} order by event_ts)").format(column)]
    windows += [sql.SQL("{} as (by_time range between {} and {})").format(
        sql.Identifier(f"w{w}_{d}"), _back(w + d, microseconds=1), _back(d)) for w, d in frames]
    if any(delay == 0 for _, delay in frames):
        windows.append(sql.SQL(
            "later_twins as (partition by {}, event_ts order by charge_id"
            " rows between 1 following and unbounded following)").format(column))
        made += [sql.SQL("count(charge_id) over later_twins as later_n"),
                 sql.SQL("count(amount_eur) over later_twins as later_priced"),
                 sql.SQL("coalesce(sum(amount_eur) over later_twins, 0) as later_sum")]
    finished = [sql.SQL("case when {} is not null then {} end as {}").format(
        column, _finish(f), sql.Identifier(f.name)) for f in rolling]
    return [
        sql.SQL("{} as (\n    select {}\n    from {}{}\n)").format(
            rows, _listed([*plain, *zeros]), sql.Identifier(source), events),
        sql.SQL("{} as (\n    select {}\n    from {}\n    window {}\n)").format(
            sums, _listed([*plain, *made]), rows, _listed(windows)),
        sql.SQL("{} as (\n    select {}\n    from {}\n    where charge_id is not null\n)").format(
            done, _listed([*plain, *finished]), sums),
    ]


def _label_events(entity: Entity, shares: list[Rolling], carried: list[str]) -> sql.Composed:
    """Rows without a charge: each fraud's entry (+1) into every window and its exit (-1)."""
    at = {"event_ts": sql.SQL("e.at"), ENTITY_COLUMNS[entity]: sql.SQL("c.{}").format(
        sql.Identifier(ENTITY_COLUMNS[entity]))}
    plain = [at.get(c, sql.SQL("null")) for c in carried]
    steps = [sql.SQL("case e.feature when {} then e.step else 0 end").format(f.name) for f in shares]
    values = []
    for f in shares:
        entry = sql.SQL("greatest(c.event_ts + {}, f.known_at)").format(_days(f.delay_days))
        leave = sql.SQL("c.event_ts + {}").format(_days(f.reach_days))
        values += [sql.SQL("({}, {}, {}, 1)").format(f.name, entry, leave),
                   sql.SQL("({}, {}, {}, -1)").format(f.name, leave, entry)]
    return sql.SQL("""
    union all
    select {}
    from charge as c
    join fraud as f on f.charge_id = c.charge_id
    cross join lateral (values
        {}
    ) as e (feature, at, other, step)
    where (e.at < e.other) = (e.step = 1) and e.at <> e.other""").format(
        _listed([*plain, *steps]), sql.SQL(",\n        ").join(values))


def _frame_sums(window: int, delay: int, amounts: bool) -> list[sql.Composable]:
    name = sql.Identifier(f"w{window}_{delay}")
    made: list[sql.Composable] = [
        sql.SQL("count(charge_id) over {} as {}").format(name, sql.Identifier(f"n{window}_{delay}"))]
    if amounts:
        made += [sql.SQL("sum(amount_eur) over {} as {}").format(name, sql.Identifier(f"sum{window}_{delay}")),
                 sql.SQL("count(amount_eur) over {} as {}").format(name, sql.Identifier(f"priced{window}_{delay}"))]
    return made


def _finish(f: Rolling) -> sql.Composed:
    """The feature from its sums. A frame without delay also holds later twins (same timestamp): taken out here."""
    count = sql.Identifier(f"n{f.window_days}_{f.delay_days}")
    number = count if f.delay_days else sql.SQL("({} - later_n)").format(count)
    if f.aggregate == "count":
        return sql.SQL("cast({} as integer)").format(number)
    if f.aggregate == "fraud_share":
        return sql.SQL("case when {} = 0 then 0 else cast({} as double precision) / {} end").format(
            number, sql.Identifier(f"{f.name}_frauds"), number)
    total, priced = (sql.Identifier(f"{what}{f.window_days}_{f.delay_days}") for what in ("sum", "priced"))
    if f.delay_days:
        return sql.SQL("cast({} as double precision) / 100 / nullif({}, 0)").format(total, priced)
    return sql.SQL("cast({} - later_sum as double precision) / 100 / nullif({} - later_priced, 0)").format(
        total, priced)


def _days(days: int) -> sql.SQL:
    # Hours, not days: a day's length must not hang on the session's time zone.
    return sql.SQL(f"interval '{days * 24:d} hours'")


def _back(days: int, microseconds: int = 0) -> sql.Composable:
    if not days:
        return sql.SQL("current row")
    if microseconds:
        return sql.SQL("{} - interval '1 microsecond' preceding").format(_days(days))
    return sql.SQL("{} preceding").format(_days(days))


def _listed(parts: list) -> sql.Composed:
    return sql.SQL(",\n        ").join(parts)
