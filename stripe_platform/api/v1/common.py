"""What several families of routes read alike."""

from __future__ import annotations

import json
from typing import Any

from stripe_platform.api.errors import ApiError, missing
from stripe_platform.api.front import Call
from stripe_platform.api.params import METADATA_KEYS, Params

LARGEST_AMOUNT = 999_999_999_999  # twelve digits: no amount is taken for a card number
_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")


def address(params: Params, name: str = "address") -> dict[str, str] | None:
    """An address, its empty fields left out."""
    inner = params.object(name)
    if inner is None:
        return None
    found = {field: inner.text(field, sealed=True) for field in _ADDRESS}
    return {field: value for field, value in found.items() if value}


def merged_metadata(params: Params, stored: str | None) -> dict[str, str] | None:
    """Metadata after an update: named keys change, empty ones go, an empty map clears all. None: not sent."""
    sent = params.metadata()
    if sent is None:
        return None
    if not sent:
        return {}
    merged = {**(json.loads(stored) if stored else {}), **sent}
    merged = {key: value for key, value in merged.items() if value != ""}
    if len(merged) > METADATA_KEYS:
        raise ApiError(400, f"Metadata has at most {METADATA_KEYS} keys: remove some first.", param="metadata")
    return merged


def currency(call: Call, params: Params, *, required: bool = True) -> str | None:
    """A currency in which charges are taken."""
    code = params.text("currency", required=required, longest=3)
    if code is None:
        return None
    code = code.lower()
    if not call.lookups.charged.get(call.conn, code) or call.lookups.currencies.get(call.conn, code) is None:
        raise ApiError(400, "This currency is not supported: see the currencies that have a fee policy.",
                       param="currency")
    return code


def amount(params: Params, name: str = "amount", *, required: bool = True) -> int | None:
    """A positive amount of minor units."""
    value = params.integer(name, required=required)
    if value is None:
        return None
    if value <= 0:
        raise ApiError(400, f"Parameter {name} is above zero: correct it.", code="parameter_invalid_integer",
                       param=name)
    if value > LARGEST_AMOUNT:
        raise ApiError(400, f"Parameter {name} has at most twelve digits: charge less at once.",
                       code="amount_too_large", param=name)
    return value


def own_customer(call: Call, params: Params, *, required: bool = False) -> str | None:
    """The id of a payer of this merchant."""
    customer = params.text("customer", required=required, longest=255)
    if customer is not None and call.lookups.payers.get(call.conn, customer) != call.account:
        raise missing("customer", "customer")
    return customer


def texts(params: Params, *names: str) -> dict[str, Any]:
    """Sealed texts that were sent; an empty one unsets."""
    return {name: params.text(name, sealed=True) for name in names if params.given(name)}
