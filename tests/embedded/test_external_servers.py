"""Servers of the user's own, named by a connection URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stripe_platform.embedded import documents, external
from stripe_platform.embedded.errors import ServerError

OLTP = ("STRIPE_PLATFORM_OLTP_OWNER_DSN", "STRIPE_PLATFORM_OLTP_DSN", "STRIPE_PLATFORM_CDC_DSN")


def test_a_url_that_up_wrote_itself_is_not_the_users() -> None:
    variables = {"MONGODB_URI": "mongodb://127.0.0.1:15001/?directConnection=true"}
    assert external.url(variables, "MONGODB_URI", {15001}) is None
    assert external.url(variables, "MONGODB_URI", {15002}) == variables["MONGODB_URI"]


def test_a_cluster_is_replaced_by_all_of_its_urls_or_none() -> None:
    assert external.replaces({}, OLTP, ()) == {}
    with pytest.raises(ServerError, match="only together with STRIPE_PLATFORM_CDC_DSN, STRIPE_PLATFORM_OLTP_OWNER"):
        external.replaces({"STRIPE_PLATFORM_OLTP_DSN": "postgresql://user:hidden@db/oltp"}, OLTP, ())


def test_a_database_that_does_not_answer_is_one_sentence_without_its_password() -> None:
    with pytest.raises(ServerError, match="STRIPE_PLATFORM_OLTP_DSN does not accept a connection") as caught:
        external.check_postgres({"STRIPE_PLATFORM_OLTP_DSN": "postgresql://user:hidden@127.0.0.1:1/oltp"})
    assert "hidden" not in str(caught.value)


def test_a_mongodb_that_does_not_answer_is_one_sentence_without_its_password() -> None:
    with pytest.raises(ServerError, match="MONGODB_URI does not answer") as caught:
        documents.check_external("mongodb://user:hidden@127.0.0.1:1/", seconds=0.2)
    assert "hidden" not in str(caught.value)


def test_servers_that_answer_tell_their_version(servers: Any) -> None:
    assert documents.check_external(servers.url("MONGODB_URI"))
    assert external.check_postgres({name: servers.url(name) for name in OLTP}).startswith("18.")


def test_a_mongod_that_is_not_there_is_named(tmp_path: Path, servers: Any) -> None:
    from stripe_platform.embedded import places

    place = places.find(servers.home)
    assert place is not None
    with pytest.raises(ServerError, match="MONGOD_BIN names"):
        documents.choose(place, 15001, {"MONGOD_BIN": str(tmp_path / "mongod")})


@pytest.mark.parametrize(("gigabytes", "cache"), [(2, "512M"), (12, "2048M"), (24, "4096M"), (512, "4096M")])
def test_the_document_servers_cache_is_a_share_of_the_memory_within_bounds(monkeypatch, gigabytes, cache):
    of_machine = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gigabytes << 18}
    monkeypatch.setattr(documents.os, "sysconf", of_machine.__getitem__)
    assert f"{documents._cache_mb()}M" == cache
