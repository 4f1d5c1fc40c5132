"""What a transaction record must fulfil. Checks are vectorised; each bad record is named with its first broken rule."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stripe_platform.money import exponent
from stripe_platform.oltp.bulk import BadRecord
from stripe_platform.oltp.reference import CURRENCIES

_ZONE = r":.*(?:[Zz]|[+-][0-9]{2}:?(?:[0-9]{2})?)$"  # after a time of day: the day of a bare date is no zone
EXACT = 2**53  # beyond it a double no longer holds every minor unit

# Rule and its sentence, in the order in which they are judged.
RULES = {
    "record_complete": "the line has another number of fields than the header",
    "transaction_named": "the transaction id is missing",
    "customer_named": "the customer id is missing",
    "terminal_named": "the terminal id is missing",
    "time_readable": "the time cannot be read as a date and time",
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
    time = _time(raw["TX_DATETIME"])
    amount = pd.to_numeric(raw["TX_AMOUNT"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    label = pd.to_numeric(raw["TX_FRAUD"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    money = raw["CURRENCY"].fillna(currency).astype(str).str.lower() if "CURRENCY" in raw else None
    codes = np.full(len(raw), currency) if money is None else money.to_numpy(str)
    names, which = np.unique(codes, return_inverse=True)
    digits = np.array([exponent(c) for c in names])[which]
    known = np.array([c in CURRENCIES for c in names])[which]
    with np.errstate(invalid="ignore", over="ignore"):
        minor = amount * 10.0**digits
        whole = np.rint(minor)
        inexact = (np.abs(minor - whole) > 1e-4) | ((digits == 3) & (whole % 10 != 0))
    broken = {
        "record_complete": raw["broken"].to_numpy(bool),
        "transaction_named": raw["TRANSACTION_ID"].isna().to_numpy(),
        "customer_named": raw["CUSTOMER_ID"].isna().to_numpy(),
        "terminal_named": raw["TERMINAL_ID"].isna().to_numpy(),
        "time_readable": time < 0,
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
        "terminal": _plain(raw["TERMINAL_ID"].to_numpy()[fine]), "us": time[fine],
        "minor": whole[fine].astype(np.int64),
        "currency": codes[fine], "fraud": label[fine] == 1.0, "file": raw["file"].to_numpy()[fine],
        "row": raw["row"].to_numpy()[fine],
    })  # fmt: skip
    rows = np.nonzero(~fine)[0]
    bad = [refusal(raw.iloc[i], rules[first[i]]) for i in rows]
    return Judged(good.sort_values(["us", "file", "row"], kind="stable", ignore_index=True), bad, time[rows])


def refusal(record: pd.Series, rule: str) -> BadRecord:
    """One bad record with its sentence; its values go into the (encrypted) payload only."""
    where = f"{record['file']} row {record['row']}"
    values = {str(k): None if pd.isna(v) else str(v) for k, v in record.items() if k not in ("file", "row", "broken")}
    return BadRecord(where, rule, f"{where}: {RULES[rule]} (rule {rule})", json.dumps(values).encode())


def _plain(values: np.ndarray) -> np.ndarray:
    """Ids as int64 where all of them are plain whole numbers, else as text: CSV and Parquet give the same."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "f" and bool(np.all(values == np.rint(values))) and bool(np.all(np.abs(values) < EXACT)):
        return values.astype(np.int64)
    texts = pd.Series(values).astype(str)
    whole = bool(texts.str.fullmatch(r"0|[1-9][0-9]{0,17}").all())
    return texts.to_numpy(np.int64) if whole and len(texts) else texts.to_numpy(object)


def _time(column: pd.Series) -> np.ndarray:
    """Unix microseconds, UTC where no zone is given; -1 where unreadable or outside 1970..2200."""
    if pd.api.types.is_numeric_dtype(column):
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
    missing = parsed.isna().to_numpy()
    us = parsed.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return np.where(missing | (us < 0) | (us >= 7_258_118_400_000_000), -1, us)
