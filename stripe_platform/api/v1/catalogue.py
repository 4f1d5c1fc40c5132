"""/v1/products and /v1/prices."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from stripe_platform.api.errors import ApiError
from stripe_platform.api.front import Call
from stripe_platform.api.params import Params
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import LARGEST_AMOUNT, currency, merged_metadata
from stripe_platform.oltp import catalogue, remarks
from stripe_platform.oltp.happenings import record_event

products = Resource("products")
prices = Resource("prices")
_TAXES = ("exclusive", "inclusive", "unspecified")


@products.writes("/v1/products")
def create_product(call: Call) -> Json:
    """Create a product."""
    params = call.params
    name, active = params.need("name", longest=250), params.boolean("active")
    unit, tax, wanted = params.text("unit_label", longest=12), params.text("tax_code"), params.text("id", longest=255)
    params.ignore("description", "images", "type")
    metadata = params.metadata()
    params.end()
    made = catalogue.create_product(
        call.conn, account_id=call.account, name=name, active=active is not False, tax_code=tax, unit_label=unit,
        product_id=wanted, idempotency=call.idempotency)
    _note(call, "products", made, metadata)
    return call.show("product", made)


@products.reads("/v1/products/{id}")
def retrieve_product(call: Call) -> Json:
    """A product."""
    call.params.end()
    return call.present.render("product", [call.row("product")])[0]


@products.writes("/v1/products/{id}")
def update_product(call: Call) -> Json:
    """Change its name, unit, default price or metadata, or take it off sale."""
    row, params = call.row("product"), call.params
    values: dict[str, Any] = {
        "name": params.text("name", longest=250), "active": params.boolean("active"),
        "unit_label": params.text("unit_label", longest=12), "tax_code": params.text("tax_code"),
        "url": params.text("url", longest=2048)}
    default = params.text("default_price", longest=255)
    if default:
        values["default_price_id"] = call.row("price", default, param="default_price")["id"]
    params.ignore("description", "images")
    metadata = merged_metadata(params, row["metadata"])
    params.end()
    _change(call, "product", row["id"], values, metadata)
    return call.show("product", row["id"])


@products.reads("/v1/products")
def list_products(call: Call) -> Json:
    """Products, newest first."""
    return call.list("product", "active")


@prices.writes("/v1/prices")
def create_price(call: Call) -> Json:
    """Create a price of a product; its amounts never change."""
    params = call.params
    product, inline = params.text("product", longest=255), params.object("product_data")
    code = str(currency(call, params))
    amount = params.integer("unit_amount", low=0, high=LARGEST_AMOUNT)
    fraction = _decimal(params, "unit_amount_decimal")
    recurring = params.object("recurring")
    every: dict[str, Any] = {}
    if recurring is not None:
        every = {"interval": recurring.need("interval", choices=("day", "month", "week", "year")),
                 "interval_count": recurring.integer("interval_count", low=1, high=1095) or 1,
                 "usage_type": recurring.text("usage_type", choices=("licensed", "metered")) or "licensed",
                 "trial_period_days": recurring.integer("trial_period_days", low=1, high=730)}
    said: dict[str, Any] = {"tax_behavior": params.text("tax_behavior", choices=_TAXES) or "unspecified",
                            "nickname": params.text("nickname", longest=250),
                            "lookup_key": params.text("lookup_key", longest=200)}
    params.text("billing_scheme", choices=("per_unit",))
    metadata, active = params.metadata(), params.boolean("active")
    name = inline.need("name", longest=250) if inline else None
    params.end()
    if product:
        call.row("product", product, param="product")
    elif name:
        product = catalogue.create_product(call.conn, account_id=call.account, name=name)
    else:
        raise params.absent("product")
    made = catalogue.create_price(
        call.conn, product_id=product, currency=code, unit_amount=amount, unit_amount_decimal=fraction, **every,
        **said, idempotency=call.idempotency)
    _note(call, "prices", made, metadata)
    if active is False:
        catalogue.set_price_active(call.conn, price_id=made, active=False)
    return call.show("price", made)


@prices.reads("/v1/prices/{id}")
def retrieve_price(call: Call) -> Json:
    """A price."""
    call.params.end()
    return call.present.render("price", [call.row("price")])[0]


@prices.writes("/v1/prices/{id}")
def update_price(call: Call) -> Json:
    """Change its nickname, look-up key or metadata, or take it off sale."""
    row, params = call.row("price"), call.params
    values = {"active": params.boolean("active"), "nickname": params.text("nickname", longest=250),
              "lookup_key": params.text("lookup_key", longest=200),
              "tax_behavior": params.text("tax_behavior", choices=_TAXES)}
    metadata = merged_metadata(params, row["metadata"])
    params.end()
    _change(call, "price", row["id"], values, metadata)
    return call.show("price", row["id"])


@prices.reads("/v1/prices")
def list_prices(call: Call) -> Json:
    """Prices, newest first."""
    return call.list("price", "active", "currency", "product", "type")


def _note(call: Call, table: str, object_id: str, metadata: dict[str, str] | None) -> None:
    if metadata:
        remarks.annotate_object(call.conn, call.ring, table=table, object_id=object_id, subject=call.account,
                                values={"metadata": metadata})


def _change(call: Call, kind: str, object_id: str, values: dict[str, Any], metadata: dict[str, str] | None) -> None:
    changed = {name: value for name, value in values.items() if value is not None}
    if metadata is not None:
        changed["metadata"] = metadata
    if changed:
        remarks.annotate_object(call.conn, call.ring, table=f"{kind}s", object_id=object_id, subject=call.account,
                                values=changed)
        record_event(call.conn, f"{kind}.updated", call.account, kind, object_id, call.event_key)


def _decimal(params: Params, name: str) -> Decimal | None:
    text = params.text(name, longest=26)
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= LARGEST_AMOUNT:
        raise ApiError(400, f"Parameter {name} is a decimal of minor units: correct it.", param=name)
    return value
