"""Servers of the user's own: a connection URL in the environment or `.env` replaces an embedded server."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

import psycopg
from dotenv import dotenv_values

from stripe_platform.embedded.errors import ServerError
from stripe_platform.settings import PROJECT_ROOT


def user_variables() -> dict[str, str]:
    """What the user set: `.env` of the project, overridden by the environment."""
    stored = {name: value for name, value in dotenv_values(PROJECT_ROOT / ".env").items() if value}
    return {**stored, **os.environ}


def url(variables: Mapping[str, str], name: str, own_ports: Collection[int]) -> str | None:
    """A URL that the user set and that does not lead to one of our own ports (`connections.env`, exported)."""
    value = variables.get(name)
    if not value:
        return None
    own = {f"127.0.0.1:{port}" for port in own_ports}
    return None if urlsplit(value).netloc.rpartition("@")[2] in own else value


def replaces(variables: Mapping[str, str], names: Collection[str], own_ports: Collection[int]) -> dict[str, str]:
    """URLs that replace a whole cluster: all of `names`, or none (empty). Some of them is an error."""
    found = {name: value for name in names if (value := url(variables, name, own_ports))}
    missing = sorted(set(names) - set(found))
    if found and missing:
        raise ServerError(
            f"{', '.join(sorted(found))} replaces an embedded database only together with {', '.join(missing)}: set "
            "all of them, or none"
        )
    return found


def check_postgres(urls: Mapping[str, str]) -> str:
    """Version of the user's PostgreSQL; every URL must connect."""
    version = ""
    for name, value in urls.items():
        try:
            with psycopg.connect(value, connect_timeout=10) as connection:
                version = str(connection.info.parameter_status("server_version")).split(" ", 1)[0]
        except psycopg.OperationalError:
            raise ServerError(f"The database of {name} does not accept a connection: start it, correct the variable, "
                              "or unset it to use the embedded one") from None
    return version
