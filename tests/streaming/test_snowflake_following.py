"""Following the log where the warehouse is Snowflake (emulated): raw there, and the documents by what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from company import TABLES
from dagster_snowflake import SnowflakeResource
from oltp_shop import Shop
from test_streaming import document, followed, soon

sys.path.insert(0, str(Path(__file__).parents[1] / "warehouse"))
import emulated_snowflake

from resources import warehouse
from stripe_platform.oltp import write
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import raw

pytestmark = [pytest.mark.servers, pytest.mark.log]


@pytest.fixture
def there(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnowflakeResource]:
    """An empty Snowflake that the deployment is configured for; no PostgreSQL warehouse can be found."""
    with emulated_snowflake.served(tmp_path / "ledger") as port:
        resource = SnowflakeResource(
            account="e", user="e", password="e", database="STRIPE_PLATFORM",
            additional_snowflake_connection_args={"host": "localhost", "port": port, "protocol": "http"})
        monkeypatch.setattr(warehouse, "snowflake", lambda _settings: resource)
        monkeypatch.setenv("STRIPE_PLATFORM_WAREHOUSE", "snowflake")
        monkeypatch.setenv("STRIPE_PLATFORM_SNOWFLAKE_FOLLOW_SECONDS", "0.5")
        monkeypatch.delenv("STRIPE_PLATFORM_WAREHOUSE_DSN")
        yield resource


def asked(there: SnowflakeResource, query: str) -> list[tuple[Any, ...]]:
    with there.get_connection() as conn, conn.cursor() as cursor:
        return cursor.execute(query).fetchall()


def test_payments_refunds_and_disputes_are_seen_in_snowflake_and_in_the_documents(shop: Shop, there: SnowflakeResource):
    with followed(load_settings()) as report:
        first, second = shop.pay(1000), shop.pay(2000)
        soon(lambda: document(second.charge_id).get("status"), "succeeded")
        write.create_refund(shop.conn, charge_id=first.charge_id, amount=1000, currency="eur")
        dispute = write.create_dispute(shop.conn, charge_id=second.charge_id, amount=2000, currency="eur",
                                       reason="fraudulent")
        soon(lambda: document(first.charge_id).get("status"), "refunded")
        soon(lambda: document(second.charge_id).get("status"), "fraudulent")
        write.set_dispute_status(shop.conn, dispute_id=dispute.dispute_id, status="lost")
    assert document(second.charge_id)["dispute"]["status"] == "lost"
    assert report.failures == {}
    for table in TABLES:
        names = ", ".join(name for name, kind in raw.columns_of(table) if kind in ("text", "bigint", "boolean"))
        ours = shop.conn.execute(f"select {names} from oltp.{table} order by 1, 2").fetchall()
        assert ours, table
        assert sorted(asked(there, f"select {names} from RAW.{table} where not _deleted")) == ours


def test_a_follower_begun_again_goes_on_where_snowflake_stands(shop: Shop, there: SnowflakeResource):
    with followed(load_settings()):
        shop.pay(1000)
        soon(lambda: len(asked(there, "select table_name from information_schema.tables where table_name = 'CHARGES'"
                                      " and table_schema = 'RAW'")), 1)
    shop.pay(2000)
    with followed(load_settings()) as report:
        soon(lambda: asked(there, "select count(*), sum(amount) from RAW.charges"), [(2, 3000)])
    assert report.failures == {}
    with followed(load_settings()) as again:
        pass
    assert again.carried.get("raw", 0) < report.carried["raw"]
