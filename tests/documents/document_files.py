"""Change files and snapshots of a small ledger, written as the capture writes them."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from resources.lake import LocalLake
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import snapshots as states
from stripe_platform.cdc.compact import encode

FIRST = dt.date(2026, 6, 1)
CHARGE = {
    "payment_intent_id": "pi_1", "account_id": "acct_1", "customer_id": "cus_1", "payment_method_id": "pm_1",
    "terminal_id": "tmr_1", "amount": 1_000, "amount_captured": 1_000, "amount_refunded": 0, "currency": "eur",
    "status": "succeeded", "disputed": False, "failure_code": None, "device_type": "mobile", "ip_country": "FR",
}
OUTCOME = {"type": "authorized", "network_status": "approved_by_network", "reason": None, "risk_level": "normal",
           "risk_score": 7}
DISPUTE = {"amount": 1_000, "currency": "eur", "status": "needs_response", "reason": "fraudulent"}


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number - 1)


def noon(number: int) -> dt.datetime:
    return dt.datetime.combine(day(number), dt.time(12), dt.UTC)


@dataclass
class Ledger:
    """Changes by table and ledger day; `write` puts all days up to the last one into the lake."""

    lake: LocalLake
    changes: dict[tuple[str, dt.date], list[dict[str, Any]]] = field(default_factory=dict)
    position: int = 0

    def change(self, table: str, on: int, op: str, row: dict[str, Any], epoch: str = "000001-00000001") -> None:
        self.position += 1
        envelope = {"_op": op, "_commit_lsn": 1_000 + self.position, "_ord": 0, "_commit_ts": noon(on),
                    "_epoch": epoch, "_source": "oltp", "_unchanged": []}
        self.changes.setdefault((table, day(on)), []).append(row | envelope)

    def charge(self, name: str, on: int, *, created: int | None = None, op: str = "c", **more: Any) -> None:
        row = CHARGE | {"id": f"ch_{name}", "created": noon(created or on)} | more
        self.change("charges", on, op, row)
        if op == "c":
            self.change("charge_outcomes", on, "c", OUTCOME | {"charge_id": f"ch_{name}"})

    def dispute(self, name: str, on: int, **more: Any) -> None:
        self.change("disputes", on, "c",
                    DISPUTE | {"id": f"dp_{name}", "charge_id": f"ch_{name}", "created": noon(on)} | more)

    def write(self, days: int) -> list[dt.date]:
        """Daily files, manifests and snapshots of days 1..`days`."""
        for number in range(1, days + 1):
            for table in ("charges", "charge_outcomes", "disputes"):
                self._daily(table, day(number))
            self._snapshot("customers", day(number), [{"id": f"cus_{n}", "token": f"payer_{n}"} for n in (1, 2)])
            self._snapshot("accounts", day(number), [{"id": "acct_1", "token": "merchant_1"}])
            self._snapshot("terminals", day(number), [
                {"id": "tmr_1", "country": "DE", "latitude": "52.52000", "longitude": "13.40500"}])
        return [day(number) for number in range(1, days + 1)]

    def _daily(self, table: str, of: dt.date) -> None:
        rows = self.changes.get((table, of), [])
        data = encode(pa.Table.from_pylist(rows, dailies.schema_of(table)))
        digest = hashlib.sha256(data).hexdigest()
        made = dailies.Daily(
            table=table, day=of, closed=True, through_seq=1, rows=len(rows), ops={}, size=len(data), sha256=digest,
            sources=(dailies.Source(1, "b", digest),))
        self.lake.put(dailies.data_path(table, of), data)
        self.lake.put(dailies.manifest_path(table, of), made.encode())

    def _snapshot(self, table: str, of: dt.date, rows: list[dict[str, Any]]) -> None:
        self.lake.put(states.data_path(table, of), encode(pa.Table.from_pylist(rows)))
