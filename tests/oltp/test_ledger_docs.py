"""docs/ledger.md names every invariant, as its function states it, with checks and mutations that exist."""

from __future__ import annotations

import re
from pathlib import Path

from ledger_invariants import INVARIANTS
from ledger_mutations import MUTATIONS

from asset_checks.suites import every

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


def rows() -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| L\d+ ", line)]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_page_has_every_invariant_once():
    assert list(rows()) == [f"L{number}" for number in range(1, 25)]


def test_the_page_states_them_as_their_functions_and_mutations_do():
    for name, invariant in INVARIANTS.items():
        statement, held, _, mutations = rows()[name]
        assert statement == (invariant.__doc__ or "").splitlines()[0]
        assert held
        assert mutations == "; ".join(m.what for m in MUTATIONS if m.invariant == name)


def test_the_checks_it_names_exist():
    known = {check.name for check in every()}
    for name, row in rows().items():
        assert set(re.findall(r"`(\w+)`", row[2])) <= known, name
