"""Collections as declared: created, or brought up to date; twice is harmless."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stripe_platform.documents.schemas import EVERY, Collection

if TYPE_CHECKING:
    from pymongo.database import Database

CANNOT_CREATE_INDEX, INDEX_OPTIONS_CONFLICT, NAMESPACE_EXISTS = 67, 85, 48
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetupReport:
    """What stands, and which declared indexes this server cannot build (`collection.index`)."""

    collections: tuple[str, ...]
    indexes_not_available: tuple[str, ...]


def ensure_collections(db: Database[dict[str, Any]]) -> SetupReport:
    """Create or update every declared collection, validator and index."""
    existing = set(db.list_collection_names())
    missing: list[str] = []
    for collection in EVERY:
        _ensure_validator(db, collection, exists=collection.name in existing)
        missing += _ensure_indexes(db, collection)
    if missing:
        log.info("this document server cannot build %s: searches by it need a MongoDB", ", ".join(missing))
    return SetupReport(tuple(c.name for c in EVERY), tuple(missing))


def _ensure_validator(db: Database[dict[str, Any]], collection: Collection, *, exists: bool) -> None:
    from pymongo.errors import CollectionInvalid, OperationFailure

    rules: dict[str, Any] = {"validator": collection.validator, "validationLevel": "strict",
                             "validationAction": "error"}
    if not exists:
        try:
            db.create_collection(collection.name, **rules)
        except CollectionInvalid:
            exists = True  # another run created it a moment ago
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS:
                raise
            exists = True
    if exists:
        db.command("collMod", collection.name, **rules)


def _ensure_indexes(db: Database[dict[str, Any]], collection: Collection) -> list[str]:
    from pymongo.errors import OperationFailure

    refused = []
    for index in collection.indexes:
        try:
            db[collection.name].create_index(list(index.keys), **index.options())
        except OperationFailure as error:
            if not (index.real_only and error.code == CANNOT_CREATE_INDEX):
                raise
            refused.append(f"{collection.name}.{index.name}")
    return refused
