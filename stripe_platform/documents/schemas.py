"""What a document may look like: one validator and one set of indexes per collection.

The server refuses every field that is not declared here (`additionalProperties: false`) and every text longer than its
cap, so sensitive data cannot slip in beside the model. Money is a 64-bit integer of minor units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stripe_platform.cdc import quarantined

Schema = dict[str, Any]

LOADS, QUARANTINE, STREAMS = "ops_loads", quarantined.COLLECTION, "ops_streams"
CONTROL_COLLECTIONS = (LOADS, QUARANTINE, STREAMS)  # not data: what was loaded, what was refused, how far batches came

STATUSES = ("disputed", "failed", "fraudulent", "pending", "refunded", "succeeded")
SESSION_RETENTION_DAYS = 90
MAX_TEXT, MAX_EVENTS = 4_000, 1_000


@dataclass(frozen=True)
class Index:
    """One index: `keys` as pymongo takes them; `real_only` kinds do not exist on the embedded server (code 67)."""

    name: str
    keys: tuple[tuple[str, int | str], ...]
    unique: bool = False
    expire_after_seconds: int | None = None
    real_only: bool = False

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.expire_after_seconds is not None:
            options["expireAfterSeconds"] = self.expire_after_seconds
        return options


@dataclass(frozen=True)
class Collection:
    """A collection's contract: description, columns as documented, validator, indexes."""

    name: str
    description: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...]
    indexes: tuple[Index, ...]

    @property
    def validator(self) -> Schema:
        return {"$jsonSchema": _object(dict(self.properties), self.required)}


def _object(properties: dict[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    wanted = list(required if required is not None else properties)
    return {"bsonType": "object", "required": wanted, "additionalProperties": False, "properties": properties}


def _text(most: int, description: str = "", *, optional: bool = False, least: int = 0) -> Schema:
    """Text by length only: the embedded server compiles a `pattern` per document, which halves the load."""
    schema: Schema = {"bsonType": ["string", "null"] if optional else "string", "maxLength": most}
    if least:
        schema["minLength"] = least
    if description:
        schema["description"] = description
    return schema


def _one_of(*values: str, description: str = "") -> Schema:
    return {"enum": list(values), **({"description": description} if description else {})}


def _minor(description: str) -> Schema:
    return {"bsonType": "long", "minimum": 0, "description": f"{description}, in minor units of `currency`"}


_DAY = _text(10, "Event day, UTC", least=10)
_DATE: Schema = {"bsonType": "date"}
_COUNTRY = _text(2, optional=True)
_FENCE = _text(120, optional=True)
_ID: Schema = {"bsonType": "string", "maxLength": 64}
_BY_DAY = Index("day_created", (("day", 1), ("created", 1)))

TRANSACTIONS = Collection(
    "transactions",
    "Charges with what the network, the risk engine and later disputes said of them, for reading one by one",
    {
        "_id": {**_ID, "description": "Charge"},
        "day": _DAY,
        "created": _DATE,
        "status": _one_of(*STATUSES, description="Latest known fate of the charge"),
        "amount": _minor("Amount"),
        "amount_captured": _minor("Captured amount"),
        "amount_refunded": _minor("Refunded amount"),
        "currency": _text(3, least=3),
        "customer": _text(64, "Token of the payer"),
        "merchant": _text(64, "Token of the merchant"),
        "payment_intent": _ID,
        "failure_code": _text(80, optional=True),
        "device": _object({"type": _one_of("desktop", "mobile", "pos", "tablet")}),
        "location": _object(
            {
                "ip_country": _COUNTRY,
                "terminal": _text(64, optional=True),
                "country": _COUNTRY,
                "point": {
                    "bsonType": ["object", "null"], "required": ["type", "coordinates"], "additionalProperties": False,
                    "properties": {
                        "type": {"enum": ["Point"]},
                        "coordinates": {"bsonType": "array", "items": {"bsonType": "double"},
                                        "minItems": 2, "maxItems": 2},
                    },
                },
            }),
        "outcome": {
            "bsonType": ["object", "null"], "additionalProperties": False,
            "required": ["type", "network_status", "reason", "risk_level", "risk_score"],
            "properties": {
                "type": _text(40), "network_status": _text(40), "reason": _text(80, optional=True),
                "risk_level": _text(40), "risk_score": {"bsonType": ["int", "null"], "minimum": 0, "maximum": 100},
            },
        },
        "dispute": {
            "bsonType": ["object", "null"], "additionalProperties": False,
            "required": ["id", "reason", "status", "amount", "created"],
            "properties": {
                "id": _ID, "reason": _text(40), "status": _text(40), "amount": _minor("Disputed amount"),
                "created": _DATE,
            },
        },
        "fence": {**_object({"charge": _FENCE, "outcome": _FENCE, "dispute": _FENCE}),
                  "description": "Identity of the newest change applied, per source table"},
    },
    ("_id", "day", "created", "status", "amount", "amount_captured", "amount_refunded", "currency", "customer",
     "merchant", "payment_intent", "failure_code", "device", "location", "outcome", "dispute", "fence"),
    (
        _BY_DAY,
        Index("customer_created", (("customer", 1), ("created", -1))),
        Index("merchant_day", (("merchant", 1), ("day", 1))),
    ),
)

SESSIONS = Collection(
    "sessions",
    "Visits to a merchant's pages: device, country and the clicks in order",
    {
        "_id": {**_ID, "description": "Session"},
        "day": _DAY,
        "customer": _text(64, "Token of the payer", optional=True),
        "merchant": _text(64, "Token of the merchant", optional=True),
        "device": _object({"type": _text(20), "os": _text(40, optional=True), "browser": _text(40, optional=True)}),
        "location": _object({"country": _COUNTRY}),
        "referrer": _text(200, "Address from which the visit came", optional=True),
        "started_at": _DATE,
        "ended_at": _DATE,
        "events": {
            "bsonType": "array", "maxItems": MAX_EVENTS,
            "items": _object({"at": _DATE, "type": _text(40), "page": _text(200, optional=True),
                              "item": _text(64, optional=True)}, ("at", "type", "page")),
        },
        "expires_at": {**_DATE, "description": "When the server sweeps it: counted from the load, not from the visit"},
    },
    ("_id", "day", "customer", "merchant", "device", "location", "started_at", "ended_at", "events", "expires_at"),
    (
        Index("day_started", (("day", 1), ("started_at", 1))),
        Index("customer_started", (("customer", 1), ("started_at", -1))),
        Index("expires", (("expires_at", 1),), expire_after_seconds=0),
    ),
)

CUSTOMER_FEEDBACK = Collection(
    "customer_feedback",
    "What customers wrote and how they rated it; free text is searched for card numbers before it is stored",
    {
        "_id": {**_ID, "description": "Feedback"},
        "day": _DAY,
        "customer": _text(64, "Token of the payer", optional=True),
        "merchant": _text(64, "Token of the merchant", optional=True),
        "charge": _text(64, optional=True),
        "rating": {"bsonType": "int", "minimum": 1, "maximum": 5},
        "channel": _text(40),
        "kind": _one_of("review", "survey"),
        "language": _text(8, optional=True),
        "text": _text(MAX_TEXT, optional=True),
        "created": _DATE,
    },
    ("_id", "day", "customer", "merchant", "charge", "rating", "channel", "text", "created"),
    (
        _BY_DAY,
        Index("merchant_rating", (("merchant", 1), ("rating", 1))),
        Index("text", (("text", "text"),), real_only=True),
    ),
)

_BOOL: Schema = {"bsonType": "bool"}
_DELETED = {**_BOOL, "description": "Gone at the source; kept, because others name it"}
_ROW_FENCE = {**_object({"row": _text(120)}), "description": "Identity of the newest change applied"}


def _served(name: str, description: str, properties: dict[str, Schema], *indexes: Index) -> Collection:
    """A collection of reference rows: every field there, also where it is null."""
    every = {"_id": {"bsonType": "string", "maxLength": 255}, **properties, "deleted": _DELETED, "fence": _ROW_FENCE}
    return Collection(name, description, every, tuple(every), indexes)


MERCHANTS = _served(
    "merchants", "Who a merchant is; whether it may charge is the payments database's",
    {
        "token": _text(64, "Name under which transactions know the merchant"), "type": _text(40, optional=True),
        "country": _COUNTRY, "currency": _text(3, optional=True), "business_type": _text(40, optional=True),
        "mcc": _text(4, "Merchant category code", optional=True), "name": _text(1_000, optional=True),
        "url": _text(2_000, optional=True), "created": {"bsonType": ["date", "null"]},
    },
    Index("token", (("token", 1),), unique=True), Index("country_mcc", (("country", 1), ("mcc", 1))))
PRODUCTS = _served(
    "products", "Product catalogue",
    {
        "merchant": _text(255, "The merchant's `_id`", optional=True), "name": _text(1_000, optional=True),
        "category": _text(200, optional=True), "type": _text(40, optional=True), "active": _BOOL,
        "tax_code": _text(40, optional=True), "unit_label": _text(40, optional=True),
        "shippable": {"bsonType": ["bool", "null"]}, "url": _text(2_000, optional=True),
        "statement_descriptor": _text(40, optional=True), "livemode": _BOOL,
        "created": {"bsonType": ["date", "null"]},
    },
    Index("merchant_active", (("merchant", 1), ("active", 1))), Index("category", (("category", 1),)))
CURRENCY_EXCHANGE_RATES = _served(
    "currency_exchange_rates", "Daily exchange rates: major units of `to` for one of `from`, exact",
    {"day": _DAY, "from": _text(3, least=3), "to": _text(3, least=3), "rate": {"bsonType": "decimal"}},
    Index("pair_day", (("from", 1), ("to", 1), ("day", -1))))
COUNTRY_REGION_CODES = _served(
    "country_region_codes", "Countries with their region and currency",
    {"name": _text(200), "region": _text(40), "currency": _text(3, least=3)}, Index("region", (("region", 1),)))

_LOADS = Collection(
    LOADS, "Which source of which day is fully in a collection",
    {
        "_id": _text(160), "collection": _text(40), "day": _DAY, "digest": _text(64),
        "rows": {"bsonType": ["int", "long"]}, "quarantined": {"bsonType": ["int", "long"]}, "loaded_at": _DATE,
    },
    ("_id", "collection", "day", "digest", "rows", "quarantined", "loaded_at"),
    (Index("collection_day", (("collection", 1), ("day", 1)), unique=True),),
)

_QUARANTINE = Collection(
    QUARANTINE, "Records that were refused: where they stand and which rule they broke, never their values",
    {
        "_id": _text(400), "collection": _text(40), "day": _DAY, "record": _text(300), "rule": _text(60),
        "reason": _text(300), "seen_at": _DATE,
        "key": _text(300, "Of a document that the change log feeds"), "source": _text(60),
        "fence": _text(120, "Identity of its newest change that does not stand"),
    },
    ("_id", "collection", "day", "record", "rule", "reason", "seen_at"),
    (Index("collection_day", (("collection", 1), ("day", 1))),),
)

DATA = {c.name: c for c in (TRANSACTIONS, SESSIONS, CUSTOMER_FEEDBACK, MERCHANTS, PRODUCTS, CURRENCY_EXCHANGE_RATES,
                            COUNTRY_REGION_CODES)}
_STREAMS = Collection(
    STREAMS, "Up to which batch of the change log a collection is: `applying` differs from `done` in the middle of it",
    {"_id": _text(40), "done": {"bsonType": ["int", "long"]}, "applying": {"bsonType": ["int", "long"]}, "at": _DATE},
    ("_id", "done", "applying", "at"), (),
)

EVERY = (*DATA.values(), _LOADS, _QUARANTINE, _STREAMS)
