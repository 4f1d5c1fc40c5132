"""The change log of a ledger range as rows of documents: DuckDB over the lake's daily files, streamed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bson import Int64

from stripe_platform.cdc.daily import FOLDER as DAILY_FILES
from stripe_platform.cdc.daily import change_files
from stripe_platform.cdc.snapshots import FOLDER as STATES
from stripe_platform.documents.writing import Document

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from resources.lake import Lake

ROWS_PER_FETCH = 5_000
FRESH = dt.date.max
LOOKED_UP = {"customers": "id, token", "accounts": "id, token", "terminals": "id, country, latitude, longitude"}
LatePart = tuple[str, str, Document, str, str | None]  # part, charge, sub-document, fence, status or None


class ChangeLogError(RuntimeError):
    """The lake's files of a range cannot become documents; the message names table, rule and remedy."""


# The newest row of each key; text compares as the epochs do, then position in the log.
_VERSION = "format('{}:{:016x}:{:08x}', _epoch, _commit_lsn, _ord)"

_CHARGES = f"""
create or replace temp table charge_now as
select * exclude (_rank) from (
    select *, {_VERSION} as version,
        bool_or(_op = 'c') over (partition by id) as created_here,
        row_number() over (partition by id order by _epoch desc, _commit_lsn desc, _ord desc) as _rank
    from charges
) where _rank = 1;

create or replace temp table outcome_now as
select * from (
    select charge_id, type, network_status, reason, risk_level, risk_score, {_VERSION} as version
    from charge_outcomes
    qualify row_number() over (partition by charge_id order by _epoch desc, _commit_lsn desc, _ord desc) = 1
);

-- Of several disputes the fraudulent one says most; the fence is the newest change of any of them.
create or replace temp table dispute_now as
select charge_id, id, reason, status, amount, created, max(version) over (partition by charge_id) as version
from (
    select *, {_VERSION} as version from disputes
    qualify row_number() over (partition by id order by _epoch desc, _commit_lsn desc, _ord desc) = 1
)
where _op <> 'd'
qualify row_number() over (partition by charge_id order by (reason = 'fraudulent') desc, created desc, id) = 1;
"""  # noqa: S608 (a constant is pasted, no value)

_DOCUMENTS = """
select c.created_here, c.id, strftime(c.created, '%Y-%m-%d') as day, c.created::timestamp as created,
    case when c.status <> 'succeeded' then c.status
        when d.reason = 'fraudulent' then 'fraudulent'
        when d.id is not null or c.disputed then 'disputed'
        when c.amount_refunded > 0 and c.amount_refunded = c.amount_captured then 'refunded'
        else 'succeeded' end as status,
    c.amount, c.amount_captured, c.amount_refunded, c.currency, u.token as customer, a.token as merchant,
    c.payment_intent_id, c.failure_code, c.device_type, c.ip_country, c.terminal_id, t.country,
    t.longitude::double as longitude, t.latitude::double as latitude,
    o.charge_id is not null as has_outcome, o.type, o.network_status, o.reason as outcome_reason, o.risk_level,
    o.risk_score, coalesce(o.version, '') as outcome_version,
    d.id as dispute_id, d.reason, d.status as dispute_status, d.amount as dispute_amount,
    d.created::timestamp as dispute_created, coalesce(d.version, '') as dispute_version, c.version
from charge_now c
left join outcome_now o on o.charge_id = c.id
left join dispute_now d on d.charge_id = c.id
left join customers u on u.id = c.customer_id
left join accounts a on a.id = c.account_id
left join terminals t on t.id = c.terminal_id
order by c.id
"""

_LATE_OUTCOMES = """
select o.charge_id, o.type, o.network_status, o.reason, o.risk_level, o.risk_score, o.version
from outcome_now o anti join charge_now c on c.id = o.charge_id order by 1
"""

_LATE_DISPUTES = """
select d.charge_id, d.id, d.reason, d.status, d.amount, d.created::timestamp, d.version
from dispute_now d anti join charge_now c on c.id = d.charge_id
where d.charge_id in (select charge_id from disputes where _ledger_day >= $first) order by 1
"""

_REFUSALS = {
    "charges: a row was deleted or truncated; a ledger keeps its rows: restore it in the OLTP":
        "select count(*) from charges where _op in ('d', 't')",
    "charges: a change carries no value for an unchanged column: set replica identity full and capture again":
        "select count(*) from charges where len(_unchanged) > 0",
    "snapshots/customers lacks payers of this range: materialize snapshots/customers for its last day":
        "select count(*) from charge_now c anti join customers u on u.id = c.customer_id",
    "snapshots/accounts lacks merchants of this range: materialize snapshots/accounts for its last day":
        "select count(*) from charge_now c anti join accounts a on a.id = c.account_id",
    "snapshots/terminals lacks terminals of this range: materialize snapshots/terminals for its last day":
        "select count(*) from charge_now c anti join terminals t on t.id = c.terminal_id "
        "where c.terminal_id is not null",
}


class ChangeLog:
    """The range's newest states, in DuckDB's memory."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, first: dt.date) -> None:
        self._connection, self._first = connection, first

    def charges(self) -> Iterator[tuple[bool, Document]]:
        """(created in this range, document) of every charge the range touched, ordered by id."""
        for row in self._rows(_DOCUMENTS):
            yield row[0], _document(*row[1:])

    def late_parts(self) -> Iterator[LatePart]:
        """Outcomes and disputes of the range whose charge did not change in it."""
        for key, *outcome, version in self._rows(_LATE_OUTCOMES):
            yield "outcome", key, _outcome(*outcome), version, None
        for key, *dispute, version in self._rows(_LATE_DISPUTES, first=self._first):
            status = "fraudulent" if dispute[1] == "fraudulent" else "disputed"
            yield "dispute", key, _dispute(*dispute), version, status

    def _rows(self, query: str, **parameters: Any) -> Iterator[tuple[Any, ...]]:
        reader = self._connection.sql(query, params=parameters or None).to_arrow_reader(ROWS_PER_FETCH)
        for batch in reader:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


@contextmanager
def opened(lake: Lake, days: Sequence[dt.date], again: Sequence[str] = ()) -> Iterator[ChangeLog]:
    """The log of these ledger days; disputes of all earlier days are read too, because they decide the status.

    `again`: charges whose earlier days are read too, because their documents do not stand as those days made them.
    """
    import duckdb

    first, last = days[0], days[-1]
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for table in ("charges", "charge_outcomes"):
            _view(connection, table, change_files(lake, table, days))
            if again and (before := _earlier(lake, table, first)):
                column = "id" if table == "charges" else "charge_id"
                connection.execute(
                    f"insert into {table} by name select * from read_parquet($files, union_by_name = true)"  # noqa: S608
                    f" where {column} in (select unnest($again))", {"files": before, "again": list(again)})
        _view(connection, "disputes", [*_earlier(lake, "disputes", first), *change_files(lake, "disputes", days)],
              filename=True)
        for table, columns in LOOKED_UP.items():
            file = _newest_state(lake, table, last)
            connection.execute(f"create temp table {table} as select {columns} from read_parquet($file)",  # noqa: S608
                               {"file": file})
        yield _prepared(connection, first, f"ledger days {first}..{last}")


def in_memory() -> duckdb.DuckDBPyConnection:
    """A database for the logs of few batches, one after the other; opening it costs more than a batch."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'; set threads = 1")
    return connection


def of_rows(connection: duckdb.DuckDBPyConnection, changes: Mapping[str, pa.Table],
            looked_up: Mapping[str, pa.Table]) -> ChangeLog:
    """The log of a few batches, until the connection is given the next. `changes`: of charges and charge_outcomes, and
    all disputes of their charges, with `_ledger_day` = `FRESH` where they changed now. `looked_up`: rows of
    `LOOKED_UP` that the charges name.
    """
    for table, rows in {**changes, **looked_up}.items():
        connection.register(f"given_{table}", rows)
        connection.execute(f"create or replace temp table {table} as select * from given_{table}")  # noqa: S608
    return _prepared(connection, FRESH, "the newest batches")


def _prepared(connection: duckdb.DuckDBPyConnection, first: dt.date, what: str) -> ChangeLog:
    connection.execute(_CHARGES)
    for reason, query in _REFUSALS.items():
        ((count,),) = connection.execute(query).fetchall()
        if count:
            raise ChangeLogError(f"{count} rows of {what}: {reason}")
    return ChangeLog(connection, first)


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: list[str], *, filename: bool = False) -> None:
    day = ", regexp_extract(filename, '([0-9-]{10})[.]parquet$', 1)::date as _ledger_day" if filename else ""
    connection.execute(
        f"create temp table {name} as select *{day} from read_parquet($files, filename = {filename})",  # noqa: S608
        {"files": files})


def _earlier(lake: Lake, table: str, first: dt.date) -> list[str]:
    return [
        str(lake.local_path(path)) for path in lake.list(f"{DAILY_FILES}/{table}")
        if path.endswith(".parquet") and path.rsplit("/", 1)[1] < f"{first.isoformat()}.parquet"
    ]


def _newest_state(lake: Lake, table: str, day: dt.date) -> str:
    """The snapshot of the day, or the newest before it: an open day has none yet."""
    states = [
        path for path in lake.list(f"{STATES}/{table}")
        if path.endswith(".parquet") and path.rsplit("/", 1)[1] <= f"{day.isoformat()}.parquet"
    ]
    if not states:
        raise ChangeLogError(f"snapshots/{table} has no state up to {day}: materialize snapshots/{table} first")
    return str(lake.local_path(states[-1]))


def _document(
    key: str, day: str, created: dt.datetime, status: str, amount: int, captured: int, refunded: int, currency: str,
    customer: str, merchant: str, intent: str, failure_code: str | None, device: str, ip_country: str | None,
    terminal: str | None, country: str | None, longitude: float | None, latitude: float | None,
    has_outcome: bool, kind: str, network_status: str, outcome_reason: str | None, risk_level: str,
    risk_score: int | None, outcome_version: str, dispute_id: str | None, reason: str, dispute_status: str,
    dispute_amount: int, dispute_created: dt.datetime, dispute_version: str, version: str,
) -> Document:
    return {
        "_id": key, "day": day, "created": created, "status": status, "amount": Int64(amount),
        "amount_captured": Int64(captured), "amount_refunded": Int64(refunded), "currency": currency,
        "customer": customer, "merchant": merchant, "payment_intent": intent, "failure_code": failure_code,
        "device": {"type": device},
        "location": {
            "ip_country": ip_country, "terminal": terminal, "country": country,
            "point": None if longitude is None else {"type": "Point", "coordinates": [longitude, latitude]},
        },
        "outcome": _outcome(kind, network_status, outcome_reason, risk_level, risk_score) if has_outcome else None,
        "dispute": None if dispute_id is None
        else _dispute(dispute_id, reason, dispute_status, dispute_amount, dispute_created),
        "fence": {"charge": version, "outcome": outcome_version, "dispute": dispute_version},
    }


def _outcome(
    kind: str, network_status: str, reason: str | None, risk_level: str, risk_score: int | None
) -> Document:
    return {"type": kind, "network_status": network_status, "reason": reason, "risk_level": risk_level,
            "risk_score": risk_score}


def _dispute(key: str, reason: str, status: str, amount: int, created: dt.datetime) -> Document:
    return {"id": key, "reason": reason, "status": status, "amount": Int64(amount), "created": created}
