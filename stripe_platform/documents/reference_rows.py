"""Reference rows as documents, for whoever looks them up online: from the reference's own log, behind its fence.

A row that is gone stays as `deleted` with its values, so that nothing older brings it back. Batches come in order; the
position is written behind them, and a batch that comes again changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from bson import Decimal128

from stripe_platform.cdc import fold
from stripe_platform.cdc.compact import sort_by_key
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.quarantined import in_documents
from stripe_platform.documents import quarantine
from stripe_platform.documents.control import LoadReport, streamed, streaming
from stripe_platform.documents.quarantine import Outcome, Refused
from stripe_platform.documents.writing import DUPLICATE_KEY, Document, fenced, insert_new, rule_of, update_all
from stripe_platform.reference.copies import changes_of
from stripe_platform.reference.database import REFERENCE

if TYPE_CHECKING:
    from pymongo.database import Database

    from resources.lake import Lake
    from stripe_platform.cdc.manifest import Manifest

AT_ONCE = 200  # batches that are folded together
PART = "row"
HELD = "held: it leaves out values of a row that is put aside"


@dataclass(frozen=True)
class Served:
    """A collection of one reference table's rows: column by field. `_id`: the key's values joined by colons."""

    collection: str
    table: str
    fields: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        return REFERENCE.tables[self.table]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


SERVED = (
    Served("country_region_codes", "countries", _same("name", "region", "currency", "deleted")),
    Served("currency_exchange_rates", "exchange_rates",
           _same("day") | {"from": "from_currency", "to": "to_currency", "rate": "rate"}),
    Served("merchants", "merchants", _same("token", "type", "country") | {"currency": "default_currency"} | _same(
        "business_type", "mcc", "name", "url", "created", "deleted")),
    Served("products", "products", {"merchant": "merchant_id"} | _same(
        "name", "category", "type", "active", "tax_code", "unit_label", "shippable", "url", "statement_descriptor",
        "livemode", "created", "deleted")),
)


def load(db: Database[Document], lake: Lake) -> dict[str, LoadReport]:
    """Bring every captured batch of the reference into its collections; what was done by collection. `lake`: its own.

    Raises `ChainError` where the log is broken, `DocumentRefusedError` where the server refuses more than documents.
    """
    chain = Chain.load(lake)
    reports = {each.collection: LoadReport() for each in SERVED}
    while batches := chain.manifests[(done := streamed(db, REFERENCE.name)[0]):done + AT_ONCE]:
        for name, report in take(db, lake, batches).items():
            for what in ("read", "inserted", "updated"):
                setattr(reports[name], what, getattr(reports[name], what) + getattr(report, what))
    for name, report in reports.items():
        report.quarantined = in_documents(db, name)
    return reports


def take(db: Database[Document], lake: Lake, batches: Sequence[Manifest]) -> dict[str, LoadReport]:
    """Bring batches that follow the position in; what was done by collection."""
    batches = [batch for batch in batches if batch.seq > streamed(db, REFERENCE.name)[0]]
    if not batches:
        return {}
    streaming(db, REFERENCE.name, batches[0].seq - 1, batches[-1].seq)
    reports = {}
    for each in SERVED:
        parts = [part for batch in batches if (part := changes_of(lake, batch, each.table)) is not None]
        if parts:
            reports[each.collection] = _apply(db, each, pa.concat_tables(parts, promote_options="default"))
    streaming(db, REFERENCE.name, batches[-1].seq, batches[-1].seq)
    return reports


def retry(db: Database[Document], lake: Lake) -> int:
    """Build what was put aside anew from the whole log up to the position; entries closed."""
    closed, chain = 0, Chain.load(lake)
    for each in SERVED:
        known = quarantine.entries(db, each.collection)
        if known:
            rows = state(lake, chain, each, streamed(db, REFERENCE.name)[0])
            mine = pa.array([name in known for name in _ids(rows, each)], pa.bool_())
            _write(db, each, rows.filter(mine), known)
            closed += len(known) - in_documents(db, each.collection)
    return closed


def state(lake: Lake, chain: Chain, each: Served, seq: int) -> pa.Table:
    """A table's rows after batch `seq`, deleted ones among them: the fold of its log."""
    parts = [part for batch in chain.manifests[:seq] if (part := changes_of(lake, batch, each.table)) is not None]
    if not parts:
        return pa.table({})
    return _fold(each, pa.concat_tables(parts, promote_options="default"))


def _fold(each: Served, rows: pa.Table) -> pa.Table:
    return fold.collapse(sort_by_key(rows, each.key), each.key)


def _apply(db: Database[Document], each: Served, rows: pa.Table) -> LoadReport:
    return _write(db, each, _fold(each, rows), quarantine.entries(db, each.collection))


def _write(db: Database[Document], each: Served, rows: pa.Table, known: Mapping[str, str]) -> LoadReport:
    """Put the newest states behind their fences: whole ones are inserted where they do not stand."""
    from pymongo import UpdateOne

    collection, report, met = db[each.collection], LoadReport(read=rows.num_rows), Outcome()
    ids, gone = _ids(rows, each), pc.equal(rows["_op"], "d").to_pylist()
    left_out = rows[fold.PENDING].to_pylist()
    versions = [f"{epoch}:{lsn:016x}:{order:08x}" for epoch, lsn, order in zip(
        *(rows[name].to_pylist() for name in fold.FENCE), strict=True)]
    states = dict(zip(ids, _documents(rows, each, ids, versions), strict=True))
    whole = [states[name] for name, deleted, missing in zip(ids, gone, left_out, strict=True)
             if not deleted and not missing]
    present, rules = insert_new(collection, whole)
    report.inserted = len(whole) - len(present) - len(rules)
    standing = {row["_id"] for row in collection.find({"_id": {"$in": ids}}, {"_id": 1})}
    fresh = {document["_id"] for document in whole} - {document["_id"] for document in present} - rules.keys()
    rules |= {document["_id"]: rule_of(DUPLICATE_KEY) for document in present if document["_id"] not in standing}
    updates, older = [], standing - fresh
    for name, deleted, missing, version in zip(ids, gone, left_out, versions, strict=True):
        if name in older:
            said = {field: states[name][field] for field, column in each.fields.items() if column not in missing}
            updates.append((name, UpdateOne({"_id": name}, [fenced(PART, version, {
                "deleted": True} if deleted else said | {"deleted": states[name]["deleted"]})])))
    report.updated, refused = update_all(collection, updates)
    rules = {name: rule for name, rule in rules.items() if name not in standing} | refused
    for name, deleted, missing, version in zip(ids, gone, left_out, versions, strict=True):
        if name in rules:
            met.refuse(name, Refused(version, rules[name]))
        elif name in standing or deleted:
            if name in known and missing and not deleted:
                met.refuse(name, Refused(version, HELD))
            else:
                met.good[name] = version
        else:
            met.refuse(name, Refused(version, HELD))
    quarantine.settle(db, each.collection, REFERENCE.name, known, met)
    return report


def _ids(rows: pa.Table, each: Served) -> list[str]:
    if not rows.num_rows:
        return []
    return [":".join(map(str, key)) for key in zip(*(rows[name].to_pylist() for name in each.key), strict=True)]


def _documents(rows: pa.Table, each: Served, ids: Sequence[str], versions: Sequence[str]) -> list[Document]:
    columns = {field: [_value(column, value) for value in rows[column].to_pylist()]
               for field, column in each.fields.items()}
    return [{"_id": name, "deleted": False, **{field: columns[field][n] for field in each.fields},
             "fence": {PART: versions[n]}} for n, name in enumerate(ids)]


def _value(column: str, value: Any) -> Any:
    """A value as documents hold it: exact decimals, days as text."""
    if column == "rate" and value is not None:
        return Decimal128(Decimal(value))
    return value.isoformat() if isinstance(value, dt.date) and not isinstance(value, dt.datetime) else value
