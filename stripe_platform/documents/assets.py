"""`documents/<collection>`: the document store by event day, loaded from the change log and from landed files."""

import time
from collections.abc import Iterator

import dagster as dg

from resources.lake import LakeResource
from resources.mongo import MongoResource
from stripe_platform.documents import landing, reference_rows, transactions
from stripe_platform.documents.control import LoadReport
from stripe_platform.documents.reference_rows import SERVED
from stripe_platform.documents.schemas import DATA, QUARANTINE, Collection
from stripe_platform.documents.setup import SetupReport, ensure_collections
from stripe_platform.keys import ANALYTICS, PAYMENTS, PLATFORM, key
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of
from stripe_platform.reference.database import REFERENCE
from stripe_platform.settings import load_settings

_SOURCES = [
    *(key("cdc", name) for name in ("charges", "charge_outcomes", "disputes", "refunds")),
    *(key("snapshots", name) for name in ("terminals", "customers", "accounts")),
]
_NAMED = [key("oltp", "customers"), key("oltp", "accounts")]  # whose tokens the landed records carry


def _columns(collection: Collection) -> dg.TableSchema:
    return dg.TableSchema([
        dg.TableColumn(
            name, _type(schema), description=schema.get("description"),
            constraints=dg.TableColumnConstraints(nullable="null" in schema.get("bsonType", ()), unique=name == "_id"))
        for name, schema in collection.properties.items()
    ])


def _type(schema: dict[str, object]) -> str:
    kind = schema.get("bsonType", "string")
    return next(str(k) for k in kind if k != "null") if isinstance(kind, list) else str(kind)


def _result(loaded: LoadReport, setup: SetupReport, begun: float) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={
        "rows": sum(loaded.by_day.values()), "rows_by_day": dg.MetadataValue.json(loaded.by_day),
        "inserted": loaded.inserted, "updated": loaded.updated, "quarantined": loaded.quarantined,
        "days_already_loaded": loaded.skipped_days,
        "indexes_not_available": ", ".join(setup.indexes_not_available) or "none",
        "seconds": round(time.monotonic() - begun, 3)})


@dg.asset(
    key=key("documents", "transactions"), group_name="documents", owners=[PAYMENTS], kinds={"mongodb", "json"},
    partitions_def=DAILY, backfill_policy=SINGLE_RUN, freshness_policy=FRESHNESS, deps=_SOURCES,
    description=f"{DATA['transactions'].description}: built from the change log, each change applied once.",
    metadata={"dagster/column_schema": _columns(DATA["transactions"])},
)
def transaction_documents(
    context: dg.AssetExecutionContext, lake: LakeResource, mongo: MongoResource
) -> dg.MaterializeResult:
    begun = time.monotonic()
    with mongo.database() as database:
        setup = ensure_collections(database)
        return _result(transactions.load(database, lake.open(), days_of(context)), setup, begun)


def _landed(name: str, owner: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=key("documents", name), group_name="documents", owners=[owner], kinds={"mongodb", "json"},
        partitions_def=DAILY, backfill_policy=SINGLE_RUN, freshness_policy=FRESHNESS, deps=_NAMED,
        description=f"{DATA[name].description}. Refused records stand in `{QUARANTINE}` with place and rule.",
        metadata={"dagster/column_schema": _columns(DATA[name])},
    )
    def landed_documents(context: dg.AssetExecutionContext, mongo: MongoResource) -> dg.MaterializeResult:
        begun = time.monotonic()
        with mongo.database() as database:
            setup = ensure_collections(database)
            return _result(landing.load(database, load_settings().landing, name, days_of(context)), setup, begun)

    return landed_documents


@dg.multi_asset(
    name="reference_documents", can_subset=True,
    specs=[
        dg.AssetSpec(
            key("documents", each.collection), deps=[key("reference", each.table)], group_name="documents",
            owners=[PLATFORM], kinds={"mongodb", "json"}, freshness_policy=FRESHNESS,
            description=f"{DATA[each.collection].description}: from the reference's log, each change applied once.",
            metadata={"dagster/column_schema": _columns(DATA[each.collection])})
        for each in SERVED
    ],
)  # fmt: skip
def reference_documents(
    context: dg.AssetExecutionContext, lake: LakeResource, mongo: MongoResource
) -> Iterator[dg.MaterializeResult]:
    """Bring what is captured of the reference into its collections; all of them have one position."""
    begun = time.monotonic()
    with mongo.database() as database:
        ensure_collections(database)
        reports = reference_rows.load(database, REFERENCE.lake(load_settings(), lake.open()))
        for name, report in reports.items():
            if key("documents", name) in context.selected_asset_keys:
                rows = database[name].count_documents({"deleted": False})
                yield dg.MaterializeResult(asset_key=key("documents", name), metadata={
                    "rows": report.read, "dagster/row_count": rows, "inserted": report.inserted,
                    "updated": report.updated, "quarantined": report.quarantined,
                    "seconds": round(time.monotonic() - begun, 3)})


DOCUMENT_ASSETS = [transaction_documents, _landed("sessions", ANALYTICS), _landed("customer_feedback", ANALYTICS),
                   reference_documents]
