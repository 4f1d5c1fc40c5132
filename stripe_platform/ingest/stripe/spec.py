"""How a kind of Stripe object becomes rows: declarations only, read by `mapping`.

A path is dotted; `@name` is a fact of the delivery (the account it came for, the object it came inside of), `$name`
one that the kind's `derive` made. The first path that holds something wins, so that a field may name all its forms
since 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stripe_platform.ingest.stripe import values

Json = dict[str, Any]
Converter = Callable[[Any, str], Any]
OBJECT, DELIVERY, DERIVED = 0, 1, 2
Derive = Callable[[Json, Mapping[str, Any]], Json]


@dataclass(frozen=True)
class Field:
    """One column: where its value stands, how it is read, and what happens when it cannot be."""

    column: str
    convert: Converter
    paths: tuple[tuple[str, ...], ...]
    parent: str | None = None  # table this column refers to
    default: Any = None
    sticky: bool = False  # a later version without it does not take it away
    sealed: bool = False
    state: bool = False  # an unknown value is no description to drop: the object is kept apart
    currency: bool = False
    money: bool = False
    steps: tuple[tuple[int, str, tuple[str, ...], tuple[str, ...]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Where to look, ready to walk: source (object, delivery, derived), first name, further names, the path."""
        steps = tuple(({"@": DELIVERY, "$": DERIVED}.get(path[0][0], OBJECT), path[0].lstrip("@$"), path[1:], path)
                      for path in self.paths)  # fmt: skip
        object.__setattr__(self, "steps", steps)


def _paths(column: str, paths: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((path,) if path[0] == "@" else tuple(path.split(".")) for path in (paths or (column,)))


def of(column: str, convert: Converter, *paths: str, default: Any = None, sticky: bool = False) -> Field:
    """A column read by a converter."""
    return Field(column, convert, _paths(column, paths), default=default, sticky=sticky)


def text(column: str, *paths: str) -> Field:
    return of(column, values.text, *paths)


def word(column: str, *paths: str, default: str | None = None) -> Field:
    return of(column, values.word, *paths, default=default)


def ident(column: str, *paths: str) -> Field:
    """The id of an object without a foreign key here."""
    return of(column, values.ident, *paths)


def ref(column: str, parent: str, *paths: str, sticky: bool = False, convert: Converter = values.ident) -> Field:
    """A relation: null and queued until its other end stands."""
    return Field(column, convert, _paths(column.removesuffix("_id"), paths), parent=parent, sticky=sticky)


def flag(column: str, *paths: str, default: bool | None = None) -> Field:
    return of(column, values.flag, *paths, default=default)


def at(column: str, *paths: str) -> Field:
    return of(column, values.instant, *paths)


def money(column: str, *paths: str, signed: bool = False, default: int | None = None) -> Field:
    convert = values.money if signed else values.unsigned
    return Field(column, convert, _paths(column, paths), default=default, money=True)


def currency(column: str, *paths: str) -> Field:
    return Field(column, values.word, _paths(column, paths), currency=True)


def country(column: str, *paths: str) -> Field:
    """A relation to `countries`: codes are upper case, and one that is unknown is drift."""
    return Field(column, values.word, _paths(column, paths), parent="countries")


def state(column: str, *allowed: str, paths: tuple[str, ...] = ()) -> Field:
    """A state out of a closed list: what a state machine stands on."""
    return Field(column, values.one_of(*allowed), _paths(column, paths), state=True)


def sealed(column: str, *paths: str) -> Field:
    """Personal data or free text; the column is `<column>_ciphertext`."""
    return Field(f"{column}_ciphertext", values.secret, _paths(column, paths), sealed=True)


METADATA = sealed("metadata")
LIVEMODE = flag("livemode", default=False)
CREATED = at("created", "created", "date")
ACCOUNT = ref("account_id", "accounts", "@account", sticky=True)


@dataclass(frozen=True)
class Child:
    """Rows that belong to one row and come and go with it."""

    table: str
    key: str  # column that holds the parent row's id
    fields: tuple[Field, ...]
    at: str = ""  # path of the object, list or map these rows stand in; empty: the parent object itself
    each: Literal["one", "list", "map"] = "one"
    number: str = "position"  # for a list: the column of the ordinal; for a map: the column of the name
    needs: tuple[str, ...] = ()  # without these facts there is nothing to say


@dataclass(frozen=True)
class Rule:
    """What must hold between the facts of one row."""

    name: str
    sentence: str
    holds: Callable[[Json], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of object: its table, columns, rows beside it, and how far along its versions are."""

    name: str
    table: str
    fields: tuple[Field, ...]
    children: tuple[Child, ...] = ()
    rules: tuple[Rule, ...] = ()
    derive: Derive | None = None
    id: Callable[[Json, Mapping[str, Any]], Any] = lambda obj, _context: obj.get("id")
    key: Converter = values.ident
    deletable: bool = True  # whether the table has a column `deleted`
    key_columns: tuple[str, ...] = ("id",)
    order: tuple[str, ...] = ()  # states from first to last: of two versions of one second the later state is newer
    grows: tuple[str, ...] = ()  # numbers that only grow: they tell versions of one second apart too
    preference: int = 1  # of two kinds that share a table the higher one is the fuller
    known: tuple[str, ...] = ()  # fields that `derive` reads, or that say nothing new
    preview: str = ""  # declaration (by name) for objects of this kind that only say what may come
    also: tuple[str, ...] = ()  # further declarations (by name) that read the same object
