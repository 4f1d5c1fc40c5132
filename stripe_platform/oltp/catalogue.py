"""The catalogue: products, prices, coupons and tax rates. One function, one ACID transaction.

A price's amounts never change: a new price replaces it, and `set_price_active` takes the old one off sale.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, LiteralString

import psycopg

from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency, call
from stripe_platform.oltp.payments import check_money

Interval = Literal["day", "week", "month", "year"]


@dataclass(frozen=True)
class Tier:
    """A step of a tiered price: for units up to `up_to` (None: all that follow), per unit and once for the step.

    Amounts are minor units; as Decimal they may have fractions of them.
    """

    up_to: int | None
    unit_amount: int | Decimal | None = None
    flat_amount: int | Decimal | None = None


def create_product(
    conn: psycopg.Connection, *, account_id: str, name: str, active: bool = True, tax_code: str | None = None,
    unit_label: str | None = None, category: str | None = None, product_id: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """What a merchant sells; its id, by default a new one."""
    answer, _ = call(
        conn, "create_product",
        {"p_account": account_id, "p_name": name, "p_active": active, "p_tax_code": tax_code,
         "p_unit_label": unit_label, "p_category": category, "p_id": product_id}, idempotency, created)  # fmt: skip
    return str(answer["product"])


def create_price(
    conn: psycopg.Connection, *, product_id: str, currency: str, unit_amount: int | None = None,
    unit_amount_decimal: Decimal | None = None, interval: Interval | None = None, interval_count: int = 1,
    usage_type: Literal["licensed", "metered"] = "licensed", tiers: Sequence[Tier] = (),
    tiers_mode: Literal["graduated", "volume"] | None = None, tax_behavior: str = "unspecified",
    nickname: str | None = None, lookup_key: str | None = None, trial_period_days: int | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """A price of a product; its id. With `interval` it recurs; with `tiers` the quantity decides, else each unit costs.

    `unit_amount` is minor units, `unit_amount_decimal` (up to 12 decimals) has fractions of them.
    """
    if unit_amount is not None:
        check_money(unit_amount, currency)
    answer, _ = call(
        conn, "create_price",
        {"p_product": product_id, "p_currency": currency, "p_type": "recurring" if interval else "one_time",
         "p_billing_scheme": "tiered" if tiers or tiers_mode else "per_unit", "p_unit_amount": unit_amount,
         "p_unit_amount_decimal": unit_amount_decimal, "p_interval": interval, "p_interval_count": interval_count,
         "p_usage_type": usage_type, "p_tiers_mode": tiers_mode, "p_tiers": _tiers(tiers),
         "p_tax_behavior": tax_behavior, "p_nickname": nickname, "p_lookup_key": lookup_key,
         "p_trial_period_days": trial_period_days}, idempotency, created)  # fmt: skip
    return str(answer["price"])


def create_coupon(
    conn: psycopg.Connection, *, account_id: str, duration: Literal["forever", "once", "repeating"],
    percent_off: Decimal | int | None = None, amount_off: int | None = None, currency: str | None = None,
    duration_in_months: int | None = None, max_redemptions: int | None = None, redeem_by: dt.datetime | None = None,
    name: str | None = None, coupon_id: str | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> str:
    """A reduction by percent, or by an amount (minor units of `currency`) per invoice; its id."""
    answer, _ = call(
        conn, "create_coupon",
        {"p_account": account_id, "p_duration": duration, "p_percent_off": percent_off, "p_amount_off": amount_off,
         "p_currency": currency, "p_duration_in_months": duration_in_months, "p_max_redemptions": max_redemptions,
         "p_redeem_by": redeem_by, "p_name": name, "p_id": coupon_id}, idempotency, created)  # fmt: skip
    return str(answer["coupon"])


def create_tax_rate(
    conn: psycopg.Connection, *, account_id: str, display_name: str, percentage: Decimal | int, inclusive: bool,
    country: str | None = None, state: str | None = None, jurisdiction: str | None = None, tax_type: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """A tax on what is billed (at most four decimals of percent), contained in prices or added to them; its id."""
    answer, _ = call(
        conn, "create_tax_rate",
        {"p_account": account_id, "p_display_name": display_name, "p_percentage": percentage,
         "p_inclusive": inclusive, "p_country": country, "p_state": state, "p_jurisdiction": jurisdiction,
         "p_tax_type": tax_type}, idempotency, created)  # fmt: skip
    return str(answer["tax_rate"])


def set_product_active(conn: psycopg.Connection, *, product_id: str, active: bool) -> None:
    """Put a product on or off sale: subscriptions that stand go on."""
    _one(conn, "update oltp.products set active = %s where id = %s and not deleted", [active, product_id], "product")


def set_price_active(conn: psycopg.Connection, *, price_id: str, active: bool) -> None:
    """Put a price on or off sale: subscriptions that stand go on."""
    _one(conn, "update oltp.prices set active = %s where id = %s and not deleted", [active, price_id], "price")


def delete_coupon(conn: psycopg.Connection, *, coupon_id: str) -> None:
    """No more redemptions; discounts that were given go on."""
    _one(conn, "update oltp.coupons set deleted = true, valid = false where id = %s and not deleted", [coupon_id],
         "coupon")  # fmt: skip


def give_discount(
    conn: psycopg.Connection, *, coupon_id: str, customer_id: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> str:
    """A coupon for all that a payer is billed; the discount's id. A subscription's own discount goes before it."""
    answer, _ = call(conn, "give_discount", {"p_coupon": coupon_id, "p_customer": customer_id}, idempotency, created)
    return str(answer["discount"])


def _tiers(tiers: Sequence[Tier]) -> str | None:
    if not tiers:
        return None
    return json.dumps([
        {"up_to": tier.up_to}
        | {f"{name}{'_decimal' if isinstance(value, Decimal) else ''}": str(value)
           for name, value in (("unit_amount", tier.unit_amount), ("flat_amount", tier.flat_amount))
           if value is not None}
        for tier in tiers
    ])  # fmt: skip


def _one(conn: psycopg.Connection, statement: LiteralString, values: list[object], kind: str) -> None:
    with conn.transaction():
        if conn.execute(statement, values).rowcount != 1:
            raise WriteError(f"{kind} {values[-1]} does not exist: check the id", code="resource_missing", param=kind)
