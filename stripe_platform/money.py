"""Money is an integer of minor units and a lowercase ISO currency; never a float.

Exponents are Stripe's, which differ from ISO 4217's: ISK is sent ×100, UGX with two decimals, MGA with none.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

MAX_MINOR = 2**63 - 1
ZERO_DECIMAL = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split())
THREE_DECIMAL = frozenset("bhd jod kwd omr tnd".split())


class AmountError(ValueError):
    """An amount that cannot be money in its currency; the message names the rule, never the amount."""


def exponent(currency: str) -> int:
    """Decimal digits of a currency's minor unit, as Stripe sends it: 0, 2 or 3."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def to_minor(amount: str | int | Decimal, currency: str) -> int:
    """Major units (text, integer or Decimal; a float is refused) to minor units, exact or `AmountError`."""
    if isinstance(amount, float):
        raise AmountError("amount is a float: give text, an integer or a Decimal")
    try:
        value = Decimal(amount)
    except InvalidOperation:
        raise AmountError("amount is not a number") from None
    if not value.is_finite():
        raise AmountError("amount is not finite")
    minor = value.scaleb(exponent(currency))
    if minor != minor.to_integral_value():
        raise AmountError(f"amount has more decimals than {currency} carries ({exponent(currency)})")
    if not 0 <= minor <= MAX_MINOR:
        raise AmountError("amount is negative" if minor < 0 else "amount exceeds 2^63-1 minor units")
    if exponent(currency) == 3 and int(minor) % 10:
        raise AmountError(f"the last digit of a {currency} amount must be 0")
    return int(minor)


def to_major(minor: int, currency: str) -> Decimal:
    """Minor units to major units, for presentation only."""
    return Decimal(minor).scaleb(-exponent(currency))
