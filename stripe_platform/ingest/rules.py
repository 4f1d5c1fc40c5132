"""What a transaction record must fulfil. Checks are vectorised; each bad record is named with its first broken rule."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from stripe_platform.money import exponent
from stripe_platform.oltp.bulk import BadRecord
from stripe_platform.oltp.reference import CURRENCIES

_ZONE = r":.*(?:[Zz]|[+-][0-9]{2}:?(?:[0-9]{2})?)$"  # after a time of day: the day of a bare date is no zone
EXACT = 2**53  # beyond it a double no longer holds every minor unit
_AHEAD_US = 86_400_000_000  # clocks and zones differ by less than a day
_WHOLE = r"0|-?[1-9][0-9]{0,17}"  # ids that are read as int64
IDS = ("TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID")
_CONTROL = r"[\x00-\x1f\x7f]"

# Rule and its sentence, in the order in which they are judged.
RULES = {
    "quote_closed": "a quote opened in this line is never closed",
    "record_complete": "the line has another number of fields than the header",
    "transaction_named": "the transaction id is missing",
    "customer_named": "the customer id is missing",
    "terminal_named": "the terminal id is missing",
    "id_without_control_characters": "an id holds a control character",
    "time_readable": "the time cannot be read as a date and time",
    "time_not_in_the_future": "the time lies more than a day in the future",
    "amount_is_a_number": "the amount is missing or no number",
    "amount_is_finite": "the amount is infinite",
    "amount_not_negative": "the amount is negative",
    "currency_known": "the currency is unknown",
    "amount_in_range": "the amount is too large to be exact in minor units",
    "amount_decimals": "the amount has more decimals than its currency carries",
    "label_is_0_or_1": "the fraud label is neither 0 nor 1",
    "transaction_unique": "the transaction id came before in this source",
    "transaction_new": "the transaction stands already in the database",
}


@dataclass(frozen=True)
class Judged:
    """Good records as typed columns, and the bad ones: `bad_us` is their time, or -1 where it cannot be read."""

    good: pd.DataFrame
    bad: list[BadRecord]
    bad_us: np.ndarray


def judge(raw: pd.DataFrame, currency: str) -> Judged:
    """Judge every record. Good columns: transaction, customer, terminal, us (Unix, UTC), minor, currency, fraud."""
    us = _time(raw["TX_DATETIME"])
    amount = pd.to_numeric(raw["TX_AMOUNT"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    label = pd.to_numeric(raw["TX_FRAUD"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    money = raw["CURRENCY"].fillna(currency).astype(str).str.lower() if "CURRENCY" in raw else None
    # Objects: a column of fixed width takes the longest cell for every record, and drops a NUL at a code's end.
    codes = np.full(len(raw), currency, object) if money is None else money.to_numpy(object)
    which, names = pd.factorize(codes)
    digits = np.array([exponent(c) for c in names])[which]
    known = np.array([c in CURRENCIES for c in names])[which]
    with np.errstate(invalid="ignore", over="ignore"):
        minor = amount * 10.0**digits
        whole = np.rint(minor)
        inexact = (np.abs(minor - whole) > 1e-4) | ((digits == 3) & (whole % 10 != 0))
    broken = {
        "quote_closed": (raw["broken"] == "quote_closed").to_numpy(bool),
        "record_complete": (raw["broken"] == "record_complete").to_numpy(bool),
        "transaction_named": raw["TRANSACTION_ID"].isna().to_numpy(),
        "customer_named": raw["CUSTOMER_ID"].isna().to_numpy(),
        "terminal_named": raw["TERMINAL_ID"].isna().to_numpy(),
        "id_without_control_characters": np.any([_controlled(raw[name]) for name in IDS], axis=0),
        "time_readable": us < 0,
        "time_not_in_the_future": us > time.time_ns() // 1000 + _AHEAD_US,
        "amount_is_a_number": np.isnan(amount),
        "amount_is_finite": np.isinf(amount),
        "amount_not_negative": amount < 0,
        "currency_known": ~known,
        "amount_in_range": np.abs(minor) >= EXACT,
        "amount_decimals": inexact,
        "label_is_0_or_1": ~np.isin(label, (0.0, 1.0)),
    }
    first = np.full(len(raw), -1)
    for number, mask in reversed(list(enumerate(broken.values()))):
        first[mask] = number
    # Of several records with one id the first that is otherwise good stays.
    sound = np.nonzero(first < 0)[0]
    repeated = pd.Series(_plain(raw["TRANSACTION_ID"].to_numpy()[sound])).duplicated().to_numpy()
    rules = [*broken, "transaction_unique"]
    first[sound[repeated]] = len(broken)
    fine = first < 0
    good = pd.DataFrame({
        "transaction": _plain(raw["TRANSACTION_ID"].to_numpy()[fine]),
        "customer": _plain(raw["CUSTOMER_ID"].to_numpy()[fine]),
        "terminal": _plain(raw["TERMINAL_ID"].to_numpy()[fine]), "us": us[fine],
        "minor": whole[fine].astype(np.int64),
        "currency": codes[fine], "fraud": label[fine] == 1.0, "file": raw["file"].to_numpy()[fine],
        "row": raw["row"].to_numpy()[fine],
    })  # fmt: skip
    rows = np.nonzero(~fine)[0]
    bad = [refusal(raw.iloc[i], rules[first[i]]) for i in rows]
    return Judged(good.sort_values(["us", "file", "row"], kind="stable", ignore_index=True), bad, us[rows])


def refusal(record: pd.Series, rule: str) -> BadRecord:
    """One bad record with its sentence; its values go into the (encrypted) payload only."""
    where = f"{record['file']} row {record['row']}"
    values = {str(k): None if pd.isna(v) else str(v) for k, v in record.items() if k not in ("file", "row", "broken")}
    return BadRecord(where, rule, f"{where}: {RULES[rule]} (rule {rule})", json.dumps(values).encode())


def id_hashes(ids: np.ndarray) -> np.ndarray:
    """A hash of each id that depends on nothing but the id: a whole number has one, also beside ids that are text."""
    hashes = pd.util.hash_array(ids)
    if ids.dtype.kind != "i":
        whole = pd.Series(ids, dtype=object).str.fullmatch(_WHOLE).to_numpy(bool)
        hashes[whole] = pd.util.hash_array(ids[whole].astype(np.int64))
    return hashes


def _plain(values: np.ndarray) -> np.ndarray:
    """Ids as int64 where all of them are plain whole numbers, else as text: CSV and Parquet give the same."""
    if values.dtype.kind in "iu" and bool(np.all((values > -(10**18)) & (values < 10**18))):
        return values.astype(np.int64)
    if values.dtype.kind == "f" and bool(np.all((np.abs(values) < EXACT) & (values == np.rint(values)))):
        return values.astype(np.int64)
    texts = pd.Series([_text(value) for value in values], dtype=object)
    whole = len(texts) > 0 and bool(texts.str.fullmatch(_WHOLE).all())
    return texts.to_numpy(np.int64) if whole else texts.to_numpy(object)


def _text(value: Any) -> str:
    """One id as text, a whole number without point whatever its column's type."""
    limit = 10**18 if isinstance(value, Decimal) else EXACT
    fraction = isinstance(value, float | np.floating | Decimal)
    return str(int(value)) if fraction and abs(value) < limit and value == int(value) else str(value)


def _controlled(ids: pd.Series) -> np.ndarray:
    """Where a text holds a control character: no store takes a NUL, no reader sees the others."""
    if pd.api.types.is_numeric_dtype(ids):
        return np.zeros(len(ids), bool)
    return ids.astype("string").str.contains(_CONTROL, regex=True).fillna(False).to_numpy(bool)


def _time(column: pd.Series) -> np.ndarray:
    """Unix microseconds, UTC where no zone is given; -1 where unreadable or outside 1970..2200."""
    numbers = pd.api.types.infer_dtype(column, skipna=True) in ("integer", "decimal")  # beside nulls they are objects
    if numbers or pd.api.types.is_numeric_dtype(column):
        return np.full(len(column), -1, np.int64)  # a number is no date: its unit would be a guess
    if pd.api.types.is_datetime64_any_dtype(column):
        parsed = pd.to_datetime(column, utc=True)
    else:
        # Apart: in one call pandas reads a stamp without zone in the zone of the stamp before it.
        texts = column.astype("string")
        zoned = texts.str.contains(_ZONE, regex=True).fillna(False).astype(bool)
        parsed = pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns, UTC]")
        for part in (zoned, ~zoned):
            parsed[part] = pd.to_datetime(texts[part], errors="coerce", utc=True, format="ISO8601")
    # Judged before the unit changes: far years in a column of days or seconds would wrap around.
    readable = (parsed >= pd.Timestamp(1970, 1, 1, tz="UTC")) & (parsed < pd.Timestamp(2200, 1, 1, tz="UTC"))
    us = parsed.where(readable).dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return np.where(readable.to_numpy(bool), us, -1)
