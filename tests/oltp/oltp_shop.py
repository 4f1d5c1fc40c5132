"""A merchant with a payer and a card, ready to take payments."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.oltp import write
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
