"""A file of transactions as a feed: business day by business day through the bulk write API.

Terminals become merchants' terminals, customers payers with one card each; fraud labels come back seven days later
as disputes, with a tail of days that bring nothing else. Everything is a function of the file and its options.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa

from stripe_platform.ingest.people import People
from stripe_platform.ingest.reading import FileError, check, digest_of, read_transactions
from stripe_platform.ingest.rules import RULES, Judged, id_hashes, judge
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp.bulk import BadRecord, DayRows, load_day
from stripe_platform.oltp.feed import BusinessDays, DayLoad, observe
from stripe_platform.oltp.ids import day_us, uuid7_named
from stripe_platform.oltp.reference import COUNTRIES, CURRENCIES, REPORTING
from stripe_platform.oltp.turns import Turn
from stripe_platform.reference.days import Door
from stripe_platform.settings import Settings

LABEL_DELAY = dt.timedelta(days=7)
DAY_US = 86_400_000_000
LONGEST = 3_660  # days of a window that nobody asked for: one wrong year would make partitions for decades


class FileFeed:
    """Transactions of `files` within [start, start + days); without a window, all the files hold."""

    name = "file"

    def __init__(
        self, settings: Settings, files: Sequence[Path], *, currency: str = REPORTING, country: str = "FR",
        start: dt.date | None = None, days: int | None = None,
    ) -> None:
        currency = currency.lower()  # as in the files' column
        if currency not in CURRENCIES:
            raise FileError(f"{files[0].name}: currency {currency!r} is unknown: name one of {', '.join(CURRENCIES)}")
        if country not in COUNTRIES:
            raise FileError(f"{files[0].name}: country {country!r} is unknown: name one of {', '.join(COUNTRIES)}")
        if days is not None and days < 1:
            raise FileError(f"{files[0].name}: a window has at least one day")
        self._settings, self._files, self._door = settings, tuple(files), Door(settings)
        self._currency, self._country, self._start, self._days = currency, country, start, days

    @cached_property
    def digest(self) -> str:
        """Identity of the source: bytes of the files and every option that changes a row."""
        options = {"files": digest_of(self._files), "currency": self._currency, "country": self._country,
                   "start": str(self._start), "days": self._days}  # fmt: skip
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def calendar(self) -> BusinessDays:
        calendar, _ = self._calendar, self._mine  # a window without transactions is refused, not remembered
        return calendar

    @cached_property
    def _calendar(self) -> BusinessDays:
        for file in self._files:
            check(file)  # before a server starts or a day is remembered for a file that cannot be used
        return BusinessDays(*self._window, tail=LABEL_DELAY.days)

    def bring(self, day: dt.date, turn: Turn | None = None) -> DayLoad:
        """Import one day; a day outside the calendar is observed, not made."""
        with psycopg.connect(self._settings.need("oltp_dsn"), autocommit=True) as conn:
            if day not in self._calendar:
                return observe(conn, day)
            return load_day(conn, open_keyring(self._settings), self.digest, day, lambda: self._rows(conn, day), turn,
                            reference=self._door)

    @cached_property
    def _judged(self) -> Judged:
        judged = judge(read_transactions(self._files), self._currency)
        if judged.good.empty:
            first = judged.bad[0]
            raise FileError(f"no record of {self._files[0].name} can be used; the first: {first.reason}")
        return judged

    @cached_property
    def _window(self) -> tuple[dt.date, int]:
        if self._start is not None and self._days is not None:
            return self._start, self._days
        us = self._judged.good["us"].to_numpy()
        first = self._start or _day_of(us.min())
        days = self._days or (_day_of(us.max()) - first).days + 1
        if days < 1:
            raise FileError(f"{self._files[0].name} has no transaction in the days from {first}: move --start")
        if self._days is None and days > LONGEST:
            raise FileError(f"{self._files[0].name} spans {days:,} days from {first}, more than {LONGEST:,}: "
                            "give --start and --days")  # fmt: skip
        return first, days

    @cached_property
    def _mine(self) -> pd.DataFrame:
        """Good records of the window, in time order."""
        first, days = self._window
        us = self._judged.good["us"]
        mine = self._judged.good[(us >= day_us(first)) & (us < day_us(first) + days * DAY_US)]
        if mine.empty:
            raise FileError(f"{self._files[0].name} has no transaction in the {days} days from {first}: move --start")
        return mine.reset_index(drop=True)

    @cached_property
    def _ids(self) -> tuple[pa.Array, pa.Array]:
        """Intent and charge ids of `_mine`: a transaction keeps its ids whatever else its file holds."""
        us = self._mine["us"].to_numpy()
        names = id_hashes(self._mine["transaction"].to_numpy())
        return pa.array(uuid7_named("pi", us, names)), pa.array(uuid7_named("ch", us, names))

    @cached_property
    def _people(self) -> People:
        return People(self._mine, self.digest, self._window[0], self._country, self._currency)

    def _rows(self, conn: psycopg.Connection, day: dt.date) -> DayRows:
        tables = self._people.rows() if day == self._window[0] else {}
        refused = self._refused(day)
        us = self._mine["us"].to_numpy()
        start, end = (int(np.searchsorted(us, day_us(day) + gap)) for gap in (0, DAY_US))
        tables["exchange_rates"] = self._rates(day)
        if end > start:
            tables.update(self._charge_rows(conn, start, end, refused))
        tables["disputes"] = self._disputes(conn, day)
        return DayRows(tables, refused)

    def _refused(self, day: dt.date) -> list[BadRecord]:
        """Bad records of this day; the first brings also those that no day of the calendar would bring."""
        calendar, start, at = self._calendar, day_us(day), self._judged.bad_us
        mine = (at >= start) & (at < start + DAY_US)
        if day == calendar.first:
            mine |= at < 0
            if self._start is None:
                mine |= at < start
            if self._days is None:
                mine |= at >= day_us(calendar.last_with_tail) + DAY_US
        return [self._judged.bad[i] for i in np.nonzero(mine)[0]]

    def _charge_rows(
        self, conn: psycopg.Connection, start: int, end: int, refused: list[BadRecord]
    ) -> dict[str, pa.Table]:
        rows = self._mine.iloc[start:end]
        intents, charges = (ids.slice(start, end - start) for ids in self._ids)
        known = {r[0] for r in conn.execute("select id from oltp.charges where id = any(%s)", [charges.to_pylist()])}
        if known:
            fresh = np.array([charge not in known for charge in charges.to_pylist()])
            for _, row in rows[~fresh].iterrows():
                where = f"{row['file']} row {row['row']}"
                reason = f"{where}: {RULES['transaction_new']} (rule transaction_new)"
                refused.append(BadRecord(where, "transaction_new", reason))
            rows, intents, charges = rows[fresh], intents.filter(pa.array(fresh)), charges.filter(pa.array(fresh))
        n = len(rows)
        minor = rows["minor"].to_numpy()
        shared = {**self._people.of(rows), "amount": minor, "currency": rows["currency"].to_numpy(str),
                  "status": pa.repeat("succeeded", n),
                  "created": pa.array(rows["us"].to_numpy(), pa.timestamp("us", "UTC"))}  # fmt: skip
        return {
            "payment_intents": pa.table({"id": intents, **shared, "amount_received": minor}),
            "charges": pa.table({
                "id": charges, "payment_intent_id": intents, **shared, "amount_captured": minor,
                "terminal_id": self._people.terminals_of(rows), "device_type": pa.repeat("pos", n),
            }),
            "charge_outcomes": pa.table({
                "charge_id": charges, "type": pa.repeat("authorized", n),
                "network_status": pa.repeat("approved_by_network", n), "risk_level": pa.repeat("not_assessed", n),
            }),
        }  # fmt: skip

    def _disputes(self, conn: psycopg.Connection, day: dt.date) -> pa.Table:
        """The labels of the charges made seven days before, to the microsecond."""
        delay = LABEL_DELAY.days * DAY_US
        us = self._mine["us"].to_numpy() + delay
        start, end = (int(np.searchsorted(us, day_us(day) + gap)) for gap in (0, DAY_US))
        due = start + np.nonzero(self._mine["fraud"].to_numpy()[start:end])[0]
        rows = self._mine.iloc[due]
        ids = uuid7_named("dp", us[due], id_hashes(rows["transaction"].to_numpy()))
        # Charges that stood before this source came have their disputes already.
        known = {r[0] for r in conn.execute("select id from oltp.disputes where id = any(%s)", [ids])}
        fresh = np.array([name not in known for name in ids], dtype=bool)
        rows, due, created, n = rows[fresh], due[fresh], us[due][fresh], int(fresh.sum())
        return pa.table({
            "id": pa.array([name for name in ids if name not in known], pa.string()),
            "charge_id": self._ids[1].take(pa.array(due, pa.int64())),
            "amount": rows["minor"].to_numpy(), "currency": rows["currency"].to_numpy(str),
            "status": pa.repeat("needs_response", n), "reason": pa.repeat("fraudulent", n),
            "created": pa.array(created, pa.timestamp("us", "UTC")),
        })  # fmt: skip

    def _rates(self, day: dt.date) -> pa.Table:
        """Indicative rates of the currencies in use; none for a source in the reporting currency."""
        used = [c for c in np.unique(self._mine["currency"].to_numpy(str)) if c != REPORTING]
        return pa.table({
            "day": pa.array([day] * len(used), pa.date32()), "from_currency": pa.array(used, pa.string()),
            "to_currency": pa.array([REPORTING] * len(used), pa.string()),
            "rate": pa.array([CURRENCIES[c][3] for c in used], pa.string()),
        })  # fmt: skip


def _day_of(us: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=int(us) // DAY_US)
