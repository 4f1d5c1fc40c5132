"""What strangers and careless callers try; each test fails when its guard is taken away."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import stripe
from api_shop import Merchant, Server
from fastapi.routing import APIRoute
from receiver import Receiver

from stripe_platform.api.outbound import AddressError, check_url
from stripe_platform.api.v1 import RESOURCES
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.api_keys import create_key, revoke_key
from stripe_platform.oltp.card_vault import CardNumber

CARD = "5105105105105100"
PLANTED = "4012888888881881"  # a valid number that nothing else here holds
FAMILIES = {
    "customers": "customer", "payment_methods": "payment_method", "payment_intents": "payment_intent",
    "charges": "charge", "refunds": "refund", "disputes": "dispute", "balance_transactions": "balance_transaction",
    "events": "event", "webhook_endpoints": "webhook_endpoint", "products": "product", "prices": "price",
    "subscriptions": "subscription", "invoices": "invoice",
}  # fmt: skip


@pytest.fixture
def owned(server: Server, merchant: Callable[..., Merchant], receiver: Callable[..., Receiver]) -> dict[str, str]:
    """A merchant's objects, one of each kind: id by kind."""
    sdk = server.sdk(merchant())
    customer = sdk.v1.customers.create({"name": "Ada"}).id
    method = sdk.v1.payment_methods.attach("pm_card_createDispute", {"customer": customer}).id
    intent = sdk.v1.payment_intents.create({"amount": 1000, "currency": "eur", "confirm": True, "customer": customer,
                                            "payment_method": method})  # fmt: skip
    other = sdk.v1.payment_intents.create({"amount": 1000, "currency": "eur", "confirm": True,
                                           "payment_method": "pm_card_visa"})  # fmt: skip
    product = sdk.v1.products.create({"name": "Plan"}).id
    price = sdk.v1.prices.create({"product": product, "currency": "eur", "unit_amount": 500,
                                  "recurring": {"interval": "month"}}).id  # fmt: skip
    subscription = sdk.v1.subscriptions.create({"customer": customer, "items": [{"price": price}],
                                                "default_payment_method": method})  # fmt: skip
    return {
        "customer": customer, "payment_method": method, "payment_intent": intent.id,
        "charge": str(intent.latest_charge),
        "refund": sdk.v1.refunds.create({"payment_intent": other.id, "amount": 10}).id,
        "dispute": sdk.v1.disputes.list().data[0].id,
        "balance_transaction": sdk.v1.balance_transactions.list().data[0].id,
        "event": sdk.v1.events.list().data[0].id,
        "webhook_endpoint": sdk.v1.webhook_endpoints.create(
            {"url": receiver().url, "enabled_events": ["charge.captured"]}).id,
        "product": product, "price": price, "subscription": subscription.id,
        "invoice": str(subscription.latest_invoice),
    }  # fmt: skip


def test_another_merchants_objects_do_not_exist(
    server: Server, shop: Merchant, owned: dict[str, str]
) -> None:
    own = server.sdk(shop).v1.customers.create({}).id
    tried = set()
    for route in (route for router in RESOURCES for route in router.routes):
        assert isinstance(route, APIRoute)
        (method,) = route.methods
        family = route.path.split("/")[2]
        if "{id}" not in route.path:
            if method == "GET" and family not in ("balance", "payment_methods"):
                listed = server.raw(shop, "GET", route.path).json()["data"]
                assert {one["id"] for one in listed}.isdisjoint(owned.values()), route.path
                after = server.raw(shop, "GET", f"{route.path}?starting_after={owned[FAMILIES[family]]}")
                assert after.status_code == 404
            continue
        path = route.path.replace("{id}", owned[FAMILIES[family]])
        data = {"customer": own} if path.endswith("/attach") else None
        answer = server.raw(shop, method, path, data)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resource_missing"), route.path
        tried.add(family)
    assert tried == set(FAMILIES)


def test_another_merchants_objects_cannot_be_named(server: Server, shop: Merchant, owned: dict[str, str]) -> None:
    sdk = server.sdk(shop)
    pay: dict[str, Any] = {"amount": 1000, "currency": "eur"}
    mine = sdk.v1.customers.create({}).id
    product = sdk.v1.products.create({"name": "Plan"}).id
    for call in (
        lambda: sdk.v1.payment_intents.create({**pay, "customer": owned["customer"]}),
        lambda: sdk.v1.payment_intents.create({**pay, "confirm": True, "payment_method": owned["payment_method"]}),
        lambda: sdk.v1.refunds.create({"charge": owned["charge"]}),
        lambda: sdk.v1.refunds.create({"payment_intent": owned["payment_intent"]}),
        lambda: sdk.v1.payment_methods.attach("pm_card_visa", {"customer": owned["customer"]}),
        lambda: sdk.v1.payment_methods.attach(owned["payment_method"], {"customer": mine}),
        lambda: sdk.v1.customers.create({"payment_method": owned["payment_method"]}),
        lambda: sdk.v1.customers.update(
            mine, {"invoice_settings": {"default_payment_method": owned["payment_method"]}}),
        lambda: sdk.v1.prices.create({"product": owned["product"], "currency": "eur", "unit_amount": 1}),
        lambda: sdk.v1.subscriptions.create({"customer": mine, "items": [{"price": owned["price"]}]}),
        lambda: sdk.v1.subscriptions.create({"customer": owned["customer"], "items": [{"price": owned["price"]}]}),
    ):
        with pytest.raises(stripe.InvalidRequestError) as raised:
            call()
        assert raised.value.code == "resource_missing"
    assert sdk.v1.refunds.list({"charge": owned["charge"]}).data == []
    assert sdk.v1.charges.list({"customer": owned["customer"]}).data == []
    assert sdk.v1.payment_methods.list({"customer": owned["customer"]}).data == []
    assert sdk.v1.products.retrieve(product).name == "Plan"


def test_the_same_card_reads_otherwise_at_another_merchant(server: Server, merchant: Callable[..., Merchant]) -> None:
    made = [server.sdk(merchant()).v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
            for _ in range(2)]  # fmt: skip
    assert made[0].card.fingerprint != made[1].card.fingerprint


def test_a_revoked_key_opens_nothing_at_once(
    server: Server, shop: Merchant, conn: psycopg.Connection, ring: Keyring
) -> None:
    sdk = server.sdk(shop)
    sdk.v1.balance.retrieve()
    revoke_key(conn, shop.key_id)
    time.sleep(0.5)  # the notice is on its way for a moment
    with pytest.raises(stripe.AuthenticationError):
        sdk.v1.balance.retrieve()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    _, secret = create_key(conn, ring, account_id=shop.account, scopes=["*:read"], expires_at=past)
    with pytest.raises(stripe.AuthenticationError) as raised:
        server.sdk(Merchant(shop.account, "", secret)).v1.balance.retrieve()
    assert raised.value.json_body["error"]["code"] == "api_key_expired"


def test_no_secret_of_a_key_is_kept(shop: Merchant, conn: psycopg.Connection) -> None:
    row = conn.execute("select k::text from ops.api_keys k where id = %s", [shop.key_id]).fetchone()
    assert row
    assert shop.secret not in row[0]
    assert shop.secret[8:20] not in row[0]


def test_sql_in_parameters_is_text(server: Server, shop: Merchant, conn: psycopg.Connection) -> None:
    sdk = server.sdk(shop)
    evil = "'; drop table oltp.charges; --"
    assert sdk.v1.customers.create({"name": evil, "metadata": {evil: evil}}).name == evil
    for path in (f"/v1/customers?starting_after={evil}", f"/v1/charges?customer={evil}", f"/v1/events?type={evil}",
                 f"/v1/customers/{evil}", "/v1/charges?limit=1%20or%201=1", "/v1/charges?created[gte]=1)%20or%20(1=1"):
        assert server.raw(shop, "GET", path).status_code in (200, 400, 404)
    sdk.v1.customers.list({"limit": 1})
    assert conn.execute("select count(*) from oltp.charges").fetchone()


def test_headers_cannot_be_injected(server: Server, shop: Merchant) -> None:
    path = "/v1/customers/x%0d%0aSet-Cookie:%20a=b"
    answer = server.raw(shop, "GET", path)
    assert answer.status_code == 404
    assert "set-cookie" not in answer.headers
    answer = server.raw(shop, "POST", "/v1/customers", {"name": "a\r\nX-Evil: 1"}, idempotency_key="a%0d%0aX-Evil: 1")
    assert "x-evil" not in answer.headers
    answer = server.raw(shop, "POST", "/v1/customers", {}, request_id="mine")
    assert answer.headers["request-id"] != "mine"


def test_a_lying_length_is_not_believed(server: Server, shop: Merchant) -> None:
    def endless() -> Any:
        for _ in range(200):
            yield b"name=" + b"x" * 1024

    import httpx

    try:
        answer = httpx.post(f"{server.url}/v1/customers", content=endless(), timeout=30,
                            headers={"authorization": f"Bearer {shop.secret}"})
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # cut off is as good
    assert server.raw(shop, "GET", "/v1/balance").status_code == 200


def _holds(conn: psycopg.Connection, number: str) -> list[str]:
    """Tables in which a number stands, as text or as bytes."""
    tables = conn.execute(
        "select format('%I.%I', schemaname, tablename) from pg_tables"
        " where schemaname in ('archive', 'ingest', 'ledger', 'oltp', 'ops', 'payments', 'vault')").fetchall()
    assert len(tables) > 60
    return [table for (table,) in tables if conn.execute(
        f"select 1 from {table} t where t::text like %s or t::text like %s limit 1",
        [f"%{number}%", f"%{number.encode().hex()}%"]).fetchone()]  # type: ignore[arg-type]


def test_a_card_number_stands_nowhere(
    start: Callable[..., Server], shop: Merchant, servers: Any, api_settings: Any
) -> None:
    server = start()
    sdk, answers = server.sdk(shop), []
    card = {"type": "card", "card[number]": PLANTED, "card[exp_month]": "1", "card[exp_year]": "2034",
            "card[cvc]": "987"}
    tries: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "/v1/payment_methods", card, {"idempotency_key": "planted"}),
        ("POST", "/v1/payment_methods", card | {"card[exp_year]": "2001"}, {}),
        ("POST", "/v1/payment_methods", card | {"card[number]": PLANTED[:-1] + "2"}, {}),
        ("POST", "/v1/payment_methods", card | {"card[cvc]": PLANTED}, {}),
        ("POST", "/v1/payment_methods", card | {"type": PLANTED}, {}),
        ("POST", "/v1/payment_methods", card | {f"x{PLANTED}": "1"}, {}),
        ("POST", "/v1/customers", {"name": PLANTED, "description": PLANTED, "phone": PLANTED, f"metadata[{PLANTED}]":
                                   PLANTED, "email": f"{PLANTED}@mail.example", "address[line1]": PLANTED}, {}),
        ("POST", "/v1/customers", {"tax_exempt": PLANTED}, {}),
        ("POST", "/v1/customers", {}, {"idempotency_key": PLANTED}),
        ("GET", f"/v1/customers/{PLANTED}", None, {}),
        ("GET", f"/v1/customers?starting_after={PLANTED}", None, {}),
        ("GET", f"/v1/charges?customer={PLANTED}", None, {}),
        ("GET", f"/v1/{PLANTED}", None, {}),
        ("POST", f"/v1/payment_methods/{PLANTED}/detach", {}, {}),
        ("POST", "/v1/payment_intents", {"amount": PLANTED, "currency": "eur"}, {}),
        ("POST", "/v1/payment_intents", {"amount": "1000", "currency": "eur", "customer": PLANTED}, {}),
        ("POST", "/v1/payment_intents", {"amount": "1000", "currency": "eur", "confirm": "true",
                                         "description": PLANTED, "payment_method_data[type]": "card", **{
                                             f"payment_method_data[{name}]".replace("[card[", "[card][", 1): value
                                             for name, value in card.items() if name != "type"}}, {}),
        ("POST", "/v1/refunds", {"charge": PLANTED}, {}),
        ("POST", "/v1/products", {"name": PLANTED}, {}),
        ("POST", "/v1/webhook_endpoints", {"url": f"http://127.0.0.1/{PLANTED}", "enabled_events[]": "*"}, {}),
        ("POST", "/v1/webhook_endpoints", {"url": "http://127.0.0.1/", "enabled_events[]": PLANTED}, {}),
        ("GET", "/v1/customers", None, {"authorization": f"Bearer {PLANTED}"}),
        ("GET", "/v1/customers", None, {"request_id": PLANTED, "user_agent": PLANTED}),
    ]
    for method, path, data, headers in tries:
        answer = server.raw(shop, method, path, data, **headers)
        assert answer.status_code < 500, path
        if answer.status_code != 200 or not path.startswith("/v1/customers"):  # a merchant may read its own notes
            answers.append(answer.text.replace(f'"description": "{PLANTED}"', ""))
    made = sdk.v1.payment_methods.create({
        "type": "card", "card": {"number": PLANTED, "exp_month": 1, "exp_year": 2034}})
    assert "number" not in made.card.to_dict()
    time.sleep(1)
    server.stop()
    assert PLANTED not in "".join(answers)
    assert PLANTED not in server.output.read_text()
    admin = f"{servers.superuser('oltp').rsplit('/', 1)[0]}/{api_settings.need('oltp_dsn').rsplit('/', 1)[1]}"
    with psycopg.connect(admin) as conn:
        assert _holds(conn, "pm_") != []  # the search finds what there is
        assert _holds(conn, PLANTED) == []
    for log in Path(servers.home).rglob("*.log"):
        assert PLANTED.encode() not in log.read_bytes(), log
    assert PLANTED not in repr(CardNumber(PLANTED)) + str(CardNumber(PLANTED))


def test_the_front_cannot_read_a_sealed_number(sdk: stripe.StripeClient, conn: psycopg.Connection) -> None:
    sdk.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select number_ciphertext from vault.cards")


@pytest.mark.parametrize("url", [
    "ftp://example.com/", "http://example.com/", "https://user:word@example.com/", "https://10.0.0.1/", "https://[::1]/",
    "https://169.254.169.254/latest", "https://127.0.0.1/", "https://192.168.1.1:8080/", "https://[fd00::1]/",
    "https://[::ffff:10.0.0.1]/", "https://0.0.0.0/", "https:///path", "https://example.com/a b", "https://224.0.0.1/",
    "https://example.com:99999/",
])  # fmt: skip
def test_a_webhook_goes_only_to_the_public_internet(url: str) -> None:
    with pytest.raises(AddressError):
        check_url(url, local=False)


def test_a_developers_machine_may_be_called_but_no_metadata_service() -> None:
    check_url("http://127.0.0.1:8000/hook", local=True)
    check_url("https://example.com/hook", local=False)
    for url in ("http://169.254.169.254/", "http://10.0.0.1/"):
        with pytest.raises(AddressError):
            check_url(url, local=True)
