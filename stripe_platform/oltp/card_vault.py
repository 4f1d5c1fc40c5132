"""Card numbers on their way into the vault: judged, sealed, and known outside by a random name.

The number is sealed under the payment method's own key: whoever erases a payer erases the keys of its methods. A second
method with the same number is found by the number's keyed hash, which stays inside the vault.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import psycopg

from stripe_platform.cards import is_card_number
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.ids import new_token
from stripe_platform.vault import SubjectKey

NAMESPACE = "card"
# Longest prefix first. Ranges of the networks that `payment_methods` knows.
_BRANDS: tuple[tuple[int, int, str], ...] = (
    (3528, 3589, "jcb"), (2221, 2720, "mastercard"), (6011, 6011, "discover"), (300, 305, "diners"),
    (309, 309, "diners"), (644, 649, "discover"), (34, 34, "amex"), (37, 37, "amex"), (36, 36, "diners"),
    (38, 39, "diners"), (51, 55, "mastercard"), (62, 62, "unionpay"), (81, 81, "unionpay"), (65, 65, "discover"),
    (4, 4, "visa"),
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class CardNumber:
    """A number that passed its checks; neither its repr nor its text shows it."""

    digits: str

    def __repr__(self) -> str:
        return f"CardNumber({self.brand} ...{self.last4})"

    __str__ = __repr__

    @property
    def last4(self) -> str:
        return self.digits[-4:]

    @property
    def brand(self) -> str:
        return next(name for low, high, name in _BRANDS if low <= int(self.digits[: len(str(low))]) <= high)

    def mac(self, ring: Keyring) -> bytes:
        """The keyed hash under which the vault knows the number."""
        return ring.mac(NAMESPACE, self.digits.encode())


def card_number(text: str) -> CardNumber:
    """The number behind what a payer typed; `WriteError` (card_error, incorrect_number) for what is none."""
    digits = text.replace(" ", "").replace("-", "")
    if not digits.isascii() or not digits.isdigit() or not is_card_number(digits):
        raise WriteError("the card number is not one: check its digits", kind="card_error", code="incorrect_number",
                         param="number")
    return CardNumber(digits)


def check_expiry(month: int, year: int) -> int:
    """The four-digit year of a card that is still good; `WriteError` otherwise."""
    year = year + 2000 if 0 <= year < 100 else year
    today = dt.datetime.now(dt.UTC).date()
    if not 1 <= month <= 12:
        raise WriteError("the card's expiration month lies between 1 and 12: check it", kind="card_error",
                         code="invalid_expiry_month", param="exp_month")
    if not today.year <= year <= today.year + 50 or (year, month) < (today.year, today.month):
        raise WriteError("the card's expiration date is past or too far ahead: check it", kind="card_error",
                         code="invalid_expiry_year", param="exp_year")
    return year


def remember_number(conn: psycopg.Connection, ring: Keyring, number: CardNumber) -> str:
    """The random name of a number: made on first sight, the same ever after."""
    conn.execute(
        "insert into vault.card_numbers (number_mac, fingerprint) values (%s, %s) on conflict do nothing",
        [number.mac(ring), new_token("fpr")])
    row = conn.execute(
        "select fingerprint from vault.card_numbers where number_mac = %s", [number.mac(ring)]).fetchone()
    assert row is not None  # noqa: S101 - inserted above, or by whoever was first
    return str(row[0])


def keep_number(
    conn: psycopg.Connection, ring: Keyring, key: SubjectKey, account_id: str, method_id: str, number: CardNumber
) -> None:
    """Seal the number of a method that stands, under the method's key."""
    conn.execute(
        "insert into vault.cards (payment_method_id, account_id, number_mac, number_ciphertext)"
        " values (%s, %s, %s, %s)",
        [method_id, account_id, number.mac(ring),
         key.seal("vault.cards", "number_ciphertext", method_id, number.digits)])
