"""A merchant with a payer and a card, ready to take payments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from stripe_platform.keyring import Keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings


@dataclass(frozen=True)
class Shop:
    """Ids of a merchant, a payer and a card, and a connection in autocommit mode."""

    conn: psycopg.Connection
    ring: Keyring
    settings: Settings
    account: str
    customer: str
    method: str

    def pay(self, amount: int = 1000, currency: str = "eur", **more: object) -> write.Payment:
        return write.create_payment(
            self.conn, account_id=self.account, customer_id=self.customer, payment_method_id=self.method,
            amount=amount, currency=currency, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def copy(self, statement: str) -> None:
        """Write to copies of the reference, which the app's role may not."""
        with psycopg.connect(self.settings.need("oltp_owner_dsn"), autocommit=True) as owner:
            owner.execute(statement)  # type: ignore[call-overload]


def copied(settings: Settings) -> Callable[[Mapping[str, pa.Table]], None]:
    """Stands for the reference where it is not what is tested: rows of copies are there when it returns."""
    def bring(tables: Mapping[str, pa.Table]) -> None:
        with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as conn:
            seed_reference(conn)
            for name, rows in tables.items():
                table = sql.Identifier("oltp", name)
                columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
                conn.execute(sql.SQL(
                    "insert into {0} ({1}) select {1} from json_populate_recordset(null::{0}, %s::json)"
                    " on conflict do nothing").format(table, columns), [json.dumps(rows.to_pylist(), default=str)])

    return bring
