"""What one delivery brings: the object itself, and every whole object that stands expanded inside of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.kinds import ALL, MODELLED, kind_of

Json = dict[str, Any]

# Not states of now: what was before an event, what may come, what is said in evidence, and what merchants write.
_ASIDE = frozenset({"metadata", "previous_attributes", "pending_update", "evidence"})
_NO_FACTS = frozenset({"id", "object", "deleted", "livemode"})
DEEPEST = 100
LAST = 2**53  # the time of a deletion that says none: it is later than everything
FIRST = -(2**53)
# Facts of the object around it that a version keeps for its parts.
_INHERITED = {("subscription", "subscription_item"): ("current_period_start", "current_period_end")}
_USED = {
    name: frozenset(
        path[0][1:]
        for declared in (kind, *(ALL[also] for also in kind.also)) for spec in declared.fields for path in spec.paths
        if path[0].startswith("@"))
    | ({"customer", "subscription"} if name == "discount" else set())
    | ({"invoice"} if name == "line_item" else set())
    for name, kind in ALL.items()
}  # fmt: skip


class TooDeepError(ValueError):
    """An object nested deeper than Stripe ever nests."""


@dataclass
class Arrival:
    """One object with what its delivery says of it; `context` is all that mapping may know beside the object."""

    kind: str
    obj: Json
    as_of: int
    context: Json
    api_version: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    top: bool = False
    deleted: bool = False


@dataclass(frozen=True)
class Delivery:
    """How objects came: for which account, and when they were fetched (exports do not say)."""

    source: str
    account: str | None = None
    api_version: str | None = None
    as_of: int | None = None
    extra: Json = field(default_factory=dict)


def kind_name(obj: Json, name: str | None) -> str | None:
    """The kind an object calls itself, else the one its container calls it; nothing when neither may stand in clear."""
    own = obj.get("object")
    if not isinstance(own, str):
        own = name.removeprefix("deleted_") if name else None
    return kind_of(own) if own and values.safe_name(own) else None


def arrivals(obj: Json, kind: str, delivery: Delivery) -> Iterator[Arrival]:
    """The object and the objects inside of it, outermost first."""
    account = _account(obj.get("account") if kind == "event" else None) or _account(delivery.account)
    version = values.api_version(obj.get("api_version")) if kind == "event" else delivery.api_version
    top = _arrival(kind, obj, account, None, delivery.as_of, version)
    top.top = True
    inner_of_event = None
    if kind == "event":
        data = obj.get("data")
        inner_of_event = data.get("object") if isinstance(data, dict) else None
    yield top
    event_id = obj.get("id") if kind == "event" and isinstance(obj.get("id"), str) else None
    event_type = obj.get("type") if kind == "event" and values.safe_name(obj.get("type")) else None
    event_as_of = top.as_of if kind == "event" and top.as_of > FIRST else delivery.as_of
    stack: list[tuple[Any, Arrival, int]] = [(obj, top, 1)]
    while stack:
        node, around, depth = stack.pop()
        if depth > DEEPEST:
            raise TooDeepError
        children = node.items() if isinstance(node, dict) else ((None, item) for item in node)
        for key, value in children:
            if key in _ASIDE or not isinstance(value, dict | list):
                continue
            owner = around
            if isinstance(value, dict):
                found = _whole_object(value)
                if found == "line_item" and around.kind == "invoice" and is_preview(around.obj):
                    found = None  # a line of no bill: it stays in what foresees it
                if found is not None:
                    # An object of another account's event is that account's.
                    owner = _arrival(found, value, account, around, event_as_of, version)
                    owner.event_id, owner.event_type = values_id(event_id), event_type
                    if value is inner_of_event:
                        _mark(owner, event_type)
                    yield owner
                if key == "capabilities" and around.kind == "account":
                    yield from _capabilities(value, around)
                    continue
            stack.append((value, owner, depth + 1))


def values_id(value: Any) -> str | None:
    """An id that may stand in clear, or nothing."""
    try:
        return values.ident(value, "")
    except values.InvalidError:
        return None


def _account(value: Any) -> str | None:
    return values_id(value) if value else None


def _mark(arrival: Arrival, event_type: str | None) -> None:
    if event_type and event_type.endswith(".deleted"):
        arrival.deleted = True
        if "deleted" in _USED.get(arrival.kind, ()):
            arrival.context["deleted"] = True
    if event_type == "payment_method.detached":
        arrival.context["detached"] = True


def is_preview(obj: Json) -> bool:
    """Whether an object was only foreseen: Stripe gives previews no id, or one that says so."""
    own = obj.get("id")
    return not own or (isinstance(own, str) and own.startswith("upcoming_"))


def _whole_object(value: Json) -> str | None:
    """The kind of an expanded object that says more than its id."""
    own = value.get("object")
    if not isinstance(own, str) or not value.keys() - _NO_FACTS:
        return None
    kind = kind_of(own)
    if kind not in MODELLED or kind == "event":
        return None
    return kind if value.get("id") or kind == "discount" or ALL[kind].preview else None


def _arrival(
    kind: str, obj: Json, account: str | None, around: Arrival | None, as_of: int | None, version: str | None
) -> Arrival:
    own = next((t for name in ("updated", "created", "created_at", "date") if _is_time(t := obj.get(name))), None)
    if as_of is None:
        as_of = own if own is not None else around.as_of if around is not None else FIRST
    used = _USED.get(kind, frozenset())
    context: Json = {}
    if account and ("account" in used or kind == "capability"):
        context["account"] = account
    if around is not None:
        parent = values_id(around.obj.get("id"))
        name = "account_parent" if around.kind == "account" else around.kind
        if parent and name in used:
            context[name] = parent
        if kind == "capability" and around.kind == "account" and parent:
            context["account"] = parent
        for fact in _INHERITED.get((around.kind, kind), ()):
            if obj.get(fact) is None and around.obj.get(fact) is not None:
                context[fact] = around.obj[fact]
    deleted = obj.get("deleted") is True
    if deleted and not obj.keys() - _NO_FACTS and own is None and as_of == FIRST:
        as_of = LAST
    if "as_of" in used and abs(as_of) < LAST:
        context["as_of"] = as_of
    return Arrival(kind, obj, as_of, context, api_version=version, deleted=deleted)


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= values.LAST_SECOND


def _capabilities(names: Json, around: Arrival) -> Iterator[Arrival]:
    """An account's map of capabilities as the objects they are elsewhere."""
    account = values_id(around.obj.get("id"))
    for name, status in names.items():
        if account and values.safe_name(name) and isinstance(status, str):
            found = {"id": name, "object": "capability", "account": account, "status": status}
            yield Arrival("capability", found, around.as_of, {}, api_version=around.api_version,
                          event_id=around.event_id, event_type=around.event_type)  # fmt: skip
