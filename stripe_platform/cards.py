"""Finds card numbers in free text, however they are disguised; says where, never what.

Measured on disguises that a general detector misses: no-break and zero-width spaces, dots, newlines, full-width and
Arabic digits, Mastercard's 2-series, 19-digit UnionPay, a number glued to letters, brackets, HTML entities, words
between the groups.
"""

from __future__ import annotations

import html
import re
import unicodedata

# First digits (inclusive ranges, all of one length) and the lengths that network issues.
_NETWORKS: tuple[tuple[int, int, frozenset[int]], ...] = (
    (4, 4, frozenset({13, 16, 19})),  # Visa
    (51, 55, frozenset({16})), (2221, 2720, frozenset({16})),  # Mastercard
    (34, 34, frozenset({15})), (37, 37, frozenset({15})),  # American Express
    (300, 305, frozenset({14, 16, 19})), (309, 309, frozenset({14, 16, 19})),  # Diners Club
    (36, 36, frozenset({14, 16, 19})), (38, 39, frozenset({14, 16, 19})),
    (6011, 6011, frozenset({16, 19})), (644, 649, frozenset({16, 19})), (65, 65, frozenset({16, 19})),  # Discover
    (3528, 3589, frozenset({16, 17, 18, 19})),  # JCB
    (62, 62, frozenset({16, 17, 18, 19})), (81, 81, frozenset({16, 17, 18, 19})),  # UnionPay
)
_SHORTEST, _LONGEST = 13, 19
# Digit groups with at most four separators between them; letters and colons end a run (times, hexadecimal ids).
_RUN = re.compile(r"[0-9]+(?:[\s\-._/,|*+~()\[\]{}]{1,4}[0-9]+)*")
# A word may stand between groups as long as those printed on cards, where blanks part it from both.
_SPOKEN = re.compile(r"\b[0-9]{3,6}(?:[\s,]+[^\W\d_]{1,12}[\s,]+[0-9]{2,7}){2,4}\b")
_ENCODED = re.compile(r"%(?:20|2d|2e|a0|c2%a0)", re.IGNORECASE)
_GROUP = re.compile(r"[0-9]+")


def holds_card_number(text: str) -> bool:
    """True where a number of a known network's range and length passes Luhn's check."""
    if len(text) < _SHORTEST or sum(map(str.isdigit, text)) < _SHORTEST:
        return False
    plain = _plain(_ENCODED.sub(" ", html.unescape(text)))
    return any(_in_run(run.group()) for pattern in (_RUN, _SPOKEN) for run in pattern.finditer(plain))


def _plain(text: str) -> str:
    """Compatibility form, every decimal digit as ASCII, every dash as '-', invisible characters gone."""
    out = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category == "Nd":
            out.append(str(unicodedata.decimal(char)))
        elif category == "Pd":
            out.append("-")
        elif category not in ("Cf", "Mn", "Me"):
            out.append(char)
    return "".join(out)


def _in_run(run: str) -> bool:
    """Windows begin and end where a digit group does, so that neighbouring numbers are not glued at random."""
    groups = _GROUP.findall(run)
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > _LONGEST:
                break
            if len(digits) >= _SHORTEST and is_card_number(digits):
                return True
    return any(_inside(group) for group in groups if len(group) > _LONGEST - 3)


def _inside(group: str) -> bool:
    """A number glued to other digits (expiry, security code) at the head or the tail of one long group."""
    return any(
        is_card_number(part) for length in range(_SHORTEST, min(len(group), _LONGEST + 1))
        for part in (group[:length], group[-length:]))


def is_card_number(digits: str) -> bool:
    """ASCII digits only: network range, length, and Luhn."""
    ranged = any(
        low <= int(digits[:len(str(low))]) <= high and len(digits) in lengths for low, high, lengths in _NETWORKS)
    return ranged and len(set(digits)) > 1 and _luhn(digits)


def _luhn(digits: str) -> bool:
    odd = sum(int(d) for d in digits[-1::-2])
    even = sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (odd + even) % 10 == 0
