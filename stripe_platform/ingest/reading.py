"""Reads transaction files (Parquet, CSV) into one frame in which every record knows its file and row.

A file that cannot be a transaction file at all is refused as a whole, in one sentence; single bad records are not
judged here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

REQUIRED = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
OPTIONAL = ("CURRENCY",)


class FileError(ValueError):
    """A source file that is refused as a whole; the message names the file, the rule and the remedy."""


def read_transactions(files: Sequence[Path]) -> pd.DataFrame:
    """Columns `REQUIRED` (and `OPTIONAL` where present) as the files hold them, with `file` and `row` (from 1).

    A CSV line with the wrong number of fields comes as a record of nulls with `broken` true.
    """
    frames = []
    for file in files:
        frame = _read(file)
        if frame.empty:
            raise FileError(f"{file.name} holds no records: give a file with at least one transaction")
        frame["file"] = file.name
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def check(file: Path) -> None:
    """Refuse at once, without reading the records, what cannot be a transaction file."""
    with _open(file) as stream:
        if not stream.read(1):
            raise FileError(f"{file.name} is empty: give a file with at least one transaction")
    is_csv = file.suffix.lower() == ".csv"
    _columns(file, _csv_names(file) if is_csv else _parquet_schema(file).names)


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the files' bytes, in order."""
    total = hashlib.sha256()
    for file in files:
        with _open(file) as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _open(file: Path) -> BufferedReader:
    try:
        return file.open("rb")
    except OSError as error:
        raise FileError(f"{file} cannot be read ({error.strerror}): check the path and its permissions") from None


def _read(file: Path) -> pd.DataFrame:
    check(file)
    return _read_csv(file) if file.suffix.lower() == ".csv" else _read_parquet(file)


def _parquet_schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid:
        raise FileError(f"{file.name} is no Parquet file: give Parquet, or CSV with the ending .csv") from None


def _read_parquet(file: Path) -> pd.DataFrame:
    frame = pq.read_table(file, columns=_columns(file, _parquet_schema(file).names)).to_pandas()
    frame["row"] = range(1, len(frame) + 1)
    frame["broken"] = False
    return frame


def _csv_names(file: Path) -> list[str]:
    try:
        with pcsv.open_csv(file, parse_options=pcsv.ParseOptions(invalid_row_handler=lambda _row: "skip")) as head:
            return list(head.schema.names)
    except pa.ArrowInvalid:
        raise FileError(f"{file.name} is no CSV file with a header line: check its encoding and separator") from None


def _read_csv(file: Path) -> pd.DataFrame:
    broken: list[int] = []

    def skip(row: pcsv.InvalidRow) -> str:
        broken.append(row.number or 0)
        return "skip"

    names = _csv_names(file)
    # All text: a cell that does not parse must cost its record only, never the file. One thread: only then do
    # invalid rows know their number.
    converting = pcsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), include_columns=_columns(file, names),
        strings_can_be_null=True, null_values=[""],
    )  # fmt: skip
    try:
        frame = pcsv.read_csv(
            file, pcsv.ReadOptions(use_threads=False), pcsv.ParseOptions(invalid_row_handler=skip), converting
        ).to_pandas()
    except pa.ArrowInvalid:
        raise FileError(f"{file.name} cannot be read as CSV in UTF-8: check its encoding and quotes") from None
    taken = set(broken)
    numbers = (n for n in range(1, len(frame) + len(broken) + 1) if n + 1 not in taken)  # the header is line 1
    frame["row"] = [next(numbers) for _ in range(len(frame))]
    frame["broken"] = False
    lost = pd.DataFrame({"row": [n - 1 for n in broken], "broken": True}, index=range(len(broken)))
    return pd.concat([frame, lost], ignore_index=True) if broken else frame


def _columns(file: Path, names: Sequence[str]) -> list[str]:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise FileError(f"{file.name} lacks column {missing[0]}: it needs {', '.join(REQUIRED)}")
    return [*REQUIRED, *(name for name in OPTIONAL if name in names)]
