"""Money is exact: integers of minor units by Stripe's exponents, or a refusal."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_platform.money import MAX_MINOR, AmountError, exponent, to_major, to_minor
from stripe_platform.oltp.reference import CURRENCIES
from stripe_platform.oltp.write import WriteError, check_money

currencies = st.sampled_from(sorted(CURRENCIES))


def payable(currency: str, minor: int) -> int:
    """The nearest amount the currency can carry: three-decimal ones end in 0."""
    return minor // 10 * 10 if exponent(currency) == 3 else minor


@given(currencies, st.integers(0, MAX_MINOR))
def test_minor_units_survive_the_way_to_major_units_and_back(currency: str, minor: int):
    minor = payable(currency, minor)
    assert to_minor(to_major(minor, currency), currency) == minor
    assert to_minor(str(to_major(minor, currency)), currency) == minor


@given(currencies, st.lists(st.integers(0, 10**12), max_size=20))
def test_a_sum_of_amounts_is_the_amount_of_the_sum(currency: str, minors: list[int]):
    minors = [payable(currency, m) for m in minors]
    assert sum(minors) == to_minor(sum((to_major(m, currency) for m in minors), Decimal(0)), currency)


@given(currencies, st.integers(1, 10**12))
def test_more_decimals_than_a_currency_carries_are_refused_never_rounded(currency: str, minor: int):
    with pytest.raises(AmountError):
        to_minor(Decimal(minor * 10 + 1).scaleb(-exponent(currency) - 1), currency)


@given(currencies, st.floats())
def test_a_float_is_never_money(currency: str, value: float):
    with pytest.raises(AmountError):
        to_minor(value, currency)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e309x", "1,00", "", "-1", str(2**63), "sNaN"])
def test_what_is_no_amount_is_refused(text: str):
    with pytest.raises(AmountError):
        to_minor(text, "jpy")


@given(currencies, st.integers(max_value=-1) | st.integers(min_value=MAX_MINOR + 1))
def test_the_write_api_refuses_amounts_outside_64_bits_and_below_zero(currency: str, minor: int):
    with pytest.raises(WriteError):
        check_money(minor, currency)


def test_the_exponents_are_stripes_not_isos():
    assert {c: exponent(c) for c in ("isk", "ugx", "mga", "jpy", "kwd", "eur")} == {
        "isk": 2, "ugx": 2, "mga": 0, "jpy": 0, "kwd": 3, "eur": 2,
    }  # fmt: skip
    with pytest.raises(AmountError, match="last digit"):
        to_minor("1.005", "kwd")
    assert to_minor("1.25", "kwd") == 1250
    with pytest.raises(WriteError, match="last digit"):
        check_money(1005, "kwd")
    assert to_minor(Decimal("-0"), "eur") == 0
