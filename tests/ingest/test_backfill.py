"""The live backfill against a local server that speaks Stripe's list protocol."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from stripe_objects import account, charge, customer, intent, method, movement, rows

from stripe_platform.ingest.stripe import backfill as live
from stripe_platform.ingest.stripe.backfill import BackfillError, backfill

pytestmark = pytest.mark.servers
KEY = "sk_test_" + "k" * 20


class Stripe(ThreadingHTTPServer):
    """Lists by path, paged by `starting_after`; `broken` answers 500 so many times, `forbidden` paths 403."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lists: dict[str, list[dict[str, object]]] = {}
        self.seen: list[str] = []
        self.broken = 0
        self.forbidden: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Stripe

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.seen.append(self.path)
        query = {name: value[0] for name, value in parse_qs(url.query).items()}
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._say(401, {"error": {"type": "invalid_request_error", "message": "no"}})
        if self.server.broken:
            self.server.broken -= 1
            return self._say(500, {"error": {"type": "api_error", "message": "later"}})
        if url.path in self.server.forbidden:
            return self._say(403, {"error": {"type": "invalid_request_error", "code": "more_permissions_required"}})
        items = self.server.lists.get(url.path, [])
        ids = [item["id"] for item in items]
        start = ids.index(query["starting_after"]) + 1 if "starting_after" in query else 0
        end = start + int(query.get("limit", 10))
        return self._say(
            200, {"object": "list", "url": url.path, "has_more": end < len(items), "data": items[start:end]}
        )

    def _say(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Stripe-Version", "2026-08-26.dahlia"),
            ("Request-Id", "req_1"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def stripe_server(monkeypatch):
    server = Stripe()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.lists = {
        "/v1/accounts": [account()],
        "/v1/customers": [customer(f"cus_{i}") for i in range(7)],
        "/v1/payment_methods": [method()],
        "/v1/payment_intents": [intent()],
        "/v1/charges": [
            charge(
                f"ch_{i}",
                refunds={
                    "object": "list",
                    "has_more": True,
                    "url": f"/v1/charges/ch_{i}/refunds",
                    "data": [_refund(i, 0)],
                },
            )
            for i in range(5)
        ],
        **{f"/v1/charges/ch_{i}/refunds": [_refund(i, n) for n in range(3)] for i in range(5)},
        "/v1/balance_transactions": [movement()],
        "/v1/customers/cus_1/balance_transactions": [
            {
                "id": "cbtxn_1",
                "object": "customer_balance_transaction",
                "amount": -5,
                "ending_balance": -5,
                "currency": "eur",
                "type": "adjustment",
                "created": 1,
                "customer": "cus_1",
            }
        ],
    }
    monkeypatch.setattr(live, "PAGE", 2)
    yield server
    server.shutdown()
    server.server_close()


def _refund(charge_number: int, n: int) -> dict[str, object]:
    return {
        "id": f"re_{charge_number}_{n}",
        "object": "refund",
        "amount": 10,
        "currency": "eur",
        "created": 1,
        "status": "succeeded",
        "charge": f"ch_{charge_number}",
    }


@pytest.fixture
def reach(platform, stripe_server):
    return platform.settings.model_copy(
        update={"stripe_api_key": SecretStr(KEY), "stripe_api_base": f"http://127.0.0.1:{stripe_server.server_port}"}
    )


def test_all_pages_of_all_kinds_come_in_and_a_second_run_changes_nothing(platform, stripe_server, reach):
    stripe_server.broken = 2
    stripe_server.forbidden = {"/v1/topups"}
    found = backfill(platform.conn, platform.ring, reach)
    report = found.report.as_json()
    assert (report["lost"], report["quarantined"]) == (0, 0)
    assert set(found.skipped) == {"topup"}
    for table, count in (("customers", 7), ("charges", 5), ("refunds", 15), ("customer_balance_transactions", 1)):
        assert rows(platform.conn, f"select count(*) from oltp.{table}") == [(count,)]
    landed = rows(platform.conn, "select count(*) from ingest.objects")
    assert backfill(platform.conn, platform.ring, reach).report.as_json()["lost"] == 0
    assert rows(platform.conn, "select count(*) from ingest.objects") == landed


def test_a_fetched_state_is_newer_than_what_came_before(platform, stripe_server, reach):
    backfill(platform.conn, platform.ring, reach)
    stripe_server.lists["/v1/charges"][0].update(amount_refunded=30, refunded=False)
    backfill(platform.conn, platform.ring, reach)
    assert rows(platform.conn, "select amount_refunded from oltp.charges where id = 'ch_0'") == [(30,)]


def test_it_goes_on_where_it_was_cut_off(platform, stripe_server, reach, monkeypatch):
    monkeypatch.setattr(live, "RETRIES", 0)
    kept = stripe_server.lists.pop("/v1/charges")
    monkeypatch.setattr(live, "LISTS", (("charge", "/v1/charges"),))
    stripe_server.lists["/v1/charges"] = kept
    original = live._keep_cursor
    calls = []

    def cut(*args, **more):
        original(*args, **more)
        calls.append(args)
        if len(calls) == 1:
            stripe_server.broken = 1

    monkeypatch.setattr(live, "_keep_cursor", cut)
    with pytest.raises(BackfillError, match="run the command again"):
        backfill(platform.conn, platform.ring, reach)
    assert rows(platform.conn, "select count(*) from oltp.charges") == [(2,)]
    stripe_server.seen.clear()
    backfill(platform.conn, platform.ring, reach)
    assert "starting_after=ch_1" in stripe_server.seen[0]
    assert rows(platform.conn, "select count(*) from oltp.charges") == [(5,)]


def test_a_refused_key_is_one_sentence_without_the_key(platform, reach):
    wrong = reach.model_copy(update={"stripe_api_key": SecretStr("sk_test_wrong")})
    with pytest.raises(BackfillError) as refused:
        backfill(platform.conn, platform.ring, wrong)
    assert "STRIPE_PLATFORM_STRIPE_API_KEY" in str(refused.value)
    assert "sk_test" not in str(refused.value)
