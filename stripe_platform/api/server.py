"""`serve api`: uvicorn with one or several processes on one port, stopped gracefully."""

from __future__ import annotations

import logging
import shutil
import sys

from stripe_platform.settings import load_settings

GRACE = 15  # seconds for what is under way when the server is told to stop


def application() -> object:
    """The application of one worker process, from the environment."""
    from stripe_platform.api.app import make_app

    log_lines()
    settings = load_settings()
    return make_app(settings, metrics_folder=settings.home / "api_metrics")


def log_lines() -> None:
    """The access log: one JSON object a line on stderr, nothing of any body in it."""
    log = logging.getLogger("stripe_platform.api")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def serve(host: str, port: int, workers: int) -> None:
    """Run until stopped. Behind a proxy that ends TLS: this port speaks plain HTTP."""
    import uvicorn

    settings = load_settings()
    settings.need("oltp_dsn")
    shutil.rmtree(settings.home / "api_metrics", ignore_errors=True)  # counters of processes that are gone
    uvicorn.run(
        "stripe_platform.api.server:application", factory=True, host=host, port=port, workers=workers,
        log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE)
