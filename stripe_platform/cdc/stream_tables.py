"""With which version of its table an event is read: as its schema, the catalogues and its row tell.

A declared table is as its declaration. Any other is described by the event's own schema, where that comes along; else
by what is known of the columns that its row names: the source's catalogue, the file of sources, the lake's versions.
Types are never guessed: what nobody knows is refused with a remedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stripe_platform.cdc.catalogue import ColumnVersion, TableVersion
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.debezium_schemas import described, encodings
from stripe_platform.cdc.debezium_schemas import names as names_of
from stripe_platform.cdc.debezium_values import Encoding, ValueRefusedError
from stripe_platform.cdc.pgtypes import FIRST_USER_OID

Name = tuple[str, str]  # schema, table
REMEMBERED = 8  # schemas of a table: partitions may be at different ones


class RefusedTableError(ValueError):
    """An event's table cannot be described; the message names table, rule and remedy, and no value."""


@dataclass(frozen=True)
class Described:
    """A table as the source's catalogue has it now; `optional`: columns that a stream may leave out."""

    version: TableVersion
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Form:
    """How the rows of a table come: `names` of its version's columns in the rows; `encodings` by those, where told."""

    version: TableVersion
    names: tuple[str, ...]
    encodings: Mapping[str, Encoding] = field(default_factory=dict)


@dataclass
class Tables:
    """The tables of one stream. `given`: what is known of them beforehand; `strict`: that is what they are.

    `lake`: what the lake has of them, newest first; `ask`: answers from the source's catalogue, None where it cannot
    or does not have the table; `keys`: by table, where somebody declared what names a row.
    """

    given: Mapping[Name, TableVersion]
    encoding: Encoding
    strict: bool = True
    lake: Mapping[Name, list[TableVersion]] = field(default_factory=dict)
    ask: Callable[[str, str], Described | None] | None = None
    keys: Mapping[Name, tuple[str, ...]] = field(default_factory=dict)
    _newest: dict[Name, Form] = field(default_factory=dict)
    _by_schema: dict[Name, list[tuple[Any, tuple[str, ...], Form]]] = field(default_factory=dict)
    _by_row: dict[tuple[Name, tuple[str, ...]], Form] = field(default_factory=dict)
    _answers: dict[Name, Described | None] = field(default_factory=dict)
    _asked: set[tuple[Name, str]] = field(default_factory=set)

    def form(self, table: Name, schema: Any, key: tuple[str, ...], row: Mapping[str, Any] | None) -> Form | None:
        """The form of an event. `schema`: the one it brought; `key`: names in its key; `row`: None where it has none.

        None for a table of which nothing came yet and nothing is known, and `row` is None. `RefusedTableError`.
        """
        if self.strict and table in self.given:
            return self._declared(table, schema)
        if row is None and not (schema and key):
            return self._without_row(table)
        found = self._of_row(table, tuple(row or ())) if schema is None else self._of_schema(table, schema, key)
        self._newest[table] = found
        return found

    def _without_row(self, table: Name) -> Form | None:
        if table not in self._newest:
            known = self._known(table, fresh=False)
            if known is None:
                return None
            self._newest[table] = _plain(known)
        return self._newest[table]

    def other(self, table: Name, rule: str) -> bool:
        """Whether the source's catalogue has the table otherwise than it had; each rule that a value broke asks once.
        """
        if self.strict or self.ask is None or (table, rule) in self._asked:
            return False
        self._asked.add((table, rule))
        before = self._answers.get(table)
        self._known(table, fresh=True)
        if self._answers.get(table) == before:
            return False
        self._by_row = {place: form for place, form in self._by_row.items() if place[0] != table}
        return True

    def _declared(self, table: Name, schema: Any) -> Form:
        version = self.given[table]
        if schema is None:
            return self._remembered(table, None, (), lambda: _plain(version))
        return self._remembered(table, schema, (), lambda: Form(
            version, tuple(c.name for c in version.columns), encodings(schema, self.encoding)))

    def _of_schema(self, table: Name, schema: Any, key: tuple[str, ...]) -> Form:
        return self._remembered(table, schema, key, lambda: self._described(table, schema, key))

    def _remembered(self, table: Name, schema: Any, key: tuple[str, ...], make: Callable[[], Form]) -> Form:
        """Compared, not hashed: a schema is most of its event, and nearly always the one before."""
        entries = self._by_schema.setdefault(table, [])
        for entry in entries:
            if entry[0] == schema and entry[1] == key:
                return entry[2]
        entries.insert(0, (schema, key, make()))
        del entries[REMEMBERED:]
        return entries[0][2]

    def _described(self, table: Name, schema: Any, key: tuple[str, ...]) -> Form:
        known = self._known(table, fresh=True)
        named = self.keys.get(table, known.key if known is not None else ())
        strange = sorted({*self.keys.get(table, ())} - {landed(name) for name in names_of(schema)})
        if strange:
            raise RefusedTableError(f"{'.'.join(table)} has no column {strange[0]}: correct its key in the file of"
                                    " sources")
        identity = known.identity if known is not None else "d" if key else "f"
        if not (key or named or identity == "f"):
            raise RefusedTableError(f"{'.'.join(table)} has events without a key: give it a primary key, or set"
                                    " `replica identity full`")
        try:
            version = described(*table, key, schema, lambda name: list(self._columns(table, name)),
                                number=known.oid if known is not None else None, identity=identity, named=named)
        except ValueRefusedError as error:
            raise RefusedTableError(f"{'.'.join(table)}: {error}") from None
        return Form(version, names_of(schema), encodings(schema, self.encoding))

    def _of_row(self, table: Name, names: tuple[str, ...]) -> Form:
        found = self._by_row.get((table, names))
        if found is None:
            found = self._by_row[table, names] = self._shaped(table, names)
        return found

    def _shaped(self, table: Name, names: tuple[str, ...]) -> Form:
        """The table as of a row with these columns: the one that is known, or an older one of it."""
        known = self._known(table, fresh=True)
        if known is None:
            raise RefusedTableError(
                f"{'.'.join(table)} is in no catalogue and its events bring no schema: set"
                " value.converter.schemas.enable=true, or the source's dsn, or name its types in the file of sources;"
                " types are not guessed")
        own = {landed(name): name for name in names}
        if own.keys() == {c.name for c in known.columns}:
            return Form(known, tuple(own[c.name] for c in known.columns))
        columns = {name: next(self._columns(table, name), None) for name in own}
        strange = sorted(name for name, column in columns.items() if column is None)
        if strange:
            raise RefusedTableError(
                f"{known.qualified} has the column {own[strange[0]]} that the catalogue does not know: bring the"
                " catalogue up to date, or set value.converter.schemas.enable=true, then read again")
        present = [column for column in columns.values() if column is not None]
        self._refuse_left_out(table, known, present)
        key = tuple(name for name in known.key if name in own)
        version = dataclasses.replace(known, key=key, columns=tuple(
            dataclasses.replace(c, in_key=c.name in key) for c in present))
        return Form(version, tuple(own[c.name] for c in version.columns))

    def _refuse_left_out(self, table: Name, known: TableVersion, present: list[ColumnVersion]) -> None:
        """A row lacks columns that are younger than all it has; others the connector left out."""
        answer = self._answers.get(table)
        youngest = max((c.number for c in present if c.number is not None), default=None)
        for column in known.columns:
            younger = (youngest is not None and column.number is not None and column.number > youngest
                       and column.oid < FIRST_USER_OID)
            if column in present or younger or column.name in (answer.optional if answer else ()):
                continue
            if not any(c.name == column.name for c in present):
                raise RefusedTableError(
                    f"an event of {known.qualified} lacks the column {column.name}: set"
                    " include.unknown.datatypes=true, or leave the column out of the publication")

    def _known(self, table: Name, *, fresh: bool) -> TableVersion | None:
        """What is known of a table as it is now; `fresh`: asked again."""
        if self.ask is not None and (fresh or table not in self._answers):
            self._answers[table] = self.ask(*table)
        answer = self._answers.get(table)
        return answer.version if answer is not None else next(self._versions(table), None)

    def _versions(self, table: Name) -> Iterator[TableVersion]:
        answer = self._answers.get(table)
        if answer is not None:
            yield answer.version
        if table in self.given:
            yield self.given[table]
        yield from self.lake.get(table, ())

    def _columns(self, table: Name, name: str) -> Iterator[ColumnVersion]:
        """What is known of a column, best first."""
        for version in self._versions(table):
            column = version.column(name)
            if column is not None:
                yield column


def _plain(version: TableVersion) -> Form:
    return Form(version, tuple(c.name for c in version.columns))
