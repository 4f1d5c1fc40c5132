"""Leaks that a store of texts must find: test card numbers in disguise, and mail addresses and telephone numbers.

All numbers are published test numbers, telephone numbers lie in ranges kept for fiction, mail addresses in a domain
that never resolves. A number is drawn together with its disguise, so that every pair comes up.
"""

from __future__ import annotations

from collections.abc import Callable

# Published test numbers: Visa, Mastercard (old and 2-series), American Express, Discover, Diners, JCB, UnionPay.
CARDS = (
    "4242424242424242", "5555555555554444", "2223003122003222", "378282246310005", "6011111111111117", "36227206271667",
    "3566002020360505", "6200000000000005", "6205500000000000004", "4000056655665556",
)  # fmt: skip
PHONES = ("+1 202 555 0143", "+44 20 7946 0958", "+33 1 99 00 12 34")


def groups(number: str) -> list[str]:
    """A number as it is printed on its card."""
    sizes = (4, 6, 5) if len(number) == 15 else (4, 6, 4) if len(number) == 14 else (4, 4, 4, 4, 4)
    parts, start = [], 0
    for size in sizes:
        parts.append(number[start:start + size])
        start += size
    return [part for part in parts if part]


def _between(separator: str) -> Callable[[str], str]:
    return lambda number: separator.join(groups(number))


def _digits(zero: int) -> Callable[[str], str]:
    return lambda number: number.translate({ord(str(d)): zero + d for d in range(10)})


DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": lambda number: number, "spaces": _between(" "), "dashes": _between("-"), "dots": _between("."),
    "no-break spaces": _between("\u00a0"), "en dashes": _between(" \u2013 "), "line breaks": _between("\r\n"),
    "tabs": _between("\t"), "wide spaces": _between("   "),
    "brackets": lambda number: f"[{'] ['.join(groups(number))}]",
    "zero-width": lambda number: "\u200b".join(number), "soft hyphens": lambda number: "\u00ad".join(number),
    "single digits": lambda number: " ".join(number), "full-width": _digits(0xFF10), "arabic": _digits(0x660),
    "devanagari": _digits(0x966), "bold": _digits(0x1D7CE), "words": _between(" then "), "commas": _between(", "),
    "entities": _between("&nbsp;"), "percent": _between("%20"), "glued": lambda number: f"card{number}exp",
    "with expiry": lambda number: f"{' '.join(groups(number))} 12/30 cvc 123",
}  # fmt: skip


def hidden(card: int, disguise: int) -> str:
    """A test number in one of the disguises."""
    return list(DISGUISES.values())[disguise % len(DISGUISES)](CARDS[card % len(CARDS)])
