"""Which columns of the payments database are copies of the reference database, and whose they are in return.

One owner per row and column: the copier's role alone writes what is named here; the rest of these tables is the app's.
Merchants and products that Stripe owns come with their events, through the ingest's role; a merchant's own products
through the payments' functions. Neither ever touches a row of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

COPIER = "reference_copier"
INGEST = "payments_ingest"
MERCHANTS_OWN = ("name", "active", "tax_code", "unit_label", "url")  # columns of the products they made (trigger)
STRIPES = {"accounts": "account", "products": "product"}  # tables of which Stripe owns rows too, and their kinds


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
# Rows of copied tables that the reference does not own: those of Stripe, and a merchant's own products.
OTHERS = """
exists (select from ingest.versions v where v.object_id = t.id and v.kind in ({kind}, {kind} || ':deleted'))
or exists (select from oltp.events e where e.object_id = t.id and e.type = 'product.created' and {kind} = 'product')
"""
BY_TABLE = {copy.table: copy for copy in COPIES}


def the_references(table: str) -> sql.Composed:
    """` where ...` for rows of `oltp.<table> t` that the reference owns; empty where it owns all."""
    if table not in STRIPES:
        return sql.Composed([])
    return sql.SQL(" where not ({})").format(sql.SQL(OTHERS).format(kind=sql.Literal(STRIPES[table])))
