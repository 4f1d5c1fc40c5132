"""What a proof of equality says of a source's tables, and how far each of them is proven: `cdc/verified.json`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from resources.lake import Lake
from stripe_platform.cdc.manifest import canonical
from stripe_platform.cdc.pgoutput import lsn_int

VERIFIED = "cdc/verified.json"
Kind = Literal["lost", "extra", "altered", "doubled"]


@dataclass(frozen=True)
class Difference:
    """A key whose rows differ. `lost`: the log's fold lacks it, `extra`: the source does, `doubled`: too often here."""

    kind: Kind
    key: str


@dataclass
class TableProof:
    """What was compared of one table; equal when nothing differs. `unseen`: columns that no change brought yet.

    `keys`: how many keys were looked at, those changed since the last proof; None where every row was. `total`: rows
    of the log's fold.
    """

    table: str
    total: int = 0
    rows: int = 0
    rows_of_log: int = 0
    keys: int | None = None
    buckets_differing: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def equal(self) -> bool:
        return not self.buckets_differing and self.problem is None


@dataclass
class Proof:
    """Level C of one source at one position of one epoch. `xmin`: the oldest transaction that was open then;
    `retakes`: whether its tables can be taken anew.
    """

    source: str
    lsn: str
    at: str
    epoch: str = ""
    xmin: int = 0
    retakes: bool = False
    tables: list[TableProof] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return all(table.equal for table in self.tables)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def problems(self) -> list[str]:
        """One sentence for each table that differs."""
        return [self._sentence(table) for table in self.tables if not table.equal]

    def _sentence(self, proof: TableProof) -> str:
        if proof.problem:
            return f"{proof.table}: {proof.problem}"
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(proof.counts.items()))
        named = ", ".join(f"{d.key} ({d.kind})" for d in proof.differences[:3])
        remedy = "restore the lake from a backup, or start with an empty lake and warehouse"
        if self.retakes:
            again = f"cdc snapshot --source {self.source} --table {proof.table}"
            remedy = f"take the table anew with `stripe-platform {again}`"
        return (f"{proof.table}: the log's fold differs from the source at {self.lsn} in {counts}; first {named}:"
                f" {remedy}")

    def as_json(self) -> Mapping[str, Any]:
        """The proof as one object; of tables that are equal only the rows."""
        return {"source": self.source, "lsn": self.lsn, "at": self.at, "equal": self.equal, "rows": self.rows,
                "seconds": round(self.seconds, 3), "problems": self.problems(),
                "tables": {t.table: {"rows": t.rows} if t.equal else asdict(t) for t in self.tables}}


@dataclass(frozen=True)
class Verified:
    """How far a table equals its source. `xmin`: no younger transaction had changed it; `whole_at`: when every row was
    last compared, not only those changed since.
    """

    lsn: int
    epoch: str
    xmin: int
    whole_at: dt.datetime


def verified(lake: Lake) -> dict[str, dict[str, Any]]:
    """By table: `verified_through` (log position), `at`, `rows`, `whole_through` (up to where every row was compared,
    not only those changed since), and `differs_at` where a later proof failed.
    """
    return json.loads(lake.read(VERIFIED)) if lake.size(VERIFIED) is not None else {}


def standing(lake: Lake) -> dict[str, Verified]:
    """Tables whose last proof held, as far as a next one may build on it."""
    return {table: Verified(lsn_int(facts["verified_through"]), facts["epoch"], facts["xmin"],
                            dt.datetime.fromisoformat(facts["whole_at"]))
            for table, facts in verified(lake).items() if "whole_through" in facts and "differs_at" not in facts}


def publish(lake: Lake, proof: Proof) -> None:
    """Keep how far each table is verified; a table that differed keeps what was proven before."""
    known = verified(lake)
    for table in proof.tables:
        before = known.get(table.table, {})
        if not table.equal:
            known[table.table] = before | {"differs_at": proof.lsn}
            continue
        whole = {"whole_at": proof.at, "whole_through": proof.lsn} if table.keys is None else {
            name: before[name] for name in ("whole_at", "whole_through")}
        known[table.table] = {"verified_through": proof.lsn, "at": proof.at, "rows": table.total,
                              "epoch": proof.epoch, "xmin": proof.xmin, **whole}
    lake.put(VERIFIED, canonical(known))
