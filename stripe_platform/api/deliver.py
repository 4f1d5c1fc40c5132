"""The courier: sends events to webhook endpoints, signed as Stripe signs them, until they are taken or three days old.

Each process of the API has one; leases keep them apart. The payload is rendered at delivery and stored nowhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import http.client
import json
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from stripe_platform.api.front import encode
from stripe_platform.api.metrics import Metrics
from stripe_platform.api.outbound import AddressError, post
from stripe_platform.api.present import Presenter
from stripe_platform.api.render import API_VERSION
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.endpoints import KEEP_TRYING, Due, lease_due, settle
from stripe_platform.settings import Settings

SENDERS, AT_ONCE = 4, 16
POLL = 0.25  # seconds between looks when nothing is due
TIMEOUT = 8.0
LEASE = dt.timedelta(seconds=30)  # longer than all of one lease's sends may take one after the other
DELAYS = (1, 10, 60, 600, 3600, 4 * 3600, 12 * 3600)  # seconds before the next attempt; the last one repeats
log = logging.getLogger("stripe_platform.api")


def signature(payload: bytes, secret: str, at: int) -> str:
    """Stripe's header: the instant, and the keyed hash of instant and payload."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def next_delay(attempt: int, age: dt.timedelta) -> dt.timedelta | None:
    """When to try again after an attempt; None when the event is too old for one more."""
    seconds = DELAYS[min(attempt, len(DELAYS)) - 1] * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, no secret
    delay = dt.timedelta(seconds=seconds)
    return delay if age + delay < KEEP_TRYING else None


class Courier:
    """Start it, stop it; in between it works in the background."""

    def __init__(self, settings: Settings, ring: Keyring, metrics: Metrics) -> None:
        self._ring, self._metrics, self._local = ring, metrics, settings.profile == "local"
        self._pool: ConnectionPool[psycopg.Connection] = ConnectionPool(
            settings.need("oltp_dsn"), min_size=1, max_size=SENDERS + 1, open=False, timeout=10,
            kwargs={"autocommit": True, "application_name": "courier"})  # fmt: skip
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)

    def start(self) -> None:
        self._pool.open()
        self._thread.start()

    def stop(self) -> None:
        """Ends after what is being sent; what is only leased comes due again."""
        self._stopping.set()
        self._thread.join(TIMEOUT + 2)
        self._pool.close()

    def _work(self) -> None:
        with ThreadPoolExecutor(SENDERS, "courier") as senders:
            while not self._stopping.is_set():
                try:
                    with self._pool.connection() as conn:
                        found = lease_due(conn, self._ring, AT_ONCE, LEASE)
                    list(senders.map(self._deliver, found))
                except (psycopg.Error, PoolTimeout) as error:
                    log.exception(json.dumps({"courier": "database", "fault": type(error).__name__}))
                    found = []
                if not found:
                    self._stopping.wait(POLL)

    def _deliver(self, due: Due) -> None:
        if self._stopping.is_set():
            return
        started = time.perf_counter()
        status, fault = None, None
        try:
            with self._pool.connection() as conn:
                event = Presenter(conn, self._ring, due.account_id).one("event", due.event_id)
            payload = encode(event or {})
            headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": f"payments/1.0 ({API_VERSION})",
                       "Stripe-Signature": signature(payload, due.secret, int(time.time()))}  # fmt: skip
            status = post(due.url, payload, headers, local=self._local, timeout=TIMEOUT)
        except (AddressError, OSError, http.client.HTTPException) as error:
            fault = type(error).__name__
        latency = int((time.perf_counter() - started) * 1000)
        delivered = status is not None and 200 <= status < 300
        again = None if delivered else next_delay(due.attempt, dt.datetime.now(dt.UTC) - due.created)
        with self._pool.connection() as conn:
            settle(conn, due, delivered=delivered, http_status=status, latency_ms=latency, again_in=again)
        result = "delivered" if delivered else "failed" if again else "given up"
        self._metrics.count("webhook_deliveries_total", result=result)
        log.info(json.dumps({"delivery": due.event_id, "endpoint": due.endpoint_id, "attempt": due.attempt,
                             "result": result, "status": status, "fault": fault, "ms": latency}))
