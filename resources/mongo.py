"""The document store, by URI: a MongoDB, or the embedded wire-compatible server of a developer's machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

MongoKind = Literal["embedded", "sharded", "replicaset", "standalone"]
SELECTION_TIMEOUT_MS = 10_000


class MongoResource(dg.ConfigurableResource):
    """Clients of the document store; without values of its own it reads the settings when first used."""

    uri: str | None = None
    database_name: str | None = None

    @contextmanager
    def client(self) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client that is closed at the end of the block; dates are aware (UTC)."""
        from pymongo import MongoClient

        from stripe_platform.settings import load_settings

        uri = self.uri or load_settings().need("mongodb_uri")
        options: dict[str, Any] = {"tz_aware": True, "appname": "stripe-platform"}
        if "serverselectiontimeoutms" not in uri.lower():  # an argument would win over the URI
            options["serverSelectionTimeoutMS"] = SELECTION_TIMEOUT_MS
        client: MongoClient[dict[str, Any]] = MongoClient(uri, **options)
        with client:
            yield client

    @contextmanager
    def database(self) -> Iterator[Documents]:
        """The deployment's database; writes are acknowledged by a majority and journalled."""
        from pymongo import WriteConcern

        from stripe_platform.settings import load_settings

        with self.client() as client:
            name = self.database_name or load_settings().mongodb_database
            yield client.get_database(name, write_concern=WriteConcern(w="majority", j=True))

    def kind(self) -> MongoKind:
        """What answers at the URI; a version number alone cannot tell an emulator from the real thing."""
        with self.client() as client:
            return mongo_kind(client)


def mongo_kind(client: MongoClient[dict[str, Any]]) -> MongoKind:
    """The kind of server behind a client."""
    build, hello = client.server_info(), client.admin.command("hello")
    if "secantusVersion" in build:
        return "embedded"
    if hello.get("msg") == "isdbgrid":
        return "sharded"
    return "replicaset" if hello.get("setName") else "standalone"
