"""Which columns of the payments database are copies of the reference database, and whose they are in return.

One owner per column: the copier's role alone writes what is named here; the rest of these tables is the app's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COPIER = "reference_copier"


@dataclass(frozen=True)
class Copy:
    """`oltp.<table>` from `reference.<origin>`: target column by source column, the key first.

    `retires`: a row deleted at the source stays as `deleted`, because others name it; else it is deleted too.
    """

    table: str
    origin: str
    key: tuple[str, ...]
    columns: Mapping[str, str]
    retires: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the copy that the source owns."""
        return tuple(self.columns.values())


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


# Parents first.
COPIES = (
    Copy("currencies", "currencies", ("code",),
         _same("code", "name", "stripe_exponent", "iso_exponent", "payout_multiple", "deleted")),
    Copy("countries", "countries", ("code",), _same("code", "name", "region", "currency", "deleted")),
    Copy("exchange_rates", "exchange_rates", ("day", "from_currency", "to_currency"),
         _same("day", "from_currency", "to_currency", "rate"), retires=False),
    Copy("accounts", "merchants", ("id",),
         _same("id", "type", "country", "default_currency", "business_type", "mcc", "name", "url", "token", "deleted",
               "created")),
    Copy("products", "products", ("id",),
         _same("id") | {"merchant_id": "account_id"} | _same(
             "name", "category", "type", "active", "tax_code", "unit_label", "shippable", "url",
             "statement_descriptor", "livemode", "deleted", "created")),
)
BY_TABLE = {copy.table: copy for copy in COPIES}
