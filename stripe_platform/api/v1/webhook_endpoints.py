"""/v1/webhook_endpoints: where a merchant wants its events."""

from __future__ import annotations

import re
from typing import Any

from stripe_platform.api.errors import ApiError
from stripe_platform.api.front import Call
from stripe_platform.api.outbound import AddressError, check_url
from stripe_platform.api.params import Params
from stripe_platform.api.render import API_VERSION, Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import merged_metadata, texts
from stripe_platform.oltp import endpoints

router = Resource("webhook_endpoints")
_TYPE = re.compile(r"\*|[a-z_]+(?:\.[a-z_]+){1,4}")
_MOST = 300


@router.writes("/v1/webhook_endpoints")
def create(call: Call) -> Json:
    """Create an endpoint; its signing secret is in this answer and in no other."""
    params = call.params
    url, events = _url(call, params, required=True), _events(params)
    params.ignore("connect", "api_version")
    values = texts(params, "description")
    values["metadata"] = params.metadata() or {}
    params.end()
    if not events:
        raise params.absent("enabled_events")
    made, secret = endpoints.create_endpoint(
        call.conn, call.ring, account_id=call.account, url=str(url), events=events, api_version=API_VERSION,
        values=values)
    return {**call.show("webhook_endpoint", made), "secret": secret}


@router.reads("/v1/webhook_endpoints/{id}")
def retrieve(call: Call) -> Json:
    """An endpoint, without its secret."""
    call.params.end()
    return call.present.render("webhook_endpoint", [call.row("webhook_endpoint")])[0]


@router.writes("/v1/webhook_endpoints/{id}")
def update(call: Call) -> Json:
    """Change where it is, what it gets, or switch it off."""
    row, params = call.row("webhook_endpoint"), call.params
    url, events, disabled = _url(call, params), _events(params), params.boolean("disabled")
    values: dict[str, Any] = texts(params, "description")
    if params.given("metadata"):
        values["metadata"] = merged_metadata(params, row["metadata"])
    params.end()
    values |= {"url": url} if url else {}
    values |= {"enabled_events": events} if events else {}
    values |= {} if disabled is None else {"status": "disabled" if disabled else "enabled"}
    endpoints.update_endpoint(call.conn, call.ring, account_id=call.account, endpoint_id=row["id"], values=values)
    return call.show("webhook_endpoint", row["id"])


@router.deletes("/v1/webhook_endpoints/{id}")
def delete(call: Call) -> Json:
    """Nothing more is sent there."""
    row = call.row("webhook_endpoint")
    call.params.end()
    endpoints.update_endpoint(call.conn, call.ring, account_id=call.account, endpoint_id=row["id"],
                              values={"deleted": True, "status": "disabled"})
    return {"id": row["id"], "object": "webhook_endpoint", "deleted": True}


@router.reads("/v1/webhook_endpoints")
def listing(call: Call) -> Json:
    """Endpoints, newest first."""
    return call.list("webhook_endpoint")


def _url(call: Call, params: Params, *, required: bool = False) -> str | None:
    url = params.text("url", required=required, longest=2048)
    if url is None:
        return None
    try:
        check_url(url, local=call.front.settings.profile == "local")
    except AddressError as error:
        raise ApiError(400, f"{str(error)[0].upper()}{str(error)[1:]}.", code="url_invalid", param="url") from None
    return url


def _events(params: Params) -> list[str]:
    events = params.texts("enabled_events")
    if len(events) > _MOST or not all(_TYPE.fullmatch(event) for event in events):
        raise ApiError(400, "Parameter enabled_events names event types, or * for all: correct it.",
                       param="enabled_events")
    return events
