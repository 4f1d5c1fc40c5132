"""One arrival to rows, by the declarations; pure: the same object gives the same rows wherever it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.arrivals import Arrival, is_preview
from stripe_platform.ingest.stripe.kinds import ALL, MODELLED
from stripe_platform.ingest.stripe.spec import Child, Field, Kind
from stripe_platform.money import THREE_DECIMAL
from stripe_platform.oltp.schema import load_schema
from stripe_platform.oltp.world import COUNTRY_CODES, CURRENCY_CODES

Json = dict[str, Any]
Reference = tuple[str, str]  # table and id of the other end

SEPARATOR = " "  # between the parts of a row's key: ids hold none
MADE_HERE = frozenset({"token"})  # columns the importer fills when it inserts a row
_DEFAULTED = frozenset({"deleted", "livemode", "detached", "legacy_plan"})
_EVERYWHERE = ("id", "object", "livemode", "metadata", "deleted")


class RefusedError(ValueError):
    """An object that must not become a row: rule, sentence and remedy; never a value of it."""

    def __init__(self, rule: str, sentence: str, remedy: str) -> None:
        super().__init__(sentence)
        self.rule, self.sentence, self.remedy = rule, sentence, remedy


class Unmodelled(Exception):
    """An object of a kind without a table."""


@dataclass
class Row:
    """One row as columns: clear values, values to be sealed, and relations by the id of their other end."""

    table: str
    key: str
    clear: Json = field(default_factory=dict)
    sealed: dict[str, str] = field(default_factory=dict)
    refs: dict[str, Reference | None] = field(default_factory=dict)


@dataclass
class Main(Row):
    """A row with a version of its own, the columns that later versions cannot take away, and the rows beside it."""

    kind: str = ""
    rank: str = ""
    sticky: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, list[Row]] = field(default_factory=dict)
    deletable: bool = False
    deleted: bool = False
    stub: bool = False  # nothing is known but that it was deleted


@dataclass
class Mapped:
    """All that one arrival says."""

    mains: list[Main]
    subject: str
    object_id: str


Drift = Counter[tuple[str, str]]  # path and rule


def map_arrival(arrival: Arrival, drift: Drift) -> Mapped:
    """Rows of one arrival; `RefusedError` with the first broken rule, `Unmodelled` for a kind without a table."""
    if arrival.kind not in MODELLED:
        drift["", "unknown kind"] += 1
        raise Unmodelled
    kind = ALL[arrival.kind]
    obj = arrival.obj
    if kind.preview and is_preview(obj):
        kind = ALL[kind.preview]
    key = _key(kind, arrival)
    mains = [_main(kind, arrival, key, drift)]
    for also in kind.also:
        if not mains[0].stub and not obj.get("account"):
            try:
                mains.append(_main(ALL[also], arrival, key, Counter()))
            except RefusedError:
                continue  # the object has its row already; this second view of it lacks a fact
    _unknown_fields(arrival, drift)
    return Mapped(mains, _subject(arrival, key), key.split(SEPARATOR)[0] if kind.name == "event" else key)


def _subject(arrival: Arrival, key: str) -> str:
    """Whose data these are: the payer's where one is named, else the object's own."""
    if arrival.kind == "customer":
        return key
    inner = arrival.obj
    if arrival.kind == "event":
        data = inner.get("data")
        inner = data.get("object") if isinstance(data, dict) else None  # type: ignore[assignment]
        if not isinstance(inner, dict):
            return key
        if inner.get("object") == "customer":
            return _clean(inner.get("id")) or key
    return _clean(inner.get("customer")) or key


def _clean(value: Any) -> str | None:
    try:
        return values.ident(value, "customer")
    except values.InvalidError:
        return None


def _key(kind: Kind, arrival: Arrival) -> str:
    try:
        found = kind.id(arrival.obj, arrival.context)
        parts = found if isinstance(found, tuple) else (found,)
        kept = [kind.key(part, "") for part in parts]
    except values.InvalidError:
        raise RefusedError("id_usable", "its id is no id", "send the object again with Stripe's id") from None
    if not all(kept):
        raise RefusedError(
            "id_present", "it has no id, as previews of objects do not", "send the object that came of it")
    key = SEPARATOR.join(kept)
    if len(kept) == 1 and len(key) > values.LONGEST_ID:
        raise RefusedError("id_usable", "its id is no id", "send the object again with Stripe's id")
    return key


def _main(kind: Kind, arrival: Arrival, key: str, drift: Drift) -> Main:
    obj = arrival.obj
    plan = _plan(kind.name)
    made = Main(kind.table, key, kind=kind.name, deletable=kind.deletable, deleted=arrival.deleted)
    if len(kind.key_columns) > 1:
        made.clear.update(zip(kind.key_columns, key.split(SEPARATOR), strict=True))
    else:
        made.clear[kind.key_columns[0]] = key
    if arrival.deleted and not obj.keys() - {"id", "object", "deleted", "livemode"}:
        if not kind.deletable:
            raise RefusedError("facts_present", "it was deleted and says nothing else", "send the object as it was")
        made.stub = True
        made.rank = _rank(kind, arrival, made)
        if kind.derive is not None and kind.table == "bank_accounts":
            made.clear["kind"] = kind.derive(obj, arrival.context)["kind"]
        return made
    derived = kind.derive(obj, arrival.context) if kind.derive else {}
    for column in plan.absent:
        made.clear[column] = False if column in _DEFAULTED else None
    for column in plan.absent_refs:
        made.refs[column] = None
    _fill(made, kind.fields, obj, arrival.context, derived, drift, "", plan.required)
    for rule in kind.rules:
        if not rule.holds(made.clear):
            raise RefusedError(rule.name, rule.sentence, "send its state anew, or mend the sender")
    for child in kind.children:
        rows = list(_children(child, key, obj, arrival.context, derived, drift, made.clear.get("currency")))
        made.beside.setdefault(child.table, []).extend(rows)
    for table in plan.absent_tables:
        made.beside.setdefault(table, [])
    for spec in kind.fields:
        if spec.sticky:
            value = made.refs.pop(spec.column, None) if spec.parent else made.clear.pop(spec.column, None)
            if value is not None:
                made.sticky[spec.column] = value
    made.rank = _rank(kind, arrival, made)
    return made


def _rank(kind: Kind, arrival: Arrival, made: Main) -> str:
    """Of two versions of one second the one further along is newer, then the newer form, then the fuller one."""
    status = made.clear.get("status")
    step = kind.order.index(status) + 1 if status in kind.order else 0
    grown = [made.clear.get(column) or 0 for column in kind.grows]
    numbers = "".join(f"{max(0, number):019d}." for number in grown)
    facts = sum(value is not None for value in arrival.obj.values())
    return f"{step:02d}.{numbers}{kind.preference}.{arrival.api_version or '':<30}.{facts:06d}"


def _fill(
    row: Row, fields: tuple[Field, ...], obj: Json, context: Json, derived: Json, drift: Drift, prefix: str,
    required: frozenset[str], currency: str | None = None,
) -> None:
    amounts = []
    sources = (obj, context, derived)
    for spec in fields:
        value = kept = None
        path = spec.paths[0]
        for source, first, further, path in spec.steps:  # noqa: B007 - the path that was found is named below
            value = sources[source].get(first)
            for part in further:
                if type(value) is not dict:
                    value = None
                    break
                value = value.get(part)
            if value is not None:
                break
        if value is not None:
            name = path[-1].lstrip("$@")
            try:
                kept = spec.convert(value, name)
                if spec.currency and kept is not None:
                    kept = kept.lower()
                    if kept not in CURRENCY_CODES:
                        raise values.InvalidError  # noqa: TRY301 - one place counts what a column cannot take
                elif spec.parent == "countries" and kept is not None:
                    kept = kept.upper()
                    if kept not in COUNTRY_CODES:
                        raise values.InvalidError  # noqa: TRY301
            except values.MoneyError:
                raise RefusedError(
                    "amount_is_minor_units", f"{spec.column} is no amount of minor units",
                    "send an integer within 2^63, not negative where money only flows one way") from None
            except values.InvalidError as error:
                if spec.state:
                    raise RefusedError(
                        f"{spec.column}_known", f"its {spec.column} is none that is known",
                        "update the release, whose list of states is older, and send it again") from None
                drift[prefix + ".".join(part.lstrip("$@") for part in path), error.rule] += 1
                kept = None
        if kept is None:
            kept = spec.default
        if spec.money and kept is not None:
            amounts.append(kept)
        if spec.currency:
            currency = kept
        if spec.sealed:
            if kept is not None:
                row.sealed[spec.column] = kept
            else:
                row.clear[spec.column] = None
        elif spec.parent is not None and spec.parent != "countries":
            row.refs[spec.column] = (spec.parent, kept) if kept is not None else None
        else:
            if kept is None and spec.column in required:
                raise RefusedError(
                    "fact_present", f"it lacks {spec.column}, or has it in a form that cannot be read",
                    "send the whole object")
            row.clear[spec.column] = kept
    if currency in THREE_DECIMAL and any(amount % 10 for amount in amounts):
        raise RefusedError(
            "three_decimal_last_digit", "an amount of a three-decimal currency does not end in 0",
            "round the amount to ten minor units at the sender")


_NOTHING = object()


def _children(
    child: Child, key: str, obj: Json, context: Json, derived: Json, drift: Drift, currency: str | None
) -> Iterator[Row]:
    place: Any = obj
    if child.at:
        first, *rest = child.at.split(".")
        place = derived.get(first[1:]) if first[0] == "$" else obj.get(first)
        for part in rest:
            place = place.get(part) if isinstance(place, dict) else None
    if child.each == "list" and isinstance(place, dict):
        place = place.get("data")
    required = _required(child.table) - {child.key, child.number}
    prefix = f"{child.at.lstrip('$')}." if child.at else ""
    if child.each == "one":
        if not isinstance(place, dict):
            return
        row = Row(child.table, key, {child.key: key})
        try:
            _fill(row, child.fields, place, context, derived, drift, prefix, required & set(child.needs), currency)
        except RefusedError as error:
            if error.rule == "fact_present":
                return
            raise
        said = child.needs or [spec.column for spec in child.fields if spec.default is None]
        if any(row.clear.get(c) is not None or c in row.sealed or row.refs.get(c) for c in said):
            yield row
        return
    if child.each == "list" and isinstance(place, list):
        for position, item in enumerate(place[:32_767]):
            if isinstance(item, dict):
                row = Row(child.table, f"{key}{SEPARATOR}{position}", {child.key: key, child.number: position})
                _fill(row, child.fields, item, context, derived, drift, f"{prefix[:-1]}[].", required, currency)
                yield row
    elif child.each == "map" and isinstance(place, dict):
        for name, item in place.items():
            unknown = child.number == "currency" and name not in CURRENCY_CODES
            if unknown or not isinstance(item, dict) or not values.safe_name(name):
                drift[f"{prefix}*", "invalid value"] += 1
            else:
                row = Row(child.table, f"{key}{SEPARATOR}{name}", {child.key: key, child.number: name})
                money_of = name if child.number == "currency" else currency
                _fill(row, child.fields, item, context, derived, drift, f"{prefix}*.", required, money_of)
                yield row


@dataclass(frozen=True)
class _Plan:
    required: frozenset[str]
    absent: tuple[str, ...]  # columns that other kinds of the same table fill
    absent_refs: tuple[str, ...]
    absent_tables: tuple[str, ...]


@cache
def _required(table: str) -> frozenset[str]:
    return frozenset(c.name for c in load_schema()[table].columns if not c.nullable)


@cache
def _plan(name: str) -> _Plan:
    kind = ALL[name]
    others = [other for other in ALL.values() if other.table == kind.table and other is not kind]
    mine = {spec.column for spec in kind.fields} | set(kind.key_columns)
    theirs = [spec for other in others for spec in other.fields if spec.column not in mine and not spec.sticky]
    refs = {spec.column for spec in theirs if spec.parent and spec.parent != "countries"}
    tables = {c.table for other in others for c in other.children} - {c.table for c in kind.children}
    required = _required(kind.table) - MADE_HERE - set(kind.key_columns) - {"deleted"}
    return _Plan(required, tuple(sorted({s.column for s in theirs} - refs)), tuple(sorted(refs)), tuple(sorted(tables)))


Trie = dict[str, Any]


@cache
def _known(name: str) -> Trie:
    """Every field the declarations read, as a tree; `None` closes a branch that is kept as a whole."""
    kind = ALL[name]
    tree: Trie = {}
    paths: list[tuple[str, ...]] = [(one,) for one in _EVERYWHERE] + [tuple(p.split(".")) for p in kind.known]
    for declared in (kind, *(ALL[also] for also in kind.also)):
        paths += [path for spec in declared.fields for path in spec.paths]
        for child in declared.children:
            at = tuple(child.at.split(".")) if child.at else ()
            inside = ("*",) if child.each == "map" else ("[]",) if child.each == "list" else ()
            paths += [(*at, *inside, *path) for spec in child.fields for path in spec.paths]
    for path in paths:
        if path[0][0] in "$@":
            continue
        node = tree
        for part in path[:-1]:
            if node is None:
                break
            below = node.setdefault(part, {})
            node = below
        if node is not None and not isinstance(node.get(path[-1]), dict):
            node[path[-1]] = None
    return tree


def _unknown_fields(arrival: Arrival, drift: Drift) -> None:
    """Count fields that no declaration reads, by name; objects inside count as theirs."""
    stack: list[tuple[Json, Trie, str]] = [(arrival.obj, _known(arrival.kind), "")]
    while stack:
        node, tree, prefix = stack.pop()
        find = tree.get
        for name, value in node.items():
            below = find(name, _NOTHING)
            if below is None:
                continue
            if below is _NOTHING:
                below = find("*", _NOTHING)
            if below is _NOTHING:
                if not isinstance(value, dict | list) or not _holds_objects(value):
                    drift[prefix + (name if values.safe_name(name) else "*"), "unknown field"] += 1
            elif isinstance(value, dict) and below and "object" not in value:
                stack.append((value, below, f"{prefix}{name if values.safe_name(name) else '*'}."))
            elif isinstance(value, list) and below and "[]" in below:
                stack += [(item, below["[]"], f"{prefix}{name}[].") for item in value if isinstance(item, dict)]


def _holds_objects(value: Any) -> bool:
    """Whether this is a list or relation of objects that have rows of their own."""
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"] or [value]
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return False
    own = first.get("object")
    return isinstance(own, str) and (own == "list" or own in MODELLED)
