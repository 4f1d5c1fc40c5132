"""Both warehouses over one lake, and a history of four days that has every kind of change in it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cdc_source import FIRST, account_id, accounts, close, long_text, owner, raw_all, reference

sys.path.insert(0, str(Path(__file__).parents[1] / "warehouse"))
import emulated_snowflake

from resources.warehouse import connect_postgres
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain, Manifest
from stripe_platform.warehouse import raw, raw_snowflake
from stripe_platform.warehouse.stream import RawStream
from stripe_platform.warehouse.stream_snowflake import SnowflakeStream

TABLES = ("currencies", "countries", "accounts", "exchange_rates")
DAYS = [FIRST + dt.timedelta(days=n) for n in range(4)]
FENCE = ("_source", "_epoch", "_commit_lsn", "_ord", "_deleted", "_ledger_day")


@dataclasses.dataclass
class Pair:
    """Both warehouses over one lake."""

    store: Any
    postgres: Any
    port: int
    snowflake: Any

    def apply(self, table: str, days: list[dt.date]) -> None:
        """Bring days into both; whatever they report but seconds is equal."""
        reports = [dataclasses.asdict(module.apply(conn, self.store, table, days)) | {"seconds": 0.0}
                   for module, conn in ((raw, self.postgres), (raw_snowflake, self.snowflake))]
        assert reports[0] == reports[1]

    def here(self) -> RawStream:
        return RawStream(self.postgres, self.store, "oltp", FIRST)

    def there(self) -> SnowflakeStream:
        return SnowflakeStream(self.snowflake, self.store, "oltp", FIRST)

    def stream(self, batches: Sequence[Manifest] | None = None) -> int:
        """Bring batches (all: None) into both as they would land; keys written, in both alike."""
        chain = Chain.load(self.store)
        here, there = (stream.take(chain, chain.manifests if batches is None else batches)
                       for stream in (self.here(), self.there()))
        assert here == there
        return here

    def rows(self, table: str) -> list[tuple]:
        """Rows in Snowflake, sorted as those in PostgreSQL, which they must equal."""
        names = [name for name, _kind in raw.columns_of(table)] + list(FENCE)
        with self.snowflake.cursor() as cursor:
            theirs = cursor.execute(f"select {', '.join(names)} from RAW.{table}").fetchall()
        theirs = sorted([tuple(v.astimezone(dt.UTC) if isinstance(v, dt.datetime) else v for v in row)
                         for row in theirs], key=repr)
        assert theirs == sorted([tuple(v.astimezone(dt.UTC) if isinstance(v, dt.datetime) else v for v in row)
                                 for row in raw_all(self.postgres, table)], key=repr)
        return theirs

    def forget(self, days: list[dt.date]) -> None:
        """As if the rows of the fence table had been lost."""
        self.postgres.execute("delete from raw._applied where day = any(%s)", [days])
        with self.snowflake.cursor() as cursor:
            for day in days:
                cursor.execute('delete from "RAW"."_APPLIED" where "DAY" = %s', (day.isoformat(),))


def connect(port: int) -> Any:
    import snowflake.connector

    return snowflake.connector.connect(user="e", password="e", account="e", host="localhost", port=port,
                                       protocol="http", database="STRIPE_PLATFORM")


@pytest.fixture
def pair(source, store, warehouse, tmp_path) -> Iterator[Pair]:
    with (emulated_snowflake.served(tmp_path / "ledger") as port, connect(port) as there,
          connect_postgres(warehouse.need("warehouse_dsn")) as here):
        here.autocommit = True
        yield Pair(store, here, port, there)
        used = {json.loads(line)[0] for line in (tmp_path / "ledger").read_text().splitlines()}
        assert {name for name in used if not name.startswith("rolled_back")} <= emulated_snowflake.DEVIATIONS


@pytest.fixture
def told(source, store):
    """Four closed days: values left out over days and key changes, deletes, a row made again, a truncation."""
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 0, 6, name=long_text("x"))
        connection.execute("insert into oltp.exchange_rates values ('2026-06-01', 'usd', 'eur', 1.5)")
        close(connection, DAYS[0])
        connection.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(1)])
        connection.execute("update oltp.accounts set id = %s where id = %s", [account_id(9), account_id(2)])
        connection.execute("delete from oltp.accounts where id = %s", [account_id(3)])
        connection.execute("update oltp.accounts set name = %s where id = %s",
                           ["it's \"odd\", \\N\n\t'; -- é 漢 \u202e", account_id(4)])
        connection.execute("update oltp.accounts set name = '', mcc = null where id = %s", [account_id(5)])
        close(connection, DAYS[1])
        connection.execute("insert into oltp.exchange_rates values ('2026-06-02', 'usd', 'eur', 0.0000000001)")
        connection.execute("truncate oltp.exchange_rates")
        connection.execute("insert into oltp.exchange_rates values ('2026-06-03', 'usd', 'eur', 1234567890.0123456789)")
        accounts(connection, 3, 1, name="again")
        close(connection, DAYS[2])
        connection.execute("delete from oltp.accounts where id = %s", [account_id(9)])
        close(connection, DAYS[3])
    capture(source)
    compact_range(store, TABLES, DAYS)
    return store
