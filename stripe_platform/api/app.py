"""The application: routers, health, metrics, and answers in Stripe's shape to what no route knows."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from stripe_platform import __version__
from stripe_platform.api.errors import ApiError, fault
from stripe_platform.api.front import Front
from stripe_platform.api.metrics import Metrics
from stripe_platform.api.v1 import RESOURCES
from stripe_platform.keyring import open_keyring
from stripe_platform.settings import Settings

THREADS = 8  # connections and threads of one process: more only wait for the interpreter
_SAVE_EVERY = 1.0


def make_app(settings: Settings, *, threads: int = THREADS, metrics_folder: Path | None = None,
             deliver: bool = True) -> FastAPI:
    """The API as an ASGI application; `deliver` sends events to webhook endpoints from this process too."""
    from stripe_platform.api.deliver import Courier

    metrics = Metrics(metrics_folder)
    front = Front(settings, open_keyring(settings), threads=threads, metrics=metrics)
    courier = Courier(settings, front.ring, metrics) if deliver else None
    stopping = threading.Event()

    def save() -> None:
        while not stopping.wait(_SAVE_EVERY):
            front.count_lookups()
            metrics.save()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        front.start()
        app.state.threads = ThreadPoolExecutor(threads, "api")
        saver = threading.Thread(target=save, name="metrics", daemon=True)
        saver.start()
        if courier:
            courier.start()
        try:
            yield
        finally:
            stopping.set()
            if courier:
                courier.stop()
            app.state.threads.shutdown(wait=True)
            front.stop()
            saver.join()

    app = FastAPI(title="Payments API", version=__version__, lifespan=life, redoc_url=None)
    app.state.front = front
    for resource in RESOURCES:
        app.include_router(resource)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> JSONResponse:
        try:
            with front.pool.connection(timeout=2) as conn:
                conn.execute("select 1")
        except Exception:
            return JSONResponse({"status": "database unreachable"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    def numbers() -> PlainTextResponse:
        front.count_lookups()
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> JSONResponse:
        sentence = {404: "There is no such path: check the address.",
                    405: "This path does not know this method: check the request."}  # fmt: skip
        made = ApiError(error.status_code, sentence.get(error.status_code, "The request cannot be understood."))
        return JSONResponse(made.body(), error.status_code)

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse(fault().body(), 500)

    return app
