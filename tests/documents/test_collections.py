"""Collections are as declared, on whatever server stands behind the URI."""

from __future__ import annotations

import datetime as dt

import pytest
from pymongo.errors import WriteError

from resources.mongo import MongoResource
from stripe_platform import keys
from stripe_platform.documents.schemas import CONTROL_COLLECTIONS, DATA
from stripe_platform.documents.setup import ensure_collections

pytestmark = pytest.mark.servers


def test_collections_are_the_asset_keys_and_the_control_ones(database):
    assert set(database.list_collection_names()) == {*keys.COLLECTIONS, *CONTROL_COLLECTIONS}
    assert set(DATA) == set(keys.COLLECTIONS)


def test_set_up_twice_is_harmless_and_brings_a_lost_index_and_validator_back(database):
    database.transactions.drop_index("merchant_day")
    database.command("collMod", "transactions", validator={})
    again = ensure_collections(database)
    assert "transactions" in again.collections
    names = {index["name"] for index in database.transactions.list_indexes()}
    assert names == {"_id_", "day_created", "customer_created", "merchant_day"}
    with pytest.raises(WriteError):
        database.transactions.insert_one({"_id": "ch_1"})


def test_an_index_the_server_cannot_build_is_reported_not_hidden(database):
    missing = ensure_collections(database).indexes_not_available
    standing = {index["name"] for index in database.customer_feedback.list_indexes()}
    assert ("customer_feedback.text" in missing) != ("text" in standing)


def test_an_undeclared_field_is_refused_by_the_server(database):
    good = {"_id": "fb_1", "day": "2026-06-01", "customer": None, "merchant": None, "charge": None, "rating": 5,
            "channel": "web", "text": None, "created": dt.datetime(2026, 6, 1, tzinfo=dt.UTC)}
    database.customer_feedback.insert_one(good)
    with pytest.raises(WriteError) as refused:
        database.customer_feedback.insert_one(good | {"_id": "fb_2", "email": "a@b.test"})
    assert refused.value.code == 121


def test_the_kind_of_server_is_told_by_what_answers(mongo):
    assert MongoResource().kind() in ("embedded", "replicaset", "sharded", "standalone")
