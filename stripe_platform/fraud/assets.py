"""The fraud model, and its scores on their way back through the OLTP's front door."""

import datetime as dt
import time

import dagster as dg

from resources.model_registry import ModelRegistryResource
from resources.postgres import OltpResource
from resources.warehouse import WarehouseResource
from stripe_platform import pictures
from stripe_platform.fraud import dataset
from stripe_platform.fraud.assess import assess
from stripe_platform.fraud.model import Trained, train_and_evaluate
from stripe_platform.fraud.protocol import ProtocolError, Windows
from stripe_platform.keys import RISK, TABLES, key
from stripe_platform.oltp.schema import load_schema
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of
from stripe_platform.progress import stage
from stripe_platform.reference.sync import sync
from stripe_platform.settings import load_settings

ALL_DAYS = dg.AllPartitionMapping()  # which days are read is the protocol's choice, not the partition's


class FraudModelConfig(dg.Config):
    """Windows of the protocol. Without `train_start` the test ends on the newest event day with charges."""

    train_start: str | None = None  # ISO day
    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7

    def windows(self, newest: dt.date) -> Windows:
        lengths = (self.train_days, self.delay_days, self.test_days)
        if self.train_start is None:
            return Windows.ending(newest, *lengths)
        return Windows.starting(dt.date.fromisoformat(self.train_start), *lengths)


@dg.asset(
    key=key("fraud", "model"),
    group_name="fraud",
    owners=[RISK],
    kinds={"lightgbm", "python"},
    description="LightGBM model of fraud by the Fraud Detection Handbook's protocol: seven days of training, seven "
    "days of delay, a test week without cards already known as compromised. Stored by content hash, without pickles.",
    deps=[dg.AssetDep(key("features", "charge"), partition_mapping=ALL_DAYS),
          dg.AssetDep(key("marts", "fct_disputes"), partition_mapping=ALL_DAYS)],
    freshness_policy=FRESHNESS,
)
def model(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, models: ModelRegistryResource,
    config: FraudModelConfig,
) -> dg.MaterializeResult:
    """Train, measure, store, and make the result the current model."""
    started = time.monotonic()
    with stage("fraud model", total=2) as advance:
        with warehouse.connect() as connection:
            first, newest = dataset.span(connection)
            windows = config.windows(newest)
            if windows.train_start < first or windows.test_end > newest:
                raise ProtocolError(
                    f"the model needs features of {windows.train_start} to {windows.test_end}, features.charge holds "
                    f"{first} to {newest}: bring more days, or choose other windows")
            frame = dataset.read(connection, windows.train_start, windows.test_end)
        advance(1)
        trained = train_and_evaluate(frame, windows)
        stored = models.store().save(trained.text, trained.signature)
        advance(1)
    context.log.info("fraud model %s: average precision %.4f", stored.version, trained.metrics.average_precision)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(stored.version),
        metadata={"version": stored.version, "history_days_before_training": (windows.train_start - first).days,
                  "seconds": round(time.monotonic() - started, 2), **_figures(trained)},
    )


def _figures(trained: Trained) -> dict[str, dg.MetadataValue]:
    signature, metrics = trained.signature, trained.metrics
    days = signature["windows"]
    return {
        "roc_auc": dg.MetadataValue.float(metrics.roc_auc),
        "average_precision": dg.MetadataValue.float(metrics.average_precision),
        "card_precision_100": dg.MetadataValue.float(metrics.card_precision_100),
        "recall_at_fpr_0_1pct": dg.MetadataValue.float(metrics.recall_at_fpr_0_1pct),
        "training_days": dg.MetadataValue.text(f"{days['train_start']} to {days['train_end']}"),
        "test_days": dg.MetadataValue.text(f"{days['test_start']} to {days['test_end']}"),
        **{f"{kind}_{window}": dg.MetadataValue.int(signature[kind][window])
           for kind in ("rows", "frauds") for window in ("training", "test")},
        "thresholds": dg.MetadataValue.json(signature["thresholds"]),
        "feature_set": dg.MetadataValue.text(signature["feature_set_hash"]),
        "plot": dg.MetadataValue.md(pictures.as_markdown(trained.png, "precision-recall curve and score histogram")),
    }


@dg.asset(
    key=key("oltp", "fraud_assessments"),
    group_name="fraud",  # in oltp, the groups would be a circle and the UI could not draw them left to right
    owners=[TABLES["fraud_assessments"].owner],
    kinds={"postgres", "table"},
    description="Scores of the model's test days, written back through the OLTP's write API; the ledger day that "
    "carries them closes in the same transaction. Writing them again changes nothing.",
    deps=[dg.AssetDep(key("fraud", "model")), dg.AssetDep(key("features", "charge"), partition_mapping=ALL_DAYS)],
    metadata={
        "dagster/column_schema": dg.TableSchema([
            dg.TableColumn(c.name, c.type, c.comment, constraints=dg.TableColumnConstraints(nullable=c.nullable))
            for c in load_schema()["fraud_assessments"].columns]),
        "dagster/table_name": "oltp.fraud_assessments",
    },
    partitions_def=DAILY,
    backfill_policy=SINGLE_RUN,
    freshness_policy=FRESHNESS,
)
def fraud_assessments(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, models: ModelRegistryResource, oltp: OltpResource,
) -> dg.MaterializeResult:
    """Score the current model's test days. Of a range of ledger days the last one carries all scores and closes."""
    started, days = time.monotonic(), days_of(context)
    with stage("fraud scores", total=1) as advance:
        sync(load_settings())  # the scores close a ledger day: a day is closed when every source closed it
        with warehouse.connect() as connection, oltp.connect() as ledger:
            done = assess(connection, ledger, models.store().load(), days[-1])
        advance(1)
    written = {day.isoformat(): done.written if day == days[-1] else 0 for day in days}
    return dg.MaterializeResult(metadata={
        "dagster/row_count": done.written,
        "rows_by_day": dg.MetadataValue.json(written),
        "scored": done.scored,
        "model_version": done.model_version,
        "decisions": dg.MetadataValue.json(done.decisions),
        "closed_day": done.closed.isoformat() if done.closed else "already closed",
        "seconds": round(time.monotonic() - started, 2),
    })


FRAUD_ASSETS = [model, fraud_assessments]
