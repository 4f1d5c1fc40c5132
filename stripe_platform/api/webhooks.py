"""Where Stripe's events come in: the signature is verified, the event landed, and only then is it acknowledged.

Bodies are never logged. A signed body that cannot be understood is kept in quarantine like any other record, for
sending it again would not make it better; what we cannot store is answered with 503, and Stripe sends it again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import stripe
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from psycopg_pool import ConnectionPool, PoolTimeout

from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import Importer
from stripe_platform.ingest.stripe.reading import BadRecordError, Record, parse, unpack
from stripe_platform.keyring import open_keyring

if TYPE_CHECKING:
    from stripe_platform.settings import Settings

PATH = "/webhooks/stripe"
TOLERANCE = 300  # seconds a signature stays valid
LARGEST = 4 * 2**20
DELIVERY = Delivery("webhook")


class WebhookError(RuntimeError):
    """The endpoint cannot start; the message names the remedy."""


class TooLargeError(ValueError):
    """A body above the limit."""


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The signing secrets, the newest first; several while one is being rotated."""
    value = settings.stripe_webhook_secret
    found = tuple(re.split(r"[\s,]+", value.get_secret_value().strip())) if value else ()
    if not any(found):
        raise WebhookError("STRIPE_PLATFORM_STRIPE_WEBHOOK_SECRET is not set: put the endpoint's signing secret there")
    return tuple(secret for secret in found if secret)


def make_app(settings: Settings, *, largest: int = LARGEST, wait: float = 10) -> FastAPI:
    """The endpoint as an ASGI application."""
    secrets, ring = secrets_of(settings), open_keyring(settings)
    pool = ConnectionPool(
        settings.need("ingest_dsn"), min_size=1, max_size=4, open=False, timeout=wait, kwargs={"autocommit": True},
        check=ConnectionPool.check_connection)  # fmt: skip
    importer = Importer(ring)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        pool.open()
        try:
            yield
        finally:
            pool.close()

    app = FastAPI(title="Stripe webhooks", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> JSONResponse:
        with pool.connection() as conn:
            conn.execute("select 1")
        return JSONResponse({"status": "ok"})

    @app.post(PATH)
    async def receive(request: Request) -> JSONResponse:
        try:
            body = await _body(request, largest)
        except TooLargeError:
            return _answer(413, "body_too_large")
        if not _signed(body, request.headers.get("stripe-signature"), secrets):
            return _answer(400, "signature_invalid")
        try:
            await run_in_threadpool(_land, importer, pool, body)
        except (psycopg.OperationalError, PoolTimeout):
            return _answer(503, "store_unavailable")
        return JSONResponse({"received": True})

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> JSONResponse:
        return _answer(500, "internal_error")

    return app


def _land(importer: Importer, pool: ConnectionPool, body: bytes) -> None:
    with pool.connection() as conn:
        importer.take(conn, _records(body), DELIVERY)


def _records(body: bytes) -> list[Record]:
    try:
        return list(unpack(parse(body)))
    except BadRecordError as error:
        return [Record(raw=body, reason=str(error))]


async def _body(request: Request, largest: int) -> bytes:
    """The body, read no further than the limit whatever its header says."""
    if int(request.headers.get("content-length") or 0) > largest:
        raise TooLargeError
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > largest:
            raise TooLargeError
    return bytes(body)


def _signed(body: bytes, header: str | None, secrets: tuple[str, ...]) -> bool:
    if not header:
        return False
    for secret in secrets:
        try:
            stripe.Webhook.construct_event(body, header, secret, TOLERANCE)
        except stripe.SignatureVerificationError:
            continue
        except UnicodeDecodeError:
            return False  # the signature covers text: what is none was not signed by Stripe
        except (ValueError, AttributeError, TypeError, RecursionError):
            return True  # the signature held: the SDK only does not know this body
        return True
    return False


def _answer(status: int, code: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code}}, status)


def serve(settings: Settings, host: str, port: int) -> None:
    """Run until stopped. Behind a proxy that ends TLS: this port speaks plain HTTP."""
    import uvicorn

    uvicorn.run(make_app(settings), host=host, port=port, log_level="warning", access_log=False, server_header=False)
