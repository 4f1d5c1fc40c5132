"""Card numbers are found in their disguises; what only looks like one is left alone."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_platform.cards import holds_card_number, is_card_number

VISA, MASTERCARD_2, UNIONPAY_19, AMEX = "4242424242424242", "2223003122003222", "6222020000000000004", "378282246310005"
SPACED = "4242 4242 4242 4242"


@pytest.mark.parametrize("text", [
    VISA, MASTERCARD_2, AMEX, "4222222222222", "6011111111111117", "3530111333300000", "30569309025904",
    *(SPACED.replace(" ", between) for between in (" ", "-", ".", "\n", "\u00a0", "\u2009", "\u2013", "_", " -")),
    "\u200b".join(VISA), "\u00ad".join(VISA), "\ufeff".join(VISA), "4242 4242\u200d 4242 4242",
    *(VISA.translate({ord(str(d)): zero + d for d in range(10)}) for zero in (0xFF10, 0x660, 0x966)),
    f"card_{VISA}", f"x{VISA}y", f"my card is {SPACED}, thanks", f"12 {SPACED}", f"{SPACED} 12/27 123", f"{VISA}1227",
    "3782 822463 10005", f'{{"pan": "{VISA}"}}', f"https://shop.test/?c={VISA}&x=1",
])  # fmt: skip
def test_a_disguised_card_number_is_found(text):
    assert holds_card_number(text)


@pytest.mark.parametrize("text", [
    "", "four two four two", "4242 4242 4242 4241", "2026-06-01 12:34:56.123456", "tel +33 1 23 45 67 89",
    "1234567890123452", "0000000000000000", "4444444444444444"[:15], "order 4242", "ch_3MqLiJLkdIwHu7ix0snN0B15",
    "IBAN FR14 2004 1010 0505 0001 3M02 606",
])
def test_what_is_no_card_number_is_left_alone(text):
    assert not holds_card_number(text)


def test_a_19_digit_unionpay_number_is_found():
    body = "622202000000000000"
    number = next(body + str(d) for d in range(10) if is_card_number(body + str(d)))
    assert len(number) == 19
    assert holds_card_number(f"pay with {number[:6]} {number[6:]}")


def test_few_random_identifiers_are_taken_for_cards():
    """Bounded, not zero: one run of 13 to 19 digits in ten passes Luhn by chance, few of them in a network's range."""
    generator = random.Random(7)  # noqa: S311 (the same identifiers every time)
    uuids = [str(uuid.UUID(int=generator.getrandbits(128))) for _ in range(5_000)]
    stamps = [f"2026-06-{generator.randint(1, 28):02} {generator.randint(0, 23):02}:{generator.randint(0, 59):02}"
              for _ in range(5_000)]
    digits = ["".join(generator.choices("0123456789", k=16)) for _ in range(5_000)]
    assert sum(map(holds_card_number, uuids)) <= 5
    assert sum(map(holds_card_number, stamps)) == 0
    assert sum(map(holds_card_number, digits)) <= 0.03 * 5_000


@given(st.text(max_size=200))
def test_no_text_breaks_the_detector(text):
    holds_card_number(text)


@given(st.text(alphabet="abc \n", max_size=20), st.sampled_from(["", " ", "-", ".", "\u200b", "\u00a0"]),
       st.text(alphabet="abc \n", max_size=20))
def test_a_card_number_is_found_wherever_it_stands(before, between, after):
    groups = [VISA[i:i + 4] for i in range(0, 16, 4)]
    assert holds_card_number(before + between.join(groups) + after)
