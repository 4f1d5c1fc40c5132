"""The document store by event day, against the change log and the landed files it was loaded from."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import Decimal128
from psycopg import sql

from asset_checks.judge import ROWS, WHOLE, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cards import holds_card_number
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import files_through
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.quarantined import FED_BY_THE_LOG, in_documents
from stripe_platform.documents import quarantine
from stripe_platform.documents.control import streamed
from stripe_platform.documents.reference_rows import SERVED, Served, state
from stripe_platform.documents.schemas import DATA, LOADS, QUARANTINE, STREAMS
from stripe_platform.documents.slices import counted, grouped
from stripe_platform.keys import key
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

# What a dispute makes of a status depends on which came first; documents with one are judged by `_BROKEN`.
_EXPECTED = """
with newest as (
    select id, currency, strftime(created, '%Y-%m-%d') as day, arg_max(struct_pack(
        amount, captured := amount_captured, refunded := amount_refunded, status, disputed),
        struct_pack(_epoch, _commit_lsn, _ord)) as c
    from read_parquet($files)
    where strftime(created, '%Y-%m-%d') in (select unnest($days)) and id not in (select unnest($apart::text[]))
    group by all
),
questioned as (
    select distinct charge_id as id from disputes where _op <> 'd'
)
select day, currency, case
        when q.id is not null then 'questioned'
        when c.status <> 'succeeded' then c.status
        when c.disputed then 'disputed'
        when c.refunded > 0 and c.refunded = c.captured then 'refunded'
        else 'succeeded' end as status,
    count(*), sum(c.amount), sum(c.captured), sum(c.refunded)
from newest n left join questioned q on n.id = q.id group by all
"""

MOMENTS = 100  # tries to read between two writings of a stream, which takes some milliseconds

Sums = dict[tuple[str, str, str], tuple[int, ...]]  # (day, currency, status) -> documents, amount, captured, refunded


def _transactions(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    names = [day.isoformat() for day in days]
    with stores.mongo() as db:
        loaded = _loaded_days(db, "transactions")
        through, (standing, broken), apart = _at_one_moment(db, names)
        unguarded = _unguarded(db, "transactions")
    expected = _expected(stores, loaded, names, through, list(apart))
    counts = {}
    for name in names:
        here, there = _of_day(standing, name), _of_day(expected, name)
        money, expected_money = _by_currency(here), _by_currency(there)
        counts[name] = {
            ROWS: sum(row[0] for row in here.values()), "in_the_log": sum(row[0] for row in there.values()),
            "days_loaded": int(name in loaded), "validators_out_of_force": unguarded,
            "documents_quarantined": sum(day == name for day in apart.values()),
            "currencies_with_other_sums": sum(
                money.get(c) != expected_money.get(c) for c in money.keys() | expected_money.keys()),
            "statuses_with_other_sums": sum(here.get(s) != there.get(s) for s in here.keys() | there.keys()),
            **{rule: broken.get((name, rule), 0) for rule in _BROKEN},
        }
    return frame(counts)


def _of_day(sums: Sums, day: str) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(currency, status): row for (of, currency, status), row in sums.items() if of == day}


def _by_currency(of_day: dict[tuple[str, str], tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    sums: dict[str, tuple[int, ...]] = {}
    for (currency, _), row in of_day.items():
        sums[currency] = tuple(map(sum, zip(row, sums.get(currency, (0,) * len(row)), strict=True)))
    return sums


def _loaded_days(db: Documents, collection: str) -> dict[str, dict[str, Any]]:
    return {row["day"]: row for row in db[LOADS].find({"collection": collection})}


def _unguarded(db: Documents, collection: str) -> int:
    """1 where the server does not refuse what the declaration forbids. Judging every document again costs as much as
    loading them; the server judged each one when it came."""
    (found,) = db.list_collections(filter={"name": collection}) or ({},)
    options = found.get("options", {})
    in_force = (options.get("validator") == DATA[collection].validator
                and options.get("validationAction", "error") == "error"
                and options.get("validationLevel", "strict") == "strict")
    return int(not in_force)


_BROKEN = {
    "frauds_unseen": [{"$eq": ["$status", "disputed"]}, {"$eq": ["$dispute.reason", "fraudulent"]}],
    "frauds_without_dispute": [{"$eq": ["$status", "fraudulent"]}, {"$ne": ["$dispute.reason", "fraudulent"]}],
    "disputes_unseen": [{"$ne": ["$dispute", None]},
                        {"$not": [{"$in": ["$status", ["disputed", "failed", "fraudulent"]]}]}],
}


def _standing(db: Documents, names: Sequence[str], apart: Sequence[str]) -> tuple[Sums, dict[tuple[str, str], int]]:
    """What stands by day and currency, and by (day, rule) how many documents contradict themselves, in one reading.

    Without the documents given in `apart`, which are older than the log.
    """
    rows = grouped(
        db, "transactions", [dt.date.fromisoformat(name) for name in names],
        {"day": "$day", "currency": "$currency", "status": {
            "$cond": [{"$eq": [{"$ifNull": ["$dispute", None]}, None]}, "$status", "questioned"]}},
        {"amount": "$amount", "captured": "$amount_captured", "refunded": "$amount_refunded",
         **{rule: {"$cond": [{"$and": all_of}, 1, 0]} for rule, all_of in _BROKEN.items()}},
        {"_id": {"$nin": list(apart)}} if apart else None)
    sums: Sums = {
        (row["_id"]["day"], row["_id"]["currency"], row["_id"]["status"]):
            (row["n"], int(row["amount"]), int(row["captured"]), int(row["refunded"])) for row in rows}
    broken: Counter[tuple[str, str]] = Counter()
    for row in rows:
        broken.update({(row["_id"]["day"], rule): row[rule] for rule in _BROKEN})
    return sums, broken


def _at_one_moment(
    db: Documents, names: Sequence[str],
) -> tuple[int, tuple[Sums, dict[tuple[str, str], int]], dict[str, str]]:
    """The batch up to which documents are whole, what stands then, and event day by key of what is put aside: read
    again when a stream wrote in between."""
    for _ in range(MOMENTS):
        before = streamed(db, "transactions")
        apart = {row["key"]: row["day"] for row in db[QUARANTINE].find(
            {"collection": "transactions", **FED_BY_THE_LOG}, {"key": 1, "day": 1})}
        found = _standing(db, names, list(apart))
        if before[0] == before[1] and streamed(db, "transactions") == before:
            break
        time.sleep(0.05)
    return before[0], found, apart


def _expected(stores: Stores, loaded: dict[str, Any], names: Sequence[str], through: int,
              apart: Sequence[str]) -> Sums:
    """What the log says, from the first judged day on, of loaded days and of batches streamed up to `through`; without
    the charges given in `apart`."""
    days = [dt.date.fromisoformat(day) for day in sorted(loaded) if day >= min(names)]
    lake, first_day = stores.lake(), load_settings().first_day
    chain, since = Chain.load(lake), dt.date.fromisoformat(min(names))
    charges, disputes = (list(files_through(lake, chain, table, days, through, since, first_day))
                         for table in ("charges", "disputes"))
    if not charges:
        return {}
    with stores.duck() as duck:
        duck.register("no_disputes", dailies.schema_of("disputes").empty_table())  # a stream may have brought none yet
        read = f"read_parquet([{', '.join(map(sql.quote, disputes))}])" if disputes else "no_disputes"
        duck.execute(f"create temp view disputes as select charge_id, _op from {read}")  # noqa: S608 (quoted names)
        rows = duck.execute(_EXPECTED, {"files": charges, "days": list(names), "apart": list(apart)}).fetchall()
    return {(day, currency, status): tuple(sums) for day, currency, status, *sums in rows}


def _landed(collection: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    names = [day.isoformat() for day in days]
    with stores.mongo() as db:
        loaded = _loaded_days(db, collection)
        standing = counted(db, collection, days)
        shapes = {row["_id"]: row["n"] for row in grouped(
            db, collection, days, "$day", {}, {"$nor": [DATA[collection].validator]})}
        unguarded = _unguarded(db, collection)
        cards = _cards(db, names) if collection == "customer_feedback" else {}
    counts = {}
    for name in names:
        refused = loaded[name]["quarantined"] if name in loaded else 0
        counts[name] = {
            ROWS: standing.get(name, 0), "days_loaded": int(name in loaded),
            "stored_or_refused": standing.get(name, 0) + int(refused),
            "landed": _lines(load_settings().landing / collection / f"{name}.jsonl"),
            "undeclared_shapes": shapes.get(name, 0), "validators_out_of_force": unguarded,
            "card_numbers": cards.get(name, 0),
        }
    return frame(counts)


def _served(each: Served, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    """Rows that stand and those that the reference's log leaves, up to the position that the documents have."""
    lake = REFERENCE.lake(load_settings(), stores.lake())
    with stores.mongo() as db:
        for _ in range(MOMENTS):
            before = streamed(db, REFERENCE.name)
            apart = quarantine.entries(db, each.collection)
            found = list(db[each.collection].find({"_id": {"$nin": list(apart)}, "deleted": False}))
            if before[0] == before[1] and streamed(db, REFERENCE.name) == before:
                break
            time.sleep(0.05)
        unguarded = _unguarded(db, each.collection)
    rows = state(lake, Chain.load(lake), each, before[0]).to_pylist()
    expected = [row for row in rows if row["_op"] != "d" and not row.get("deleted")
                and ":".join(str(row[name]) for name in each.key) not in apart]
    here = [(row["_id"], *(_comparable(row[field]) for field in each.fields)) for row in found]
    there = [(":".join(str(row[name]) for name in each.key), *(
        _comparable(row[column], rate=column == "rate") for column in each.fields.values())) for row in expected]
    return frame({WHOLE: {
        ROWS: len(here), "in_the_log": len(there), "batches_applied": before[0], "documents_quarantined": len(apart),
        "other_contents": int(_content(here) != _content(there)), "validators_out_of_force": unguarded}})


def _comparable(value: Any, *, rate: bool = False) -> Any:
    """A value that is equal on both sides when it is the same: documents have milliseconds and exact decimals."""
    if isinstance(value, Decimal128) or rate:
        return str((value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)).normalize())
    if isinstance(value, dt.datetime):
        return int(value.timestamp() * 1_000)
    return str(value) if isinstance(value, dt.date) else value


def _content(rows: Sequence[tuple[Any, ...]]) -> int:
    """Sum of the rows' hashes: their order does not matter."""
    return sum(int.from_bytes(hashlib.sha256(repr(row).encode()).digest()) for row in rows)


def _quarantined(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.mongo() as db:
        loads = db[LOADS].estimated_document_count() + db[STREAMS].estimated_document_count()
        return frame({WHOLE: {ROWS: loads, "documents_quarantined": in_documents(db)}})


def _lines(file: Path) -> int:
    if not file.exists():
        return 0
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _cards(db: Documents, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in db["customer_feedback"].find({"day": {"$in": list(names)}}, {"day": 1, "text": 1, "_id": 0}):
        if row["text"] and holds_card_number(row["text"]):
            found[row["day"]] = found.get(row["day"], 0) + 1
    return found


CHECKS = [
    Check(
        key("documents", "transactions"), "nothing_is_quarantined",
        "No document that the change log feeds is put aside: `stripe-platform cdc quarantine` names the rules.",
        _quarantined, none_of("documents_quarantined"), blocking=False, partitioned=False),
    Check(
        key("documents", "transactions"), "documents_are_the_logs_charges",
        "One document per charge of the day, the log's sums per currency and status; undeclared fields are refused.",
        _transactions,
        (equal(ROWS, "in_the_log"), *none_of("currencies_with_other_sums", "statuses_with_other_sums",
                                             "validators_out_of_force", *_BROKEN)),
        {"days_loaded": 1}),
    *(Check(
        key("documents", name), "landed_records_are_stored_or_refused",
        "Every line of the landed file is a document or stands in quarantine; no undeclared field, no card number.",
        partial(_landed, name),
        (equal("stored_or_refused", "landed"),
         *none_of("undeclared_shapes", "validators_out_of_force", "card_numbers")),
        {"days_loaded": 1}) for name in ("sessions", "customer_feedback")),
    *(Check(
        key("documents", each.collection), "documents_are_the_references",
        f"Rows of reference.{each.table} as its log leaves them: as many, with the same values; others are refused.",
        partial(_served, each),
        (equal(ROWS, "in_the_log"), *none_of("other_contents", "validators_out_of_force")), {"batches_applied": 1},
        partitioned=False) for each in SERVED),
]
