"""Sources of a deployment's own, from a TOML file (`STRIPE_PLATFORM_SOURCES`): any PostgreSQL database, by name.

    [sources.shop]
    dsn = "SHOP_CDC_DSN"            # names of environment variables; the file holds no secrets
    owner_dsn = "SHOP_OWNER_DSN"    # for `cdc publish` and `cdc snapshot` only
    schema = "public"
    slot = "shop"
    publication = "shop"

    [sources.shop.tables.orders]
    where = "region = 'eu'"
    columns = ["id", "region", "amount"]
    key = ["region", "id"]
    types = {id = "bigint", region = "text", amount = "numeric(12,2)"}  # of a stream without schemas, see below

`types` names every column of a table as `format_type` prints it: for a Debezium stream that brings no schemas, where
the source's catalogue cannot be asked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.cdc import ddl
from stripe_platform.cdc.pgtypes import is_built_in
from stripe_platform.cdc.slot import OPTIONS
from stripe_platform.cdc.source import Source
from stripe_platform.settings import MissingSettingError, Settings

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_KEYS = {"dsn", "owner_dsn", "schema", "slot", "publication", "tables", "calendar"}
_TABLE_KEYS = {"where", "columns", "key", "types"}


class SourceError(RuntimeError):
    """The file of sources cannot be used; the message names source, key and remedy."""


@dataclass(frozen=True)
class Published:
    """What of a table is published: rows where `where` holds, `columns` (empty: all). `types`: by column, where told.
    """

    name: str
    where: str | None = None
    columns: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ConfiguredSource(Source):
    """A source of the file. `dsn`, `owner_dsn`: names of environment variables; `slot`, `publication`: themselves."""

    declared: bool = False
    owner_dsn: str | None = None
    published: tuple[Published, ...] = field(default=(), hash=False)

    def slot_name(self, settings: Settings) -> str:  # noqa: ARG002 - one signature for every source
        return self.slot

    def publication_name(self, settings: Settings) -> str:  # noqa: ARG002
        return self.publication

    def configured(self, settings: Settings) -> bool:
        return settings.variable(self.dsn) is not None

    def conninfo(self, settings: Settings) -> str:
        return self._url(settings, self.dsn)

    def reader_conninfo(self, settings: Settings) -> str:
        return self._url(settings, self.owner_dsn or self.dsn)

    def owner_conninfo(self, settings: Settings) -> str:
        """Connection URL of who owns the tables: publishes them, and reads them for a snapshot."""
        if self.owner_dsn is None:
            raise MissingSettingError(f"source {self.name} has no owner_dsn: name its environment variable in the"
                                      " file of sources")
        return self._url(settings, self.owner_dsn)

    def _url(self, settings: Settings, variable: str) -> str:
        value = settings.variable(variable)
        if value is None:
            raise MissingSettingError(f"{variable} is not set: set it to the connection URL of source {self.name}")
        return value


def load(settings: Settings) -> dict[str, ConfiguredSource]:
    """The sources of the deployment's file by name; none where no file is set. Raises `SourceError`."""
    if settings.sources is None:
        return {}
    try:
        content = tomllib.loads(settings.sources.read_text())
    except OSError as error:
        raise SourceError(f"the file of sources cannot be read ({error.strerror}): set STRIPE_PLATFORM_SOURCES to it"
                          ) from None
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"the file of sources is not TOML: {error}") from None
    return {name: _source(name, entry) for name, entry in content.get("sources", {}).items()}


def find(settings: Settings, name: str, builtin: Mapping[str, Source] | None = None) -> Source:
    """The named source, of the file or of the platform; `SourceError` names those there are."""
    known: dict[str, Source] = {**load(settings), **(builtin or {})}
    if name not in known:
        raise SourceError(f"there is no source {name}: one of {', '.join(sorted(known)) or 'none, the file is empty'}")
    return known[name]


def _source(name: str, entry: Mapping[str, Any]) -> ConfiguredSource:
    if not _NAME.fullmatch(name) or name in ("oltp", "reference", "cdc", "snapshots"):
        raise SourceError(f"source {name!r} cannot be called so: lower-case letters, digits and underscores, 41 at"
                          " most, and no name of the platform's own")
    unknown = sorted(entry.keys() - _KEYS)
    missing = sorted({"dsn", "tables"} - entry.keys())
    if unknown or missing:
        raise SourceError(f"source {name}: " + (f"{unknown[0]} is not known, one of {', '.join(sorted(_KEYS))}"
                                                if unknown else f"{missing[0]} is missing"))
    if "://" in entry["dsn"] or "://" in entry.get("owner_dsn", ""):
        raise SourceError(f"source {name}: dsn names an environment variable, the URL with its secret does not belong"
                          " in the file")
    schema, tables, published = entry.get("schema", "public"), {}, []
    for table, facts in entry["tables"].items():
        if facts.keys() - _TABLE_KEYS:
            raise SourceError(f"source {name}, table {table}: {min(facts.keys() - _TABLE_KEYS)} is not known, one of"
                              f" {', '.join(sorted(_TABLE_KEYS))}")
        if "key" in facts:
            tables[table] = tuple(facts["key"])
        types = {column: kind for column, kind in facts.get("types", {}).items() if column in facts.get(
            "columns", [column])}
        strange = [kind for kind in types.values() if "." not in kind and not is_built_in(kind)]
        if strange:
            raise SourceError(f"source {name}, table {table}: {strange[0]} is no type as `format_type` prints it;"
                              " one of the database's own goes with its schema")
        published.append(Published(table, facts.get("where"), tuple(facts.get("columns", ())), tuple(types.items())))
    return ConfiguredSource(
        name, schema, entry["dsn"], entry.get("slot", f"stripe_platform_{name}"),
        entry.get("publication", f"stripe_platform_{name}"), tables, calendar=entry.get("calendar"),
        folder=f"sources/{name}", owner_dsn=entry.get("owner_dsn"), published=tuple(published))


def publish(settings: Settings, source: ConfiguredSource) -> bool:
    """Create or alter the publication so that it holds exactly the configured tables; whether DDL will be told.

    One transaction: a reader sees the old publication or the new one.
    """
    with psycopg.connect(source.owner_conninfo(settings), options=OPTIONS) as connection, connection.transaction():
        name = sql.Identifier(source.publication)
        listed = sql.SQL(", ").join(_entry(source, each) for each in source.published)
        known = connection.execute("select 1 from pg_publication where pubname = %s", [source.publication]).fetchone()
        generated = ", publish_generated_columns = stored" if connection.info.server_version >= 180_000 else ""
        options = sql.SQL("(publish_via_partition_root = true{})").format(sql.SQL(generated))
        if known is None:
            connection.execute(sql.SQL("create publication {} for table {} with {}").format(name, listed, options))
        else:
            connection.execute(sql.SQL("alter publication {} set table {}").format(name, listed))
            connection.execute(sql.SQL("alter publication {} set {}").format(name, options))
        return ddl.install(connection, source.publication)


def tell(settings: Settings, source: ConfiguredSource) -> None:
    """Say in the log how the published tables are now; after the slot is made, or nobody reads it."""
    with psycopg.connect(source.owner_conninfo(settings), options=OPTIONS) as connection:
        ddl.tell(connection, source.publication)


def _entry(source: ConfiguredSource, each: Published) -> sql.Composed:
    listed = sql.SQL(", ").join(map(sql.Identifier, each.columns))
    columns = sql.SQL(" ({})").format(listed) if each.columns else sql.SQL("")
    # The filter is SQL of who runs the deployment, written in its own file; it runs with the owner's rights.
    where = sql.SQL(" where ({})").format(sql.SQL(each.where)) if each.where else sql.SQL("")
    return sql.SQL("{}{}{}").format(sql.Identifier(*source.place_of(each.name)), columns, where)
