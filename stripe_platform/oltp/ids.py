"""Ids of the platform: a Stripe prefix and a UUIDv7 (RFC 9562), so that text order is time order.

The 48 bits after the prefix are Unix milliseconds; the next 12 carry the microseconds (method 3 of the RFC), so ids of
distinct microseconds order strictly. Five bits are set so that letters stand where a run of 13 digits could begin or
end: no id can be taken for a card number. Tokens are plain random: nothing about them orders or repeats a person.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import time

import numpy as np
import numpy.typing as npt

_HIGH = 0x7C00  # version 7, then a digit c..f before the microseconds (0..999 take ten bits)
_LOW = (1 << 63) | (1 << 61) | (0xA << 28)  # variant a or b, and a letter in the middle of the random part
_LETTERS = np.frombuffer(b"abcdefghijklmnop", dtype=np.uint8)


def uuid7_ids(prefix: str, created_us: npt.NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """One id per instant (Unix microseconds, UTC): `<prefix>_` and 32 hex digits; same rng state, same ids."""
    return uuid7_named(prefix, created_us, rng.integers(0, 2**62, np.size(created_us), dtype=np.uint64))


def uuid7_named(prefix: str, created_us: npt.NDArray[np.int64], names: npt.NDArray[np.uint64]) -> list[str]:
    """As `uuid7_ids`, the random part taken from `names` (a hash of a record's foreign id): same record, same id."""
    created_us = np.asarray(created_us, dtype=np.int64)
    if created_us.size and (created_us.min() < 0 or created_us.max() >= 2**48 * 1000):
        raise ValueError("an id's instant lies outside 1970..10889: give Unix microseconds")
    n = created_us.size
    milliseconds, micro = np.divmod(created_us, 1000)
    high = (milliseconds.astype(np.uint64) << np.uint64(16)) | np.uint64(_HIGH) | micro.astype(np.uint64)
    low = (names & np.uint64(2**62 - 1)) | np.uint64(_LOW)
    text = np.stack([high, low], axis=1).astype(">u8").tobytes().hex()
    head = prefix + "_"
    return [head + text[i : i + 32] for i in range(0, 32 * n, 32)]


def new_id(prefix: str, created: dt.datetime | None = None) -> str:
    """A live id for an instant (default: now), unguessable in its lower 62 bits."""
    micro = time.time_ns() // 1000 if created is None else unix_us(created)
    milliseconds, rest = divmod(micro, 1000)
    value = (milliseconds << 80) | ((_HIGH | rest) << 64) | _LOW | secrets.randbits(62)
    return f"{prefix}_{value:032x}"


def boundary_id(prefix: str, day: dt.date) -> str:
    """Smallest id of a UTC day: ids of the day lie in [boundary_id(day), boundary_id(day + 1))."""
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return f"{prefix}_{unix_us(midnight) // 1000:012x}"


def tokens(prefix: str, n: int, rng: np.random.Generator) -> list[str]:
    """`n` random 128-bit names in letters only: no run of digits that a card detector could take for a card."""
    nibbles = rng.integers(0, 16, 32 * n, dtype=np.uint8)
    text = _LETTERS[nibbles].tobytes().decode("ascii")
    head = prefix + "_"
    return [head + text[i : i + 32] for i in range(0, 32 * n, 32)]


def new_token(prefix: str) -> str:
    """A live random token from the system's source of randomness."""
    return tokens(prefix, 1, np.random.default_rng(secrets.randbits(256)))[0]


def seeded(*parts: str | int) -> np.random.Generator:
    """A generator that depends on nothing but `parts`: the key to days that can be made again alone."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def unix_us(instant: dt.datetime) -> int:
    """Unix microseconds of an aware instant; a naive one is refused."""
    if instant.tzinfo is None:
        raise ValueError("an instant without a time zone: give an aware datetime")
    delta = instant - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def day_us(day: dt.date) -> int:
    """Unix microseconds of a day's UTC midnight."""
    return (day - dt.date(1970, 1, 1)).days * 86_400_000_000
