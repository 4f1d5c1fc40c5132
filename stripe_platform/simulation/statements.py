"""Bank statements of the platform: what card networks paid, what payouts took, what banks sent back.

ISO 20022 camt.053.001.08: one file per day, one statement per account (each currency has one), booked entries with the
payout's id as end-to-end id. Amounts are major units with the currency's digits; balances run on from day to day.
"""

from __future__ import annotations

import datetime as dt
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

from stripe_platform.money import to_major
from stripe_platform.oltp.reference import CURRENCIES
from stripe_platform.simulation.days import Days
from stripe_platform.simulation.settlement import lost

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
OPENING = 10**12  # minor units on every account before the first day
_RETURNS = {"account_closed": "AC04", "no_account": "AC01", "invalid_account_number": "AC02",
            "could_not_process": "MS03"}  # fmt: skip
_CODES = {"settlement": ("PMNT", "CCRD", "POSP"), "payout": ("PMNT", "ICDT", "ESCT"),
          "return": ("PMNT", "RCDT", "RRTN"), "refunds": ("PMNT", "CCRD", "CDPT")}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A booked movement; credit above zero, minor units. `end_to_end`: the payout's id, or the settlement's name."""

    kind: str
    end_to_end: str
    amount: int
    text: str
    returned: str | None = None


@dataclass(frozen=True)
class Statement:
    """One account's day."""

    currency: str
    opening: int
    entries: tuple[Entry, ...]

    @property
    def closing(self) -> int:
        return self.opening + sum(entry.amount for entry in self.entries)


def settlements(days: Days, day: dt.date) -> dict[tuple[str, str], int]:
    """What the networks settle on `day` for the live day before it: by kind and currency."""
    before = day - dt.timedelta(days=1)
    while not days.live(before):
        if before < days.options.first_day:
            return {}
        before -= dt.timedelta(days=1)
    sums: dict[tuple[str, str], int] = {}

    def add(kind: str, currency: np.ndarray, amount: np.ndarray) -> None:
        for name in np.unique(currency.astype(str)):
            mine = currency.astype(str) == name
            sums[kind, str(name)] = sums.get((kind, str(name)), 0) + int(amount[mine].sum())

    if before in days.business:
        made = days.made(before)
        add("settlement", made.currency, made.captured)
        amount, account = days.renewed(before)
        add("settlement", days.world.account_currency[account], amount)
    begun = days.refunds(before)
    add("refunds", begun.currency, -begun.amount)
    for found, moved in days.moved(before, disputes=False):
        failed = [row for row, step in moved if found.steps[row, step] == 3]
        add("refunds", found.currency[failed], found.amount[failed])
    for found, moved in days.moved(before, disputes=True):
        rows = lost(found, moved)
        add("settlement", found.currency[rows], -found.amount[rows])
    return {what: amount for what, amount in sums.items() if amount}


def entries(days: Days, day: dt.date) -> dict[str, list[Entry]]:
    """Booked movements of the day by currency."""
    number, payouts = days.number(day), days.payouts
    settled_in = days.merchants.settlement
    found: dict[str, list[Entry]] = {}
    for (kind, currency), amount in sorted(settlements(days, day).items()):
        name = f"{'NET' if kind == 'settlement' else 'REF'}{currency.upper()}{day:%Y%m%d}"
        text = "Card networks, payments" if kind == "settlement" else "Card networks, refunds"
        found.setdefault(currency, []).append(Entry(kind, name, amount, text))
    if (arrived := payouts.arriving(number)) is not None:
        for name, account, amount in zip(arrived.ids, arrived.account, arrived.amount, strict=True):
            found.setdefault(str(settled_in[account]), []).append(Entry("payout", name, -int(amount), "Payout"))
    for batch, row in payouts.coming_back(number):
        currency = str(settled_in[batch.account[row]])
        found.setdefault(currency, []).append(
            Entry("return", batch.ids[row], int(batch.amount[row]), "Payout returned", _RETURNS[str(batch.code[row])]))
    return found


def statements(days: Days, day: dt.date) -> list[Statement]:
    """The day's statements, one per currency of the platform's accounts."""
    currencies = sorted({*days.world.account_currency.tolist(), *days.merchants.settlement.tolist()})
    balance = dict.fromkeys(currencies, OPENING)
    for number in range(days.number(day)):
        before = days.options.first_day + dt.timedelta(days=number)
        if days.live(before):
            if before not in days.booked:
                days.booked[before] = {c: sum(e.amount for e in found) for c, found in entries(days, before).items()}
            for currency, booked in days.booked[before].items():
                balance[currency] += booked
    today = entries(days, day)
    return [Statement(c, balance[c], tuple(today.get(c, ()))) for c in currencies]


def camt053(found: list[Statement], day: dt.date) -> bytes:
    """The statements as one message."""
    root = ET.Element("Document", {"xmlns": NAMESPACE})
    message = ET.SubElement(root, "BkToCstmrStmt")
    made = f"{day + dt.timedelta(days=1)}T00:30:00Z"
    _texts(ET.SubElement(message, "GrpHdr"), ("MsgId", f"CAMT053-{day:%Y%m%d}"), ("CreDtTm", made))
    for each in found:
        _statement(ET.SubElement(message, "Stmt"), each, day, made)
    ET.indent(root, " ")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def _statement(node: ET.Element, each: Statement, day: dt.date, made: str) -> None:
    upper = each.currency.upper()
    _texts(node, ("Id", f"{upper}-{day:%Y%m%d}"), ("ElctrncSeqNb", str(day.timetuple().tm_yday)), ("CreDtTm", made))
    _texts(ET.SubElement(node, "FrToDt"), ("FrDtTm", f"{day}T00:00:00Z"), ("ToDtTm", f"{day}T23:59:59Z"))
    account = ET.SubElement(node, "Acct")
    _texts(ET.SubElement(ET.SubElement(account, "Id"), "Othr"), ("Id", f"PLATFORM-{upper}"))
    _texts(account, ("Ccy", upper))
    for code, balance in (("OPBD", each.opening), ("CLBD", each.closing)):
        bal = ET.SubElement(node, "Bal")
        _texts(ET.SubElement(ET.SubElement(bal, "Tp"), "CdOrPrtry"), ("Cd", code))
        _amount(bal, balance, each.currency)
        _texts(ET.SubElement(bal, "Dt"), ("Dt", day.isoformat()))
    for number, entry in enumerate(each.entries, start=1):
        _entry(ET.SubElement(node, "Ntry"), entry, each.currency, day, f"{upper}{day:%Y%m%d}{number:06d}")


def _entry(node: ET.Element, entry: Entry, currency: str, day: dt.date, reference: str) -> None:
    _texts(node, ("NtryRef", reference))
    _amount(node, entry.amount, currency)
    _texts(ET.SubElement(node, "Sts"), ("Cd", "BOOK"))
    for name in ("BookgDt", "ValDt"):
        _texts(ET.SubElement(node, name), ("Dt", day.isoformat()))
    _texts(node, ("AcctSvcrRef", reference))
    domain, family, sub = _CODES[entry.kind]
    code = ET.SubElement(ET.SubElement(node, "BkTxCd"), "Domn")
    _texts(code, ("Cd", domain))
    _texts(ET.SubElement(code, "Fmly"), ("Cd", family), ("SubFmlyCd", sub))
    details = ET.SubElement(ET.SubElement(node, "NtryDtls"), "TxDtls")
    _texts(ET.SubElement(details, "Refs"), ("EndToEndId", entry.end_to_end))
    _amount(details, entry.amount, currency)
    _texts(ET.SubElement(details, "RmtInf"), ("Ustrd", entry.text))
    if entry.returned:
        _texts(ET.SubElement(ET.SubElement(details, "RtrInf"), "Rsn"), ("Cd", entry.returned))


def _amount(node: ET.Element, minor: int, currency: str) -> None:
    digits = CURRENCIES[currency][1]
    amount = ET.SubElement(node, "Amt", {"Ccy": currency.upper()})
    amount.text = f"{to_major(abs(minor), currency):.{digits}f}"
    _texts(node, ("CdtDbtInd", "CRDT" if minor >= 0 else "DBIT"))


def _texts(node: ET.Element, *pairs: tuple[str, str]) -> None:
    for name, text in pairs:
        ET.SubElement(node, name).text = text
