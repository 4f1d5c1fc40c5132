"""/v1/events: what happened to a merchant's objects, each shown as it is now."""

from __future__ import annotations

from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource

router = Resource("events")


@router.reads("/v1/events/{id}")
def retrieve(call: Call) -> Json:
    """An event."""
    call.params.end()
    return call.present.render("event", [call.row("event")])[0]


@router.reads("/v1/events")
def listing(call: Call) -> Json:
    """Events, newest first; `types` names several."""
    types = call.params.texts("types")
    call.params.ignore("delivery_success")
    return call.list("event", "type", **({"type": types} if types else {}))
