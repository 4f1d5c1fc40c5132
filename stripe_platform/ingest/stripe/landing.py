"""Objects made ready to be stored: judged, mapped, and in the canonical form that names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stripe_platform.ingest.stripe.arrivals import FIRST, Arrival, Delivery, TooDeepError, arrivals, kind_name
from stripe_platform.ingest.stripe.mapping import Drift, Mapped, RefusedError, Unmodelled, map_arrival
from stripe_platform.ingest.stripe.reading import Record, parse
from stripe_platform.ingest.stripe.values import dumps, ident
from stripe_platform.keyring import Keyring

UNREADABLE = "(unreadable)"
NAMELESS = "(no kind)"


@dataclass
class Landing:
    """One object as it will land: its state, why, and what it says."""

    kind: str
    digest: bytes
    canonical: bytes
    as_of: int
    subject: str
    top: bool
    state: str = "normalised"
    reason: str | None = None
    object_id: str | None = None
    api_version: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    mapped: Mapped | None = None
    drift: Drift = field(default_factory=Counter)

    @property
    def rank(self) -> str:
        return self.mapped.mains[0].rank if self.mapped else ""

    @property
    def status(self) -> str | None:
        return self.mapped.mains[0].clear.get("status") if self.mapped else None


def landings(records: Iterable[Record], delivery: Delivery, ring: Keyring) -> Iterator[Landing]:
    """Every object of these records, expanded ones included; nothing is dropped and nothing raises."""
    for record in records:
        yield from _of_record(record, delivery, ring)


def _of_record(record: Record, delivery: Delivery, ring: Keyring) -> Iterator[Landing]:
    if not isinstance(record.value, dict):
        raw = record.raw if record.raw is not None else dumps(record.value).encode()
        reason = f"a record {record.reason} (rule readable); mend it and send it again"
        yield _set_aside(UNREADABLE, raw, reason, ring)
        return
    kind = kind_name(record.value, record.name)
    if kind is None:
        reason = "an object does not say its kind (rule kind_present); send it with its field object"
        yield _set_aside(NAMELESS, dumps(record.value).encode(), reason, ring)
        return
    try:
        found = list(arrivals(record.value, kind, delivery))
    except (TooDeepError, RecursionError):
        reason = f"{kind}: it is nested deeper than any object is (rule depth); send it without what was added"
        yield _set_aside(kind, _deep_bytes(record), reason, ring)
        return
    for arrival in found:
        yield land(arrival, ring)


def _deep_bytes(record: Record) -> bytes:
    try:
        return dumps(record.value).encode()
    except RecursionError:
        return record.raw or repr(type(record.value)).encode()


def _set_aside(kind: str, raw: bytes, reason: str, ring: Keyring) -> Landing:
    digest = ring.mac("ingest", raw)
    subject = f"record:{digest.hex()[:32]}"
    return Landing(kind, digest, raw, FIRST, subject, top=True, state="quarantined", reason=reason)


def land(arrival: Arrival, ring: Keyring) -> Landing:
    """One arrival judged; what it says of itself beside the object is part of its identity."""
    about: dict[str, Any] = {
        "kind": arrival.kind, "as_of": arrival.as_of, "context": arrival.context, "deleted": arrival.deleted,
        "api_version": arrival.api_version, "event_id": arrival.event_id, "event_type": arrival.event_type,
    }  # fmt: skip
    canonical = dumps({"about": about, "object": arrival.obj}).encode()
    digest = ring.mac("ingest", canonical)
    made = Landing(
        arrival.kind, digest, canonical, arrival.as_of, "", arrival.top, api_version=arrival.api_version,
        event_id=arrival.event_id, event_type=arrival.event_type)
    try:
        made.mapped = map_arrival(arrival, made.drift)
        made.subject, made.object_id = made.mapped.subject, made.mapped.object_id
    except RefusedError as error:
        made.state, made.object_id = "quarantined", _shown(arrival.obj.get("id"))
        made.reason = (f"{arrival.kind} {made.object_id or 'without an id'}: {error.sentence} (rule {error.rule}); "
                       f"{error.remedy}")  # fmt: skip
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        # A shape no rule foresaw must cost this object only; the fault is ours, and named by its kind.
        made.state, made.object_id = "quarantined", _shown(arrival.obj.get("id"))
        made.reason = (f"{arrival.kind} {made.object_id or 'without an id'}: its shape is one our rules do not foresee"
                       f" (rule shape, {type(error).__name__}); report it, and send it again with the next release")
    except Unmodelled:
        made.state, made.object_id = "unmodelled", _shown(arrival.obj.get("id"))
    made.subject = made.subject or made.object_id or f"record:{digest.hex()[:32]}"
    return made


def _shown(value: Any) -> str | None:
    try:
        return ident(value, "") if isinstance(value, str) else None
    except ValueError:
        return None


def again(canonical: bytes) -> Arrival:
    """The arrival behind a landed payload, to be mapped anew."""
    content = parse(canonical)
    about = content["about"]
    return Arrival(
        about["kind"], content["object"], about["as_of"], about["context"], api_version=about["api_version"],
        event_id=about["event_id"], event_type=about["event_type"], deleted=about["deleted"])
