"""The catalogue in the lake: every version of every captured table, so that the change log describes itself.

`cdc/schemas/<schema_id>.json` is durable before the manifest whose files name it. What a reader needs to know of a
table (`Shape`: key, columns, types) comes from here; tables that this release declares keep their declaration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from resources.lake import Lake
from stripe_platform import keys
from stripe_platform.cdc import columns as values
from stripe_platform.cdc.manifest import Chain, ChainError, canonical
from stripe_platform.cdc.pgoutput import Relation
from stripe_platform.cdc.source import OLTP
from stripe_platform.oltp.schema import load_schema

FOLDER = "cdc/schemas"
CIPHERTEXT = "_ciphertext"  # columns that end so stay in the change log, whatever the source
RENAMES = "cdc/renames"


class CatalogueError(ChainError):
    """A table cannot be described, or its versions cannot be followed; the message names it and the remedy."""


@dataclass(frozen=True)
class ColumnVersion:
    """One column: `type` as PostgreSQL prints it with its modifier, `in_key`: one of those that name a row.

    `number`: the source's own number of the column, which outlives a rename; `missing`: text of the value that rows
    older than the column have. Both None where the source did not tell. `told`: that `missing` is sure, though the
    number is not known.
    """

    name: str
    type: str
    oid: int
    in_key: bool
    number: int | None = None
    missing: str | None = None
    told: bool | None = None

    @property
    def arrow(self) -> pa.DataType:
        return values.arrow_type_of(self.oid, in_key=self.in_key)


@dataclass(frozen=True)
class TableVersion:
    """A table as of one stretch of the log. `key`: what names a row, in key order; empty where nothing does.

    `identity`: the replica identity d(efault), f(ull), i(ndex) or n(othing). `oid`: the table's at the source, another
    one where a table was dropped and made again under the same name.
    """

    schema: str
    table: str
    oid: int
    identity: str
    key: tuple[str, ...]
    columns: tuple[ColumnVersion, ...]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.table}"

    @cached_property
    def encoded(self) -> bytes:
        content = dataclasses.asdict(self)
        content["columns"] = [{k: v for k, v in c.items() if v is not None} for c in content["columns"]]
        return canonical(content)

    @cached_property
    def schema_id(self) -> str:
        """Identity of the version: equal content, equal id."""
        return hashlib.sha256(self.encoded).hexdigest()[:16]

    def column(self, name: str) -> ColumnVersion | None:
        return next((c for c in self.columns if c.name == name), None)


def path_of(schema_id: str) -> str:
    return f"{FOLDER}/{schema_id}.json"


def decode(data: bytes) -> TableVersion:
    """A version of its JSON."""
    content: dict[str, Any] = json.loads(data)
    content |= {"key": tuple(content["key"]), "columns": tuple(ColumnVersion(**c) for c in content["columns"])}
    return TableVersion(**content)


def read(lake: Lake, schema_id: str) -> TableVersion:
    """One version; `CatalogueError` when its file does not hold what it is named after."""
    version = decode(lake.read(path_of(schema_id)))
    if version.schema_id != schema_id:
        raise CatalogueError(f"{path_of(schema_id)} is not what it is named after: restore it from a backup")
    return version


@dataclass(frozen=True)
class Details:
    """What the source's catalogue knows of a table beyond its Relation message: key in key order, by column its number
    and the value that older rows have.
    """

    key: tuple[str, ...] = ()
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    told: frozenset[str] = frozenset()  # columns without a number whose `missing` is sure all the same


def version_of(relation: Relation, details: Details) -> TableVersion:
    """The version that a Relation message describes, with what else is known of the table."""
    named = tuple(c.name for c in relation.columns if c.in_key) if relation.identity in "di" else ()
    # Deletes carry the replica identity and nothing else: of another key only the order of its columns can be taken.
    key = details.key if details.key and (not named or set(named) == set(details.key)) else named
    return TableVersion(relation.schema, relation.table, relation.oid, relation.identity, key, tuple(
        ColumnVersion(c.name, c.type, c.oid, c.name in key, details.numbers.get(c.name), details.missing.get(c.name),
                      True if c.name in details.told else None)
        for c in relation.columns))


@dataclass(frozen=True)
class Lineage:
    """A table's versions in log order, neighbours differ; `ordinals`: number (from 1) of each batch file's version.

    `renames`: what somebody declared of a step, old to new names, by the ordinal of its later version.
    """

    table: str
    versions: tuple[TableVersion, ...]
    ordinals: Mapping[str, int]
    renames: Mapping[int, Mapping[str, str]]

    @classmethod
    def load(cls, lake: Lake, chain: Chain, table: str) -> Lineage:
        """Walk the chain; batches of releases without a catalogue have ordinal 0."""
        found: list[TableVersion] = []
        ordinals: dict[str, int] = {}
        for manifest in chain.manifests:
            for file in manifest.files_of(table):
                if file.schema_id and (not found or found[-1].schema_id != file.schema_id):
                    found.append(read(lake, file.schema_id))
                ordinals[file.path] = len(found)
        declared = {path: json.loads(lake.read(path)) for path in (lake.list(RENAMES) if len(found) > 1 else ())}
        renames = {n + 1: names for n in range(1, len(found))
                   if (names := declared.get(renames_path(found[n - 1], found[n]))) is not None}
        return cls(table, tuple(found), ordinals, renames)


def renames_path(before: TableVersion, after: TableVersion) -> str:
    return f"{RENAMES}/{before.schema_id}-{after.schema_id}.json"


def declare_renames(lake: Lake, before: TableVersion, after: TableVersion, renames: Mapping[str, str]) -> None:
    """Say what a step between two versions was: old to new names; none where columns went and others came."""
    for old, new in renames.items():
        if before.column(old) is None or after.column(new) is None:
            raise CatalogueError(f"{after.qualified} has no step from column {old} to {new}: correct the names")
    lake.put(renames_path(before, after), canonical(dict(renames)))


def versions(lake: Lake, table: str, *, chain: Chain | None = None) -> list[TableVersion]:
    """Every version of a table in log order."""
    return list(Lineage.load(lake, chain or Chain.load(lake), table).versions)


def newest(lake: Lake, chain: Chain, table: str) -> TableVersion:
    """A table as its newest batch has it; `CatalogueError` where no batch describes it."""
    for manifest in reversed(chain.manifests):
        described = [f.schema_id for f in manifest.files_of(table) if f.schema_id]
        if described:
            return read(lake, described[-1])
    raise CatalogueError(f"no batch describes {table}: capture a change of it first, or correct the name")


def all_versions(lake: Lake) -> list[TableVersion]:
    """Every version in the lake, of whatever table, in no order."""
    return [decode(lake.read(path)) for path in lake.list(FOLDER)]


def tables(chain: Chain) -> list[str]:
    """Names of all tables with changes, sorted."""
    return sorted({file.table for manifest in chain.manifests for file in manifest.files})


@dataclass(frozen=True)
class Shape:
    """What readers need of a table: its key, and of each column (name, Arrow type, PostgreSQL type).

    `declared`: one of this release's own tables, whose shape is its declaration.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, pa.DataType, str], ...]
    declared: bool

    @property
    def schema(self) -> pa.Schema:
        """Columns of its change files."""
        return pa.schema([*((name, arrow) for name, arrow, _type in self.columns), *values.ENVELOPE])

    @property
    def hidden(self) -> frozenset[str]:
        """Columns that no layer behind the change log has."""
        return frozenset(name for name, *_types in self.columns if name.endswith(CIPHERTEXT))

    @property
    def open_columns(self) -> list[tuple[str, str]]:
        """(name, PostgreSQL type) of the columns that travel on."""
        return [(name, kind) for name, _arrow, kind in self.columns if name not in self.hidden]


def declared(table: str) -> Shape:
    """The shape of one of this release's own tables."""
    return Shape(table, keys.TABLES[table].key, tuple(
        (c.name, values.BY_NAME.get(c.type, pa.string()), c.type) for c in load_schema()[table].columns), True)


def described(table: str, version: TableVersion) -> Shape:
    """The shape of a table by a version of the catalogue."""
    return Shape(table, version.key, tuple((c.name, c.arrow, c.type) for c in version.columns), False)


def is_declared(chain: Chain | None, table: str) -> bool:
    """Whether a table of this chain is one that the release declares: only the payments database's are."""
    own = chain is None or not chain.manifests or chain.manifests[0].source == OLTP.name
    return own and table in keys.TABLES


def shape_of(lake: Lake, chain: Chain | None, table: str) -> Shape:
    """A table's shape: its declaration where there is one, else its newest version in the catalogue."""
    if chain is None or is_declared(chain, table):
        return declared(table)
    return described(table, newest(lake, chain, table))


class Registrar:
    """Names the version of every relation of one capture, and makes those durable that the lake does not know."""

    def __init__(self, lake: Lake, describe: Callable[[Relation], Details]) -> None:
        self._lake, self._describe = lake, describe
        self._versions: dict[Relation, TableVersion] = {}
        self._known: set[str] | None = None

    def version_of(self, relation: Relation) -> TableVersion:
        """The relation's version, the same object for the same relation."""
        if relation not in self._versions:
            self._versions[relation] = version_of(relation, self._describe(relation))
        return self._versions[relation]

    def save(self) -> None:
        """Make every version named so far durable; must come before the manifest that names it."""
        if self._known is None:
            self._known = {path.rpartition("/")[2].removesuffix(".json") for path in self._lake.list(FOLDER)}
        new = {v.schema_id: v for v in self._versions.values() if v.schema_id not in self._known}
        moves = {}
        for schema_id, version in new.items():
            moves[path_of(schema_id)] = local = self._lake.scratch() / "capture" / f"{schema_id}.json"
            local.write_bytes(version.encoded)
        if moves:
            self._lake.put_files(moves)
        self._known |= new.keys()
