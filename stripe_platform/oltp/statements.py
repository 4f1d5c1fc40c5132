"""Bank statements as camt.053 (ISO 20022), read into `bank_statement_lines`.

The file comes from outside: a document type, and with it every entity, is refused before anything of it is read. Who
paid or was paid is not kept; account, day, amount and reference are.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

import psycopg

from stripe_platform.money import AmountError, to_minor

MAX_DEPTH = 40
MAX_TEXT = 100_000  # characters of one element
_CHUNK = 1 << 16


class StatementError(ValueError):
    """A file that is no statement we read; the message names the rule and the place, never an amount or a person."""


@dataclass(frozen=True)
class Line:
    """One booked movement: minor units as the currency's are, out below zero."""

    id: str
    account: str
    booked_on: dt.date
    amount: int
    currency: str
    reference: str | None


@dataclass(eq=False)
class _Node:
    tag: str
    attributes: dict[str, str]
    parent: _Node | None
    children: list[_Node] = field(default_factory=list)
    text: str = ""

    def find(self, path: str) -> _Node | None:
        here: _Node | None = self
        for name in path.split("/"):
            here = next((child for child in here.children if child.tag == name), None) if here else None
        return here

    def value(self, *paths: str) -> str | None:
        found = (self.find(path) for path in paths)
        return next((node.text.strip() for node in found if node is not None and node.text.strip()), None)


def read_camt053(file: BinaryIO) -> Iterator[Line]:
    """Booked movements of all statements of a file, one per transaction where an entry lists them.

    A file of any size is read in pieces; entries are let go when they were read.
    """
    reader = _Reader()
    while chunk := file.read(_CHUNK):
        reader.feed(chunk, last=False)
        yield from reader.take()
    reader.feed(b"", last=True)
    yield from reader.take()
    if not reader.statements:
        raise StatementError("the file holds no camt.053 statement: give the bank's BkToCstmrStmt message")


def import_camt053(conn: psycopg.Connection, file: BinaryIO) -> int:
    """Store a file's lines in one transaction; lines stored now. The same line again, in any file, is no new one."""
    with conn.transaction():
        stored = 0
        for line in read_camt053(file):
            values = [line.id, line.account, line.booked_on, line.amount, line.currency, line.reference]
            stored += (added := conn.execute(
                "insert into oltp.bank_statement_lines (id, account, booked_on, amount, currency, reference)"
                " values (%s, %s, %s, %s, %s, %s) on conflict (id) do nothing", values).rowcount)
            if not added and conn.execute(
                "select 1 from oltp.bank_statement_lines where id = %s and account = %s and booked_on = %s"
                " and amount = %s and currency = %s and reference is not distinct from %s", values
            ).fetchone() is None:
                raise StatementError(f"line {line.id} came before with other contents: ask the bank for a correction")
    return stored


class _Reader:
    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator="}")
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._here: _Node | None = None
        self._depth = 0
        self._entries = 0
        self._lines: list[Line] = []
        self.statements = 0

    def feed(self, data: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise StatementError(f"the file is no well-formed XML at line {error.lineno}: fetch it again") from None

    def take(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines

    @staticmethod
    def _refuse(*_: object) -> None:
        raise StatementError("the file declares a document type: banks' statements have none, it is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise StatementError(f"the file nests deeper than {MAX_DEPTH} elements: it is no statement")
        node = _Node(name.rpartition("}")[2], attributes, self._here)
        if self._here is not None:
            self._here.children.append(node)
        self._here = node
        if node.tag == "Stmt":
            self.statements += 1
            self._entries = 0

    def _text(self, data: str) -> None:
        if self._here is not None:
            self._here.text += data
            if len(self._here.text) > MAX_TEXT:
                raise StatementError(f"an element holds more than {MAX_TEXT} characters: the file is no statement")

    def _end(self, _: str) -> None:
        self._depth -= 1
        node = self._here
        if node is None:
            return
        self._here = node.parent
        if node.tag == "Ntry" and node.parent is not None and node.parent.tag == "Stmt":
            self._entries += 1
            self._lines += _lines(node.parent, node, self._entries)
            node.parent.children.remove(node)


def _lines(statement: _Node, entry: _Node, number: int) -> Iterator[Line]:
    place = f"entry {number} of statement {statement.value('Id') or '?'}"
    if (entry.value("Sts/Cd", "Sts") or "BOOK") != "BOOK":
        return
    account = statement.value("Acct/Id/IBAN", "Acct/Id/Othr/Id")
    booked = entry.value("BookgDt/Dt", "BookgDt/DtTm")
    if account is None or booked is None:
        raise StatementError(f"{place} lacks its account or booking date: ask the bank for a complete statement")
    details = [tx for group in entry.children if group.tag == "NtryDtls" for tx in group.children if tx.tag == "TxDtls"]
    parts = details if len(details) > 1 else [*details, entry][:1]
    bank_reference = entry.value("AcctSvcrRef", "NtryRef")
    for position, part in enumerate(parts):
        amount = part.find("Amt") or part.find("AmtDtls/TxAmt/Amt") or (entry.find("Amt") if len(parts) == 1 else None)
        direction = part.value("CdtDbtInd") or entry.value("CdtDbtInd")
        if amount is None or direction not in ("CRDT", "DBIT") or "Ccy" not in amount.attributes:
            raise StatementError(f"{place} lacks an amount, currency or direction: ask the bank for a complete one")
        currency = amount.attributes["Ccy"].lower()
        try:
            minor = to_minor(amount.text.strip(), currency)
            day = dt.date.fromisoformat(booked[:10])
        except AmountError as error:
            raise StatementError(f"{place}: {error}") from None
        except ValueError:
            raise StatementError(f"{place} has a booking date that is none: ask the bank for a correction") from None
        if minor == 0:
            continue
        name = (account, bank_reference or f"{statement.value('Id')}#{number}", str(position))
        yield Line(
            "bsl_" + hashlib.sha256("\x1f".join(name).encode()).hexdigest()[:32], account, day,
            minor if direction == "CRDT" else -minor, currency, part.value("Refs/EndToEndId", "EndToEndId"),
        )  # fmt: skip
