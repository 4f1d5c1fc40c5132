"""Batches into `transactions` as they land: the same documents behind the same fences as the load by days.

Tokens, places and a charge's other disputes are looked up in raw, which the same batches reached before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from stripe_platform.cdc import catalogue
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.columns import FENCE
from stripe_platform.cdc.compact import gather
from stripe_platform.documents import change_log, quarantine, transactions
from stripe_platform.documents.control import streamed, streaming
from stripe_platform.documents.quarantine import Refused

if TYPE_CHECKING:
    import duckdb
    from pymongo.database import Database

    from resources.lake import Lake
    from stripe_platform.cdc.manifest import Chain, Manifest
    from stripe_platform.documents.writing import Document

_NAMED_BY = {"customers": "customer_id", "accounts": "account_id", "terminals": "terminal_id"}
_DISPUTE = ("id", "charge_id", "reason", "status", "amount", "created", *FENCE, "_deleted")
_DISPUTE_TYPES = pa.schema([
    ("id", pa.string()), ("charge_id", pa.string()), ("reason", pa.string()), ("status", pa.string()),
    ("amount", pa.int64()), ("created", pa.timestamp("us", tz="UTC")), ("_epoch", pa.string()),
    ("_commit_lsn", pa.int64()), ("_ord", pa.int64()), ("_op", pa.string()), ("_ledger_day", pa.date32()),
])  # fmt: skip
_LOOKED_UP_TYPES = {"id": pa.string(), "token": pa.string(), "country": pa.string(), "latitude": pa.float64(),
                    "longitude": pa.float64()}  # fmt: skip


class RawRows(Protocol):
    """What another store looks up in raw."""

    def of(self, table: str, columns: Sequence[str], by: str, values: Collection[str],
           texts: Collection[str] = ()) -> list[tuple[Any, ...]]:
        """`columns` of rows whose column `by` has one of the values; none while the table does not stand.

        `texts`: columns given as texts, whatever their type.
        """


def take(db: Database[Document], held: RawRows, duck: duckdb.DuckDBPyConnection, lake: Lake, chain: Chain,
         batches: Sequence[Manifest]) -> int:
    """Bring batches that raw holds already into `transactions`; documents written. `duck`: of `change_log.in_memory`.

    Repeated, killed or overtaken by a load of their day, they change nothing that is newer.
    """
    batches = [m for m in batches if m.seq > streamed(db, transactions.NAME)[0]]
    if not batches:
        return 0
    through = batches[-1].seq
    changes = {table: _changes(lake, chain, table, batches) for table in transactions.SOURCES}
    if not any(rows.num_rows for rows in changes.values()):
        streaming(db, transactions.NAME, through, through)
        return 0
    streaming(db, transactions.NAME, batches[0].seq - 1, through)
    written = _write(db, held, duck, changes, quarantine.entries(db, transactions.NAME))
    streaming(db, transactions.NAME, through, through)
    return written


def retry(db: Database[Document], held: RawRows, duck: duckdb.DuckDBPyConnection) -> int:
    """Build the documents that were put aside anew from what raw holds; entries closed."""
    known = quarantine.entries(db, transactions.NAME)
    if known:
        changes = {table: _in_raw(held, table, sorted(known), catalogue.declared(table).schema)
                   for table in ("charges", "charge_outcomes")}
        empty = catalogue.declared("disputes").schema.empty_table()
        _write(db, held, duck, changes | {"disputes": empty}, known)
    return len(known) - len(quarantine.entries(db, transactions.NAME))


def _write(db: Database[Document], held: RawRows, duck: duckdb.DuckDBPyConnection,
           changes: dict[str, pa.Table], known: Mapping[str, str]) -> int:
    touched = {table: set(rows["id" if table == "charges" else "charge_id"].to_pylist())
               for table, rows in changes.items()}
    every = set().union(*touched.values()) - {None}
    if again := sorted(every & known.keys()):  # their documents lack what earlier batches said
        for table in ("charges", "charge_outcomes"):
            changes[table] = pa.concat_tables([changes[table], _in_raw(held, table, again, changes[table].schema)])
    disputed = set(changes["disputes"]["id"].to_pylist())
    changes["disputes"] = _disputes(held, sorted(every), disputed)
    looked_up = {table: _looked_up(held, table, sorted(set(changes["charges"][column].to_pylist()) - {None}))
                 for table, column in _NAMED_BY.items()}
    changes["charges"], refused = _without_the_nameless(changes["charges"], looked_up)
    report = transactions.take(db, change_log.of_rows(duck, changes, looked_up), known, refused)
    return report.inserted + report.updated


def _without_the_nameless(charges: pa.Table, looked_up: Mapping[str, pa.Table]) -> tuple[pa.Table, dict[str, Refused]]:
    """Charges whose payer, merchant and terminal raw holds; the others by key: raw has put aside what they name."""
    refused: dict[str, Refused] = {}
    for table, column in _NAMED_BY.items():
        names = set(looked_up[table]["id"].to_pylist()) | {None}
        for row in charges.select(["id", column, "created", *FENCE]).to_pylist():
            if row[column] not in names:
                fence = f"{row['_epoch']}:{row['_commit_lsn']:016x}:{row['_ord']:08x}"
                refused[row["id"]] = max(
                    Refused(fence, f"{column} is not in raw.{table}", f"{row['created']:%Y-%m-%d}" if row["created"]
                            else quarantine.UNKNOWN_DAY), refused.get(row["id"], Refused("", "")),
                    key=lambda found: found.fence)
    kept = [name not in refused for name in charges["id"].to_pylist()]
    return charges.filter(pa.array(kept, pa.bool_())), refused


def _in_raw(held: RawRows, table: str, charges: list[str], schema: pa.Schema) -> pa.Table:
    """Charges, or their outcomes, as raw has them, in the form of a change that creates them."""
    names = [name for name, _kind in catalogue.declared(table).open_columns if name in schema.names]
    texts = [name for name in names if pa.types.is_string(schema.field(name).type)]
    rows = held.of(table, [*names, *FENCE, "_source", "_deleted"], "id" if table == "charges" else "charge_id", charges,
                   texts)
    made = [dict(zip((*names, *FENCE, "_source"), row, strict=True)) | {"_op": "c", "_unchanged": []}
            for *row, deleted in rows if not deleted]
    return pa.Table.from_pylist(made, schema)


def _changes(lake: Lake, chain: Chain, table: str, batches: Sequence[Manifest]) -> pa.Table:
    files = tuple(dailies.Source(m.seq, f.path, f.sha256) for m in batches for f in m.files_of(table))
    return gather(lake, table, files, chain) if files else catalogue.declared(table).schema.empty_table()


def _disputes(held: RawRows, charges: list[str], changed: set[str]) -> pa.Table:
    """Every dispute of these charges as raw has it."""
    before = change_log.FRESH - dt.timedelta(days=1)
    made = []
    for *row, deleted in held.of("disputes", _DISPUTE, "charge_id", charges):
        told = ("d" if deleted else "u", change_log.FRESH if row[0] in changed else before)
        made.append(dict(zip(_DISPUTE_TYPES.names, (*row, *told), strict=True)))
    return pa.Table.from_pylist(made, _DISPUTE_TYPES)


def _looked_up(held: RawRows, table: str, ids: list[str]) -> pa.Table:
    names = change_log.LOOKED_UP[table].split(", ")
    rows = held.of(table, names, "id", ids)
    made = {name: pa.array([row[n] for row in rows]).cast(_LOOKED_UP_TYPES[name]) if rows
            else pa.array([], _LOOKED_UP_TYPES[name]) for n, name in enumerate(names)}
    return pa.table(made)
