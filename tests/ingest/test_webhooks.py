"""The webhook endpoint on a real server with real signatures: acknowledged is what has been committed."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from stripe_objects import SECRET, charge, event, rows

from stripe_platform.api.webhooks import PATH, WebhookError, make_app, secrets_of

pytestmark = pytest.mark.servers
OLD, NEW = "whsec_" + "o" * 24, "whsec_" + "n" * 24


@contextmanager
def serving(app):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(200):
        if server.started:
            break
        time.sleep(0.05)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def endpoint(platform):
    settings = platform.settings.model_copy(update={"stripe_webhook_secret": SecretStr(f"{NEW}, {OLD}")})
    with serving(make_app(settings, largest=50_000)) as client:
        yield client


def signed(body: bytes, secret: str = NEW, at: int | None = None) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    mark = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={mark}"}


def body(**more: object) -> bytes:
    return json.dumps(event(charge(), "charge.succeeded", **more)).encode()


def test_a_signed_event_is_in_the_database_when_it_is_acknowledged(endpoint, platform):
    for secret in (NEW, OLD):
        answer = endpoint.post(PATH, content=body(), headers=signed(body(), secret))
        assert (answer.status_code, answer.json()) == (200, {"received": True})
        assert rows(platform.conn, "select id, status from oltp.charges") == [("ch_1", "succeeded")]
    assert rows(platform.conn, "select count(*) from oltp.events") == [(1,)]
    assert endpoint.get("/health").status_code == 200


def test_what_is_not_signed_now_by_our_secret_is_refused_and_leaves_nothing(endpoint, platform):
    now = int(time.time())
    for headers in (
        {},
        {"Stripe-Signature": "nonsense"},
        signed(body(), "whsec_other"),
        signed(b"{}"),
        signed(body(), at=now - 301),
        {"Stripe-Signature": f"t={now},v1="},
    ):
        answer = endpoint.post(PATH, content=body(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "signature_invalid")
    assert rows(platform.conn, "select count(*) from ingest.objects") == [(0,)]


def test_a_signed_body_nobody_understands_is_kept_and_acknowledged(endpoint, platform):
    for content in (b"{broken", b'{"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter"}', b"[1]"):
        assert endpoint.post(PATH, content=content, headers=signed(content)).status_code == 200
    states = rows(platform.conn, "select state from ingest.objects order by state")
    assert states == [("quarantined",), ("quarantined",), ("unmodelled",)]


def test_a_body_above_the_limit_is_refused_before_it_is_read(endpoint):
    large = body(padding="x" * 60_000)
    assert endpoint.post(PATH, content=large, headers=signed(large)).status_code == 413
    assert endpoint.post(PATH, content=iter([large]), headers=signed(large)).status_code == 413


def test_a_store_that_does_not_answer_is_no_acknowledgement(platform):
    settings = platform.settings.model_copy(
        update={"stripe_webhook_secret": SecretStr(NEW), "ingest_dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none")}
    )
    with serving(make_app(settings, wait=1)) as client:
        assert client.post(PATH, content=body(), headers=signed(body())).status_code == 503


def test_no_body_is_logged(endpoint, capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        endpoint.post(PATH, content=body(), headers=signed(body()))
        endpoint.post(PATH, content=body()[:-1], headers=signed(body()[:-1]))
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    assert SECRET not in "".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore")))


def test_without_a_secret_there_is_no_endpoint(platform):
    with pytest.raises(WebhookError, match="STRIPE_PLATFORM_STRIPE_WEBHOOK_SECRET is not set"):
        secrets_of(platform.settings)
