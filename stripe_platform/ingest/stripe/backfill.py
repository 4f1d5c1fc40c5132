"""Live backfill: every modelled kind through Stripe's SDK, page by page, each page committed with its cursor.

Killed anywhere, it goes on from the last committed page. Fetched states are as of the moment of the fetch; one that
shows already lands no second time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import stripe

from stripe_platform import progress
from stripe_platform.ingest.stripe import values
from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import Importer, Report
from stripe_platform.ingest.stripe.reading import Record, parse
from stripe_platform.keyring import Keyring

if TYPE_CHECKING:
    from stripe_platform.settings import Settings

RETRIES = 3
PAGE = 100
# Parents first, so that few relations wait.
LISTS: tuple[tuple[str, str], ...] = (
    ("account", "/v1/accounts"), ("customer", "/v1/customers"), ("product", "/v1/products"), ("price", "/v1/prices"),
    ("plan", "/v1/plans"), ("coupon", "/v1/coupons"), ("promotion_code", "/v1/promotion_codes"),
    ("tax_rate", "/v1/tax_rates"), ("tax_id", "/v1/tax_ids"), ("payment_method", "/v1/payment_methods"),
    ("setup_intent", "/v1/setup_intents"), ("payment_intent", "/v1/payment_intents"), ("charge", "/v1/charges"),
    ("refund", "/v1/refunds"), ("dispute", "/v1/disputes"),
    ("radar.early_fraud_warning", "/v1/radar/early_fraud_warnings"), ("review", "/v1/reviews"),
    ("radar.value_list", "/v1/radar/value_lists"), ("balance_transaction", "/v1/balance_transactions"),
    ("payout", "/v1/payouts"), ("transfer", "/v1/transfers"), ("application_fee", "/v1/application_fees"),
    ("topup", "/v1/topups"), ("subscription", "/v1/subscriptions"), ("invoice", "/v1/invoices"),
    ("invoiceitem", "/v1/invoiceitems"), ("invoice_payment", "/v1/invoice_payments"),
    ("credit_note", "/v1/credit_notes"), ("webhook_endpoint", "/v1/webhook_endpoints"), ("event", "/v1/events"),
)  # fmt: skip
# Lists that hang on another object, by that object's kind.
LISTS_OF: dict[str, tuple[str, ...]] = {
    "account": ("/v1/accounts/{id}/capabilities",),
    "customer": ("/v1/customers/{id}/balance_transactions", "/v1/customers/{id}/tax_ids"),
    "radar.value_list": ("/v1/radar/value_list_items?value_list={id}",),
}
_MORE = {"subscription": {"status": "all"}}
_NOT_FOR_THIS_KEY = (stripe.PermissionError, stripe.InvalidRequestError)


class BackfillError(RuntimeError):
    """The backfill cannot go on; one sentence with the remedy."""


@dataclass
class Backfill:
    """What a backfill brought, and the kinds this key may not read."""

    report: Report = field(default_factory=Report)
    skipped: dict[str, str] = field(default_factory=dict)


def backfill(conn: psycopg.Connection, ring: Keyring, settings: Settings, account: str | None = None) -> Backfill:
    """Fetch everything that is modelled and listed, from where the last backfill stopped."""
    if settings.stripe_api_key is None:
        raise BackfillError("STRIPE_PLATFORM_STRIPE_API_KEY is not set: put a key with read rights there")
    api = _Api(settings, account)
    done, importer = Backfill(), Importer(ring)
    with progress.stage("backfill kinds", len(LISTS)) as advance:
        for kind, url in LISTS:
            try:
                _list(conn, importer, api, kind, url, done)
            except _NOT_FOR_THIS_KEY as error:
                done.skipped[kind] = f"HTTP {error.http_status}, {error.code or type(error).__name__}"
            except stripe.AuthenticationError:
                raise BackfillError("Stripe refuses STRIPE_PLATFORM_STRIPE_API_KEY: name a key that is valid") from None
            except stripe.StripeError as error:
                raise BackfillError(
                    f"Stripe does not answer for {kind} ({type(error).__name__}, HTTP {error.http_status}):"
                    " run the command again, it goes on from here") from None
            advance(1)
    done.report.close(conn)
    return done


def _list(conn: psycopg.Connection, importer: Importer, api: _Api, kind: str, url: str, done: Backfill) -> None:
    last, finished = _cursor(conn, kind, api.account)
    for page in api.pages(url, last=None if finished else last, more=_MORE.get(kind, {})):
        items = [record for record in page if isinstance(record, dict)]
        items += [inner for item in items for path in LISTS_OF.get(kind, ()) for inner in api.of(path, item)]
        with conn.transaction():
            done.report.add(importer.take(conn, [Record(item, kind) for item in items], api.delivery()))
            _keep_cursor(conn, kind, api.account, _last_id(page), finished=False)
    _keep_cursor(conn, kind, api.account, None, finished=True)


def _cursor(conn: psycopg.Connection, kind: str, account: str) -> tuple[str | None, bool]:
    row = conn.execute(
        "select last_id, done from ingest.cursors where kind = %s and account_id = %s", [kind, account]).fetchone()
    return (row[0], row[1]) if row else (None, False)


def _keep_cursor(conn: psycopg.Connection, kind: str, account: str, last: str | None, *, finished: bool) -> None:
    conn.execute(
        "insert into ingest.cursors (kind, account_id, last_id, done) values (%s, %s, %s, %s)"
        " on conflict (kind, account_id) do update set last_id = excluded.last_id, done = excluded.done,"
        " moved_at = clock_timestamp()", [kind, account, last, finished])


def _last_id(page: list[Any]) -> str | None:
    found = page[-1].get("id") if page and isinstance(page[-1], dict) else None
    try:
        return values.ident(found, "")
    except values.InvalidError:
        return None


class _Api:
    """Stripe's API through its SDK, which signs, retries and waits; answers are read exactly, by our own parser."""

    def __init__(self, settings: Settings, account: str | None) -> None:
        assert settings.stripe_api_key is not None  # noqa: S101 - checked by backfill
        base = {"api": settings.stripe_api_base} if settings.stripe_api_base else None
        self._client = stripe.StripeClient(
            settings.stripe_api_key.get_secret_value(), stripe_account=account, max_network_retries=RETRIES,
            base_addresses=base)  # type: ignore[arg-type]
        self._account = account
        self._version: str | None = None

    @property
    def account(self) -> str:
        return self._account or ""

    def delivery(self) -> Delivery:
        return Delivery("api", self._account, api_version=self._version, as_of=int(time.time()))

    def get(self, url: str, **params: Any) -> Any:
        answer = self._client.raw_request("get", url, **params)
        self._version = values.api_version((answer.headers or {}).get("Stripe-Version")) or self._version
        return parse(answer.body.encode() if isinstance(answer.body, str) else bytes(answer.body))

    def pages(self, url: str, last: str | None = None, more: dict[str, Any] | None = None) -> Iterator[list[Any]]:
        """The pages of a list after an object; lists inside of its objects are fetched to their end."""
        while True:
            params = {"limit": PAGE, **(more or {}), **({"starting_after": last} if last else {})}
            answer = self.get(url, **params)
            page = answer.get("data") if isinstance(answer, dict) else None
            if not isinstance(page, list) or not page:
                return
            for item in page:
                self._complete(item)
            yield page
            last = _last_id(page)
            if answer.get("has_more") is not True or last is None:
                return

    def of(self, path: str, item: dict[str, Any]) -> Iterator[Any]:
        """The objects of a list that hangs on this one; a list this key may not read is empty."""
        try:
            owner = values.ident(item.get("id"), "")
            url, _, query = path.format(id=owner).partition("?")
            more = dict([query.split("=", 1)]) if query else {}
            for page in self.pages(url, more=more) if owner and not item.get("deleted") else ():
                yield from page
        except (*_NOT_FOR_THIS_KEY, values.InvalidError):
            return

    def _complete(self, item: Any) -> None:
        for value in item.values() if isinstance(item, dict) else ():
            if isinstance(value, dict) and value.get("object") == "list" and value.get("has_more") is True:
                url, data = value.get("url"), value.get("data")
                if isinstance(url, str) and url.startswith("/v1/") and isinstance(data, list) and data:
                    path, _, query = url.partition("?")
                    more = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
                    for page in self.pages(path, last=_last_id(data), more=more):
                        data += page
                    value["has_more"] = False
