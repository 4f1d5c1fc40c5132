"""Reads transaction files (Parquet, CSV) into one frame in which every record knows its file and row.

A file that cannot be a transaction file at all is refused as a whole, in one sentence; single bad records are not
judged here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pyarrow.types as kinds

from stripe_platform.ingest.quotes import UNCLOSED, header_of, mend

REQUIRED = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
OPTIONAL = ("CURRENCY",)

# What Arrow raises for damaged content: its own exceptions, OSError for pages, and names that are no UTF-8.
_DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)


# What a Parquet column may hold beside text and nulls, and how the refusal names it.
_TYPES = {
    **dict.fromkeys(("TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT"), ((_is_number,), "text or numbers")),
    "TX_FRAUD": ((_is_number, kinds.is_boolean), "text, numbers or booleans"),
    "TX_DATETIME": ((_is_number, kinds.is_date, kinds.is_timestamp), "text, dates or timestamps"),
    "CURRENCY": ((), "text"),
}


class FileError(ValueError):
    """A source file that is refused as a whole; the message names the file, the rule and the remedy."""


def read_transactions(files: Sequence[Path]) -> pd.DataFrame:
    """Columns `REQUIRED` (and `OPTIONAL` where present) as the files hold them, with `file` and `row` (from 1).

    A CSV line that is no record comes as one of nulls; `broken` names the rule it breaks, and is empty otherwise.
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
    if file.suffix.lower() == ".csv":
        _columns(file, _csv_names(file))
    else:
        _parquet_columns(file)


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the files' bytes, in order."""
    total = hashlib.sha256()
    for file in files:
        with _open(file) as stream:
            try:
                total.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise _unreadable(file, error) from None
    return total.hexdigest()


def _open(file: Path) -> BufferedReader:
    try:
        return file.open("rb")
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> FileError:
    return FileError(f"{file} cannot be read ({error.strerror}): check the path and its permissions")


def _read(file: Path) -> pd.DataFrame:
    check(file)
    return _read_csv(file) if file.suffix.lower() == ".csv" else _read_parquet(file)


def _parquet_columns(file: Path) -> list[str]:
    try:
        schema = pq.read_schema(file)
        names = schema.names
    except _DAMAGED:
        raise FileError(f"{file.name} is no Parquet file: give Parquet, or CSV with the ending .csv") from None
    columns = _columns(file, names)
    for name in columns:
        kind = schema.field(name).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        allowed, words = _TYPES[name]
        if not (kinds.is_null(kind) or _is_text(kind) or any(fits(kind) for fits in allowed)):
            raise FileError(f"{file.name}: column {name} holds {kind}, which it cannot: write it as {words}")
    return columns


def _read_parquet(file: Path) -> pd.DataFrame:
    columns = _parquet_columns(file)
    try:
        table = pq.read_table(file, columns=columns, page_checksum_verification=True)
        plain = {name: _undictionary(table.column(name)) for name in columns}
        # Without the metadata of the writer, which may turn columns into an index; integers beside nulls stay exact.
        frame = pa.table(plain).to_pandas(integer_object_nulls=True, date_as_object=False)
    except _DAMAGED:
        raise FileError(f"{file.name} is damaged behind its Parquet schema: copy or write the file anew") from None
    frame["row"] = range(1, len(frame) + 1)
    frame["broken"] = ""
    return frame


def _undictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if kinds.is_dictionary(column.type) else column


def _csv_names(file: Path) -> list[str]:
    with _open(file) as stream:
        try:
            head = header_of(stream.read(1 << 20))
        except OSError as error:
            raise _unreadable(file, error) from None
    if head.count(b'"') % 2:
        raise FileError(f"{file.name}: a quote opened in its header is never closed: close it, or take it away")
    _check_utf8(file, head)
    try:
        return list(pcsv.read_csv(pa.BufferReader(head + b"\n")).schema.names)
    except _DAMAGED:
        raise FileError(f"{file.name} is no CSV file with a header line: check its encoding and separator") from None


def _check_utf8(file: Path, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{file.name} line {line} is not in UTF-8: save the file as CSV in UTF-8") from None
    if b"\0" in content[:64]:
        raise FileError(f"{file.name} line 1 is not in UTF-8: save the file as CSV in UTF-8")


def _read_csv(file: Path) -> pd.DataFrame:
    lost: dict[int, str] = {}

    def skip(row: pcsv.InvalidRow) -> str:
        lost[(row.number or 0) - 1] = "quote_closed" if row.text == UNCLOSED.decode() else "record_complete"
        return "skip"

    names = _csv_names(file)
    columns = _columns(file, names)
    with _open(file) as stream:
        try:
            content = stream.read()
        except OSError as error:
            raise _unreadable(file, error) from None
    _check_utf8(file, content)
    content, multiline = mend(content, names, columns)
    # All text: a cell that does not parse must cost its record only, never the file. One thread: only then do
    # invalid rows know their number.
    converting = pcsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), include_columns=columns,
        strings_can_be_null=True, null_values=[""],
    )  # fmt: skip
    parsing = pcsv.ParseOptions(invalid_row_handler=skip, newlines_in_values=multiline)
    try:
        source = pa.BufferReader(content)
        frame = pcsv.read_csv(source, pcsv.ReadOptions(use_threads=False), parsing, converting).to_pandas()
    except _DAMAGED:
        raise FileError(f"{file.name} cannot be read as CSV in UTF-8: check its encoding and quotes") from None
    frame["row"] = np.setdiff1d(np.arange(1, len(frame) + len(lost) + 1), list(lost))
    frame["broken"] = ""
    if not lost:
        return frame
    return pd.concat([frame, pd.DataFrame({"row": list(lost), "broken": list(lost.values())})], ignore_index=True)


def _columns(file: Path, names: Sequence[str]) -> list[str]:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise FileError(f"{file.name} lacks column {missing[0]}: it needs {', '.join(REQUIRED)}")
    columns = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
    for name in columns:
        if list(names).count(name) > 1:
            raise FileError(f"{file.name} has column {name} more than once: keep the one that counts")
    return columns
