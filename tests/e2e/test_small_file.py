"""A source file of a few days with bad records in it, as a new user brings one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.users
HEADER = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,CURRENCY"
GOOD = [f"t{i},2025-03-0{1 + i % 3} 0{i % 10}:15:00,c{i % 5},p{i % 4},{10 + i}.50,0,eur" for i in range(30)]
BAD = {
    "t100,2025-03-01 10:00:00,c1,p1,,0,eur": "amount_is_a_number",
    "t101,2025-03-01 10:00:00,c1,p1,-4.00,0,eur": "amount_not_negative",
    "t102,2025-03-02 10:00:00,c1,p1,4.00,0,xxq": "currency_known",
    "t3,2025-03-02 10:00:00,c1,p1,4.00,0,eur": "transaction_unique",
}


def test_a_short_file_with_bad_records_goes_through_every_layer_without_a_model(new_platform, tmp_path: Path):
    file = tmp_path / "march.csv"
    file.write_text("\n".join([HEADER, *GOOD, *BAD]) + "\n")
    report = new_platform("small_file").json("demo", "--source", str(file))
    charges = {layer: report["layers"][layer]["charges"] for layer in ("oltp", "raw", "marts", "documents")}
    assert set(charges.values()) == {len(GOOD)}
    assert {row["rule"]: row["records"] for row in report["quarantine"]} == dict.fromkeys(BAD.values(), 1)
    assert all("march.csv row" in row["first"] for row in report["quarantine"])
    assert report["checks"]["failed"] == 0
    assert report["model"]["average_precision"] is None
