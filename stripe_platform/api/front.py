"""The way of a request: who calls, may they, was it asked before, act, answer. One place for all routes.

A writing request is one transaction: what it did and, under an idempotency key, its sealed answer commit together. The
lock on the key falls with the connection, so a killed server leaves either nothing or an answer that is repeated.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from stripe_platform.api.errors import ApiError, fault, missing, of_write
from stripe_platform.api.issuer import Issuer
from stripe_platform.api.limits import Buckets
from stripe_platform.api.metrics import Metrics
from stripe_platform.api.params import Params, Tree, parse
from stripe_platform.api.present import Presenter
from stripe_platform.api.render import API_VERSION, Json, letters
from stripe_platform.cards import holds_card_number
from stripe_platform.keyring import Keyring
from stripe_platform.oltp import objects
from stripe_platform.oltp.answers import Kept, keep_answer, open_request
from stripe_platform.oltp.api_keys import ApiKey, key_lookup, mac_of, touch
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import MAX_KEY_BYTES, Idempotency
from stripe_platform.oltp.lookup import Lookups
from stripe_platform.settings import Settings

LARGEST_BODY = 64 * 1024
MOST_LISTED, LISTED = 100, 10
_HOUR = 3600.0
_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
# Planning a look-up over monthly partitions anew costs four times what running it does.
_SESSION = "-c statement_timeout=20s -c lock_timeout=5s -c plan_cache_mode=force_generic_plan"
_ID = re.compile(r"[!-~]{1,255}")
log = logging.getLogger("stripe_platform.api")


@dataclass(frozen=True)
class Route:
    """What a path needs: the resource whose scope opens it, and whether it writes."""

    method: str
    path: str
    resource: str
    handler: Callable[[Call], Json]

    @property
    def action(self) -> str:
        return "read" if self.method == "GET" else "write"


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    route: Route
    path: str
    ids: Mapping[str, str]
    headers: Mapping[str, str]
    query: bytes = b""
    body: bytes = b""
    id: str = field(default_factory=lambda: "req_" + "".join(secrets.choice(_LETTERS) for _ in range(16)))


@dataclass
class Answer:
    """Status, body and headers, and for whom."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    key_id: str | None = None


@dataclass
class Call:
    """What a handler works with: the caller, its parameters, and one connection inside the request's transaction."""

    front: Front
    key: ApiKey
    conn: psycopg.Connection
    ids: Mapping[str, str]
    params: Params
    idempotency: Idempotency | None
    path: str
    expand: list[str] = field(default_factory=list)
    status: int = 200
    after: list[Callable[[], None]] = field(default_factory=list)  # once the transaction stands

    @property
    def account(self) -> str:
        return self.key.account_id

    @property
    def ring(self) -> Keyring:
        return self.front.ring

    @property
    def lookups(self) -> Lookups:
        return self.front.lookups

    @property
    def event_key(self) -> str | None:
        """The idempotency key that events name."""
        return self.idempotency.key if self.idempotency else None

    @property
    def present(self) -> Presenter:
        return Presenter(self.conn, self.ring, self.account)

    def row(self, kind: str, object_id: str | None = None, *, param: str = "id") -> objects.Row:
        """The merchant's object (by default the path's); 404 for a missing one and another merchant's alike."""
        wanted = object_id or self.ids["id"]
        # What is no id never reaches SQL: a card number in a path would stand in the server's log.
        found = objects.find(self.conn, self.ring, kind, self.account, wanted) if _is_id(wanted) else None
        if found is None:
            raise missing(kind, param)
        return found

    def show(self, kind: str, object_id: str) -> Json:
        """The object as it stands now."""
        found = self.present.one(kind, object_id)
        if found is None:
            raise missing(kind)
        return found

    def decline(self, error: ApiError) -> Json:
        """An error as answer, with what was written left standing."""
        self.status = error.status
        return error.body()

    def list(self, kind: str, *names: str, **fixed: Any) -> Json:
        """A page of the merchant's objects, filtered by the named parameters."""
        params = self.params
        limit = params.integer("limit", low=1, high=MOST_LISTED) or LISTED
        after, before = params.text("starting_after", longest=255), params.text("ending_before", longest=255)
        if after and before:
            raise ApiError(400, "Parameters starting_after and ending_before exclude each other: keep one.",
                           code="parameters_exclusive", param="ending_before")
        filters: dict[str, Any] = {}
        for name in names:
            value = params.boolean(name) if name == "active" else params.text(name, longest=255)
            if value is not None:
                filters[name] = value
        created = {}
        if params.given("created"):
            created = _range(params)
        params.end()
        try:
            page = objects.page(self.conn, self.ring, kind, self.account, limit=limit, filters={**filters, **fixed},
                                created=created, starting_after=after, ending_before=before)  # fmt: skip
        except objects.CursorError:
            raise missing(kind, "starting_after" if after else "ending_before") from None
        return self.present.listed(kind, page, self.path)


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None and not holds_card_number(text)


def _range(params: Params) -> dict[str, Any]:
    try:
        inner = params.object("created")
    except ApiError:
        exact = params.instant("created")
        return {"gte": exact, "lte": exact} if exact else {}
    found = {name: inner.instant(name) for name in ("gt", "gte", "lt", "lte")} if inner else {}
    return {name: value for name, value in found.items() if value is not None}


class Front:
    """One process of the API: connections, caches, limits and counters, and the way of every request."""

    def __init__(self, settings: Settings, ring: Keyring, *, threads: int, metrics: Metrics) -> None:
        self.settings, self.ring, self.metrics = settings, ring, metrics
        dsn = settings.need("oltp_dsn")
        self.pool: ConnectionPool[psycopg.Connection] = ConnectionPool(
            dsn, min_size=2, max_size=threads, open=False, timeout=5,
            kwargs={"autocommit": True, "application_name": "api", "options": _SESSION})  # fmt: skip
        self.lookups = Lookups(dsn)
        self.keys = key_lookup()
        self.lookups.add(self.keys)
        self.issuer = Issuer(ring)
        self.buckets = Buckets(settings.api_rate)
        self._touched: dict[str, float] = {}

    def start(self) -> None:
        self.pool.open(wait=True, timeout=30)
        self.lookups.start()

    def stop(self) -> None:
        self.lookups.stop()
        self.pool.close()

    def serve(self, request: Request) -> Answer:
        """The answer to a request, whatever happens."""
        started = time.perf_counter()
        answer = self._guarded(request)
        answer.headers |= {"Request-Id": request.id, "Stripe-Version": API_VERSION}
        self._note(request, answer, time.perf_counter() - started)
        return answer

    def refuse(self, request: Request, error: ApiError) -> Answer:
        """An answer to what is not looked at further."""
        answer = _of_error(error)
        answer.headers["Request-Id"] = request.id
        self._note(request, answer, 0.0)
        return answer

    def _guarded(self, request: Request) -> Answer:
        key_id: str | None = None
        try:
            with self.pool.connection() as conn:
                key = self._who(conn, request)
                key_id = key.id
                self._allow(key, request.route)
                answer = self._answered(conn, key, request)
        except ApiError as error:
            answer = _of_error(error)
        except WriteError as error:
            answer = _of_error(of_write(error))
        except (PoolTimeout, psycopg.OperationalError) as error:
            log_fault(request, error)
            busy = getattr(error, "sqlstate", None) in ("40001", "40P01", "55P03")
            answer = _of_error(
                ApiError(409, "The object is in use by another request: repeat yours.", code="lock_timeout") if busy
                else ApiError(503, "The payments database does not answer: repeat the request in a while.",
                              kind="api_error"))
        except Exception as error:  # the body must never show what went wrong with whose data
            log_fault(request, error)
            answer = _of_error(fault())
        answer.key_id = key_id
        return answer

    def _who(self, conn: psycopg.Connection, request: Request) -> ApiKey:
        secret = _secret(request.headers.get("authorization", ""))
        if not secret:
            raise ApiError(401, "No API key was sent: send it as bearer token, or as user name of basic access.")
        mac = mac_of(self.ring, secret)
        key = self.keys.get(conn, mac) if mac else None
        if key is None or key.expired():
            expired = key is not None
            raise ApiError(401, "This API key has expired: make a new one." if expired else
                           "This API key is not valid: check it, or make a new one.",
                           code="api_key_expired" if expired else None)
        if request.headers.get("stripe-account", key.account_id) != key.account_id:
            raise ApiError(403, "This key does not act for another account: leave out the Stripe-Account header.",
                           code="account_invalid")
        now = time.monotonic()
        if now - self._touched.get(key.id, -_HOUR) >= _HOUR:
            self._touched[key.id] = now
            touch(conn, key.id)
        return key

    def _allow(self, key: ApiKey, route: Route) -> None:
        if not self.buckets.take(key.id):
            raise ApiError(429, "Too many requests with this key: slow down, and repeat after a pause.",
                           code="rate_limit")
        if not key.may(route.resource, route.action):
            raise ApiError(403, f"This key lacks the scope {route.resource}:{route.action}: use a key that has it.",
                           code="insufficient_permissions")

    def _answered(self, conn: psycopg.Connection, key: ApiKey, request: Request) -> Answer:
        if request.route.action == "read":
            return _acted(self._call(conn, key, request, None), request.route)
        idempotency = self._idempotency(request)
        call = self._call(conn, key, request, idempotency)
        begun = False
        try:
            with conn.transaction():
                kept = open_request(conn, key.account_id, idempotency, request.id)
                if kept is not None:
                    return _again(kept)
                begun = True
                answer = _acted(call, request.route)
                self._keep(conn, key, idempotency, request, answer)
        except psycopg.OperationalError:
            raise  # the connection is gone, or another request was in the way: nothing is kept
        except Exception as error:
            if not begun:
                raise
            return self._refused(conn, key, idempotency, request, error)
        for then in call.after:
            then()
        return answer

    def _refused(
        self, conn: psycopg.Connection, key: ApiKey, idempotency: Idempotency | None, request: Request, error: Exception
    ) -> Answer:
        """Refusals and faults undid what the handler wrote and are answers too: the key gets the same one again."""
        if not isinstance(error, ApiError | WriteError):
            log_fault(request, error)
        answer = _of_error(error if isinstance(error, ApiError) else of_write(error)
                           if isinstance(error, WriteError) else fault())
        if idempotency:
            with conn.transaction():
                kept = open_request(conn, key.account_id, idempotency, request.id)
                if kept is not None:  # a request with the same key came in between and was answered
                    return _again(kept)
                self._keep(conn, key, idempotency, request, answer)
        return answer

    def _keep(
        self, conn: psycopg.Connection, key: ApiKey, idempotency: Idempotency | None, request: Request, answer: Answer
    ) -> None:
        if idempotency:
            keep_answer(conn, key.account_id, idempotency, f"{request.route.method} {request.route.path}",
                        Kept(answer.status, answer.body))  # fmt: skip

    def _call(
        self, conn: psycopg.Connection, key: ApiKey, request: Request, idempotency: Idempotency | None
    ) -> Call:
        tree: Tree = {}
        if request.query:
            tree |= parse(request.query)
        if request.body:
            kind = request.headers.get("content-type", "application/x-www-form-urlencoded")
            if not kind.startswith("application/x-www-form-urlencoded"):
                raise ApiError(400, "The body is not form-encoded: send application/x-www-form-urlencoded.")
            tree |= parse(request.body)
        params = Params(tree)
        expand = params.texts("expand")
        return Call(self, key, conn, request.ids, params, idempotency, request.path, expand)

    def _idempotency(self, request: Request) -> Idempotency | None:
        value = request.headers.get("idempotency-key")
        if value is None or request.route.method != "POST":
            return None
        if not 1 <= len(value.encode()) <= MAX_KEY_BYTES:
            raise ApiError(400, f"An idempotency key has 1 to {MAX_KEY_BYTES} bytes: shorten it.",
                           kind="idempotency_error")
        if holds_card_number(value):
            # One random UUID in 3,000 looks like a card: what does is kept under a keyed name, and works.
            value = f"key_{letters(self.ring, 'idempotency_key', value, 32)}"
        said = b"\n".join((request.route.method.encode(), request.path.encode(), request.query, request.body))
        return Idempotency(self.ring, value, said)

    def _note(self, request: Request, answer: Answer, seconds: float) -> None:
        """Counters and one line of access log. The route's template stands for the path: paths may hold anything."""
        route = request.route
        self.metrics.count("api_requests_total", method=route.method, route=route.path, status=str(answer.status))
        self.metrics.observe("api_request_seconds", seconds, method=route.method, route=route.path)
        log.info(json.dumps({
            "time": round(time.time(), 3), "request": request.id, "key": answer.key_id, "method": route.method,
            "route": route.path, "status": answer.status, "ms": round(seconds * 1000, 1), "bytes": len(answer.body),
            "replayed": "Idempotent-Replayed" in answer.headers}))

    def count_lookups(self) -> None:
        """The caches' own counters into the metrics."""
        for lookup in self.lookups.all:
            self.metrics.set("lookup_total", lookup.hits, cache=lookup.name, result="hit")
            self.metrics.set("lookup_total", lookup.misses, cache=lookup.name, result="miss")


def _acted(call: Call, route: Route) -> Answer:
    body = route.handler(call)
    if call.expand and call.status == 200:
        call.present.expand(body, call.expand)
    return Answer(call.status, encode(body))


def encode(body: Json) -> bytes:
    """JSON as it goes out."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _again(kept: Kept) -> Answer:
    return Answer(kept.status, kept.body, {"Idempotent-Replayed": "true"})


def _of_error(error: ApiError) -> Answer:
    headers = {"Stripe-Should-Retry": "true"} if error.status in (409, 429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="API", charset="UTF-8"'
    return Answer(error.status, encode(error.body()), headers)


def _secret(header: str) -> str | None:
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("ascii").partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def log_fault(request: Request, error: BaseException) -> None:
    """Kind and place of a fault; its message and variables may hold anybody's data and stay out of every log."""
    frames = traceback.extract_tb(sys.exc_info()[2])[-6:]
    where = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
    log.error(json.dumps({"request": request.id, "route": request.route.path, "fault": type(error).__name__,
                          "sqlstate": getattr(error, "sqlstate", None), "where": where}))
