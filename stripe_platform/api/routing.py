"""From ASGI to the front: bodies read within their limit, work done on threads, routers that know their resource."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import fastapi
from fastapi import APIRouter
from starlette.requests import ClientDisconnect

from stripe_platform.api.errors import ApiError
from stripe_platform.api.front import LARGEST_BODY, Answer, Call, Front, Request, Route
from stripe_platform.api.render import Json

Handler = Callable[[Call], Json]


class Resource(APIRouter):
    """The routes of one resource; its name is the scope that opens them."""

    def __init__(self, name: str) -> None:
        super().__init__(tags=[name])
        self.resource = name

    def reads(self, path: str) -> Callable[[Handler], Handler]:
        return self._route("GET", path)

    def writes(self, path: str) -> Callable[[Handler], Handler]:
        return self._route("POST", path)

    def deletes(self, path: str) -> Callable[[Handler], Handler]:
        return self._route("DELETE", path)

    def _route(self, method: str, path: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            route = Route(method, path, self.resource, handler)
            self.add_api_route(path, _endpoint(route), methods=[method], summary=handler.__doc__,
                               operation_id=f"{method} {path}", response_class=fastapi.Response)  # fmt: skip
            return handler

        return register


def _endpoint(route: Route) -> Callable[[fastapi.Request], Awaitable[fastapi.Response]]:
    async def endpoint(request: fastapi.Request) -> fastapi.Response:
        front: Front = request.app.state.front
        body = await _body(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        asked = Request(route, request.url.path, request.path_params, headers, request.scope["query_string"],
                        body or b"")  # fmt: skip
        if body is None:
            return response(front.refuse(asked, too_large()))
        loop = asyncio.get_running_loop()
        return response(await loop.run_in_executor(request.app.state.threads, front.serve, asked))

    endpoint.__name__ = route.handler.__name__
    return endpoint


def too_large() -> ApiError:
    return ApiError(413, f"The body is larger than {LARGEST_BODY // 1024} KiB: send less at once.")


def response(answer: Answer) -> fastapi.Response:
    return fastapi.Response(answer.body, answer.status, answer.headers, "application/json")


async def _body(request: fastapi.Request) -> bytes | None:
    """The body, None beyond the limit: read no further, whatever its header says."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST_BODY:
        return None
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                return None
    except ClientDisconnect:
        return None
    return bytes(body)
