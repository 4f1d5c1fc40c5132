"""The landed files: the same bytes for a day, statements that add up, evidence that opens, leaks that are found."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import struct
import xml.dom.minidom
import xml.etree.ElementTree as ET
import zlib
from decimal import Decimal
from pathlib import Path

import pytest
from simulated_life import FIRST, LIFE, calendar, make

from stripe_platform.cards import holds_card_number
from stripe_platform.documents.landing import MAKERS, RefusedError
from stripe_platform.money import exponent
from stripe_platform.simulation.disguises import CARDS, DISGUISES, hidden
from stripe_platform.simulation.landing import land, landed
from stripe_platform.simulation.statements import NAMESPACE

OPTIONS = dataclasses.replace(LIFE, days=16, dispute_lag_days=8)
NS = {"c": NAMESPACE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, days = tmp_path_factory.mktemp("landing"), make(OPTIONS)
    for day in calendar(OPTIONS):
        land(days, day, found)
    return found


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def records(folder: Path, kind: str) -> list[dict]:
    return [json.loads(line) for file in sorted((folder / kind).iterdir()) for line in file.read_text().splitlines()]


def statements(folder: Path, day: dt.date) -> list[ET.Element]:
    root = ET.parse(folder / "bank_statements" / f"{day}.xml").getroot()  # noqa: S314
    return root.findall("c:BkToCstmrStmt/c:Stmt", NS)


def signed(node: ET.Element) -> Decimal:
    amount = Decimal(node.findtext("c:Amt", namespaces=NS))
    return amount if node.findtext("c:CdtDbtInd", namespaces=NS) == "CRDT" else -amount


def test_a_day_landed_alone_has_the_bytes_of_the_day_landed_in_order(folder: Path, tmp_path: Path):
    for day in (FIRST + dt.timedelta(days=9), calendar(OPTIONS)[-2]):
        alone = tmp_path / day.isoformat()
        land(make(OPTIONS), day, alone)
        assert content(alone) == {name: digest for name, digest in content(folder).items() if day.isoformat() in name}


def test_a_day_stands_when_all_its_files_do(folder: Path, tmp_path: Path):
    assert all(landed(day, folder, business=day < FIRST + dt.timedelta(days=16)) for day in calendar(OPTIONS))
    assert not landed(FIRST, tmp_path, business=False)


def test_a_statement_is_well_formed_and_runs_on_from_day_to_day(folder: Path):
    closing: dict[str, Decimal] = {}
    for day in calendar(OPTIONS):
        for each in statements(folder, day):
            currency = each.findtext("c:Acct/c:Ccy", namespaces=NS)
            opens, closes = (signed(node) for node in each.findall("c:Bal", NS))
            booked = [signed(node) for node in each.findall("c:Ntry", NS)]
            assert opens == closing.get(currency, opens)
            assert closes == opens + sum(booked)
            closing[currency] = closes
            digits = exponent(currency.lower())
            for node in each.findall("c:Ntry", NS):
                assert -Decimal(node.findtext("c:Amt", namespaces=NS)).as_tuple().exponent == digits
                assert node.find("c:Amt", NS).get("Ccy") == currency
                assert [child.tag.split("}")[1] for child in node] == [
                    "NtryRef", "Amt", "CdtDbtInd", "Sts", "BookgDt", "ValDt", "AcctSvcrRef", "BkTxCd", "NtryDtls"]
                assert len(node.findtext("c:NtryDtls/c:TxDtls/c:Refs/c:EndToEndId", namespaces=NS)) <= 35
    assert {"EUR", "JPY"} <= set(closing)


def test_another_parser_reads_the_same_message(folder: Path):
    day = FIRST + dt.timedelta(days=10)
    document = xml.dom.minidom.parse(str(folder / "bank_statements" / f"{day}.xml"))  # noqa: S318
    entries = document.getElementsByTagNameNS(NAMESPACE, "Ntry")
    assert len(entries) == sum(len(each.findall("c:Ntry", NS)) for each in statements(folder, day)) > 0


def test_entries_are_the_payouts_that_arrive_and_come_back(folder: Path):
    days = make(OPTIONS)
    sent, returned = {}, set()
    for day in calendar(OPTIONS):
        tables = days.rows(day)
        if tables.tables["payouts"].num_rows:
            sent |= {r["id"]: r for r in tables.tables["payouts"].to_pylist()}
        if "payouts" in tables.updates:
            changed = tables.updates["payouts"].to_pylist()
            returned |= {r["id"] for r in changed if r["status"] == "failed"}
            paid = {r["id"] for r in changed if r["status"] == "paid"}
        else:
            paid = set()
        booked = {}
        for each in statements(folder, day):
            for node in each.findall("c:Ntry", NS):
                name = node.findtext("c:NtryDtls/c:TxDtls/c:Refs/c:EndToEndId", namespaces=NS)
                if name.startswith("po_") and signed(node) < 0:
                    booked[name] = (signed(node), each.findtext("c:Acct/c:Ccy", namespaces=NS).lower())
                elif name.startswith("po_"):
                    assert name in returned
                    assert node.findtext("c:NtryDtls/c:TxDtls/c:RtrInf/c:Rsn/c:Cd", namespaces=NS)
        assert set(booked) == paid
        for name, (amount, currency) in booked.items():
            assert currency == sent[name]["currency"]
            assert -amount == Decimal(sent[name]["amount"]).scaleb(-exponent(currency))
    assert sent


def test_evidence_is_what_its_manifest_says_and_opens(folder: Path):
    rows = [row for file in sorted((folder / "dispute_evidence").glob("*.json"))
            for row in json.loads(file.read_text())["files"]]
    assert {row["media_type"] for row in rows} == {"application/pdf", "image/png"}
    for row in rows:
        held = (folder / "dispute_evidence" / row["file"]).read_bytes()
        assert (len(held), hashlib.sha256(held).hexdigest()) == (row["bytes"], row["sha256"])
        if row["media_type"] == "image/png":
            width, height = struct.unpack(">II", held[16:24])
            start = held.index(b"IDAT")
            size = struct.unpack(">I", held[start - 4:start])[0]
            assert len(zlib.decompress(held[start + 4:start + 4 + size])) == height * (width + 1)
        else:
            table = int(held.split(b"startxref\n")[1].split()[0])
            assert held.startswith(b"%PDF-1.4")
            assert held[table:].startswith(b"xref\n")
            for number, line in enumerate(held[table:].split(b"\n")[3:8], start=1):
                assert held[int(line.split()[0]):].startswith(b"%d 0 obj" % number)


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("card", range(len(CARDS)))
def test_every_disguise_of_every_test_number_is_found(disguise: str, card: int):
    text = hidden(card, list(DISGUISES).index(disguise))
    for around in ("{}", "My card is {}, please look.", "order 12: {} of 3"):
        assert holds_card_number(around.format(text)), ascii(text)


def test_feedback_with_a_card_is_refused_and_all_else_is_taken_in(folder: Path):
    now, refused = dt.datetime.now(dt.UTC), []
    for kind in ("sessions", "customer_feedback"):
        for file in sorted((folder / kind).iterdir()):
            for line in file.read_text().splitlines():
                record = json.loads(line)
                try:
                    MAKERS[kind](record, dt.date.fromisoformat(file.stem), now)
                except RefusedError as error:
                    refused.append((error.rule, record["text"]))
    assert {rule for rule, _ in refused} == {"card_number"}
    assert all("My card is" in text for _, text in refused)
    planted = [r for r in records(folder, "customer_feedback") if "My card is" in r["text"]]
    assert len(planted) == len(refused) > 0


def test_feedback_logs_and_sessions_hold_what_they_promise(folder: Path):
    feedback, logs, sessions = (records(folder, kind) for kind in ("customer_feedback", "logs", "sessions"))
    assert {r["kind"] for r in feedback} == {"review", "survey"}
    assert len({r["language"] for r in feedback}) >= 3
    assert {e["type"] for r in sessions for e in r["events"]} >= {
        "open", "view", "search", "add_to_cart", "remove_from_cart", "begin_checkout", "purchase"}
    assert {r["kind"] for r in logs} == {"access", "error"}
    leaks = [r for r in logs if "cannot read form" in r.get("message", "")]
    assert len(leaks) == 3 * 16
    clean = [r for r in logs if r not in leaks]
    assert not any("@" in json.dumps(r) or holds_card_number(json.dumps(r)) for r in clean)
