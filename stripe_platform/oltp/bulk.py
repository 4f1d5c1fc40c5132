"""The write API for volume: one business day in one transaction, by COPY, with every key and check switched on.

The day's rows, its row in `ops.day_ledger` and its row in `ops.load_day` commit together: a loader killed at any
moment leaves the whole day or nothing of it, and a re-run skips what stands.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
from psycopg import sql

from stripe_platform.keyring import Keyring
from stripe_platform.keys import OLTP_TABLES
from stripe_platform.oltp import changes
from stripe_platform.oltp.calendar import close_day, make_partitions_ahead, own_calendar, partitions_stand
from stripe_platform.oltp.copies import BY_TABLE as COPIES
from stripe_platform.oltp.feed import DayLoad, count_day
from stripe_platform.oltp.reference import seed_books
from stripe_platform.oltp.turns import Turn
from stripe_platform.vault import new_keys, store_keys

# Clear columns a caller hands over, and the ciphertext columns that SQL sees in their place.
SEALED = {"customers": {"name": "name_ciphertext", "email": "email_ciphertext"}}


# Rows of these name what earlier days brought; rows of all but the free ones may be named by later days.
_OF_EARLIER_DAYS = frozenset({
    "refunds", "disputes", "early_fraud_warnings", "fraud_assessments", "reviews", "payouts", "subscriptions",
    "subscription_items", "invoices", "invoice_lines", "invoice_payments", "invoice_taxes", "payment_intent_details",
})  # fmt: skip
_FREE = frozenset({"exchange_rates", "payment_intents", "charges", "charge_outcomes", "balance_transactions",
                   "fee_details"})
_PARENTS = frozenset(t.name for t in OLTP_TABLES) - _FREE - _OF_EARLIER_DAYS


# Brings rows of tables that are copies to the reference and back; returns when they stand in the OLTP.
Reference = Callable[[Mapping[str, pa.Table]], None]


class LoadError(RuntimeError):
    """A day that cannot be written as a whole; the message names table, day and rule."""


@dataclass(frozen=True)
class BadRecord:
    """A record that breaks a rule: where it stands, the rule, one sentence, and the record itself (kept encrypted)."""

    record: str
    rule: str
    reason: str
    payload: bytes | None = None


@dataclass
class DayRows:
    """A day's new rows: one Arrow table per OLTP table, named as its columns, and the records refused.

    `later`: rows of the same tables that name what earlier days brought (a charge that retries an older intent).
    `updates`: what changed of rows that stand, by table: `id`, the instant `at`, and the columns that got a new value.
    """

    tables: dict[str, pa.Table] = field(default_factory=dict)
    refused: list[BadRecord] = field(default_factory=list)
    later: dict[str, pa.Table] = field(default_factory=dict)
    updates: dict[str, pa.Table] = field(default_factory=dict)


def load_day(
    conn: psycopg.Connection, ring: Keyring, digest: str, day: dt.date, make: Callable[[], DayRows],
    turn: Turn | None = None, *, reference: Reference,
) -> DayLoad:
    """Write one business day and close it, or skip it when `digest` brought it before.

    `make` is called only when the day is missing. Refunds and disputes among the rows also update their charges.
    `turn`: its place among days that are loaded side by side; without one, it has the calendar to itself.
    `reference`: called once, before the day's own rows, with the rows of tables that are copies: they are not written
    here. When it returns they stand, also if the day fails, and so does all else the reference held at that instant.
    """
    try:
        return _load_day(conn, ring, digest, day, make, turn, reference)
    except (LoadError, changes.ChangeError):
        # Another loader of the same source was faster: its rows are these rows, and they stand.
        if not is_loaded(conn, digest, day):
            raise
        return _load_day(conn, ring, digest, day, make, turn, reference)


def _load_day(
    conn: psycopg.Connection, ring: Keyring, digest: str, day: dt.date, make: Callable[[], DayRows], turn: Turn | None,
    reference: Reference,
) -> DayLoad:
    # Its own transaction, after the days before: a new partition locks what they are writing to.
    if not partitions_stand(conn, day):
        if turn is not None:
            turn.wait_for_close()
        with conn.transaction():
            make_partitions_ahead(conn, day)
    with conn.transaction():
        if turn is None:
            own_calendar(conn)
            turn = Turn.alone(day)
        done = conn.execute(
            "select quarantined from ops.load_day where source_digest = %s and day = %s", [digest, day]
        ).fetchone()
        if done is not None:
            turn.wait_for_close()
            return DayLoad(day, count_day(conn, day), int(done[0]), skipped=True)
        # Foreign keys into partitioned tables are looked up by cached plans: a fresh plan per row costs ten times more.
        # Tables are young here and lack statistics: only index plans are right for them.
        for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_hashjoin = off",
                        "enable_mergejoin = off"):
            conn.execute(sql.SQL("set local ") + sql.SQL(setting))
        turn.wait_for_parents()
        counts: dict[str, int] = {}
        content = make()
        unknown = {*content.tables, *content.later, *content.updates} - {t.name for t in OLTP_TABLES}
        if unknown:
            raise LoadError(f"day {day} brings rows of {min(unknown)}, which is no OLTP table")
        filled = _filled(content.tables)
        copies = {name: content.tables[name] for name in filled if name in COPIES}
        _refuse_copies(content, day)
        if not _PARENTS.isdisjoint(filled):
            turn.wait_for_close()
        else:
            turn.no_parents_here()
        reference(copies)
        seed_books(conn)
        filled = [name for name in filled if name not in copies]
        own = [name for name in filled if name not in _OF_EARLIER_DAYS]
        for name in own:
            _copy(conn, ring, name, content.tables[name], day)
        conn.execute("select ledger.earn_day(%s)", [day])
        turn.wait_for_close()
        _after_earlier_days(conn, ring, content, [name for name in filled if name not in own], day)
        for tables in (content.tables, content.later):
            for name in _filled(tables):
                counts[name] = counts.get(name, 0) + tables[name].num_rows
        quarantine(conn, ring, digest, content.refused)
        conn.execute(
            "insert into ops.load_day (source_digest, day, rows, quarantined) values (%s, %s, %s, %s)",
            [digest, day, sum(counts.values()), len(content.refused)],
        )
        close_day(conn, day)
    return DayLoad(day, counts, len(content.refused))


def _refuse_copies(content: DayRows, day: dt.date) -> None:
    """Rows of copies come as the day's own rows, through the reference, or not at all."""
    theirs = sorted(({*content.later, *content.updates}) & COPIES.keys())
    for name in theirs:
        columns = set(content.updates[name].column_names) - {"id", "at"} if name in content.updates else {"id"}
        if name in content.later or columns & set(COPIES[name].names):
            raise LoadError(f"day {day} changes oltp.{name}, which is a copy: change it in the reference")


def _filled(tables: dict[str, pa.Table]) -> list[str]:
    return [t.name for t in OLTP_TABLES if (rows := tables.get(t.name)) is not None and rows.num_rows]


def _after_earlier_days(
    conn: psycopg.Connection, ring: Keyring, content: DayRows, names: list[str], day: dt.date
) -> None:
    """What may name rows of earlier days, what changes them, and what both do to balances and books."""
    for table in OLTP_TABLES:
        if table.name in names:
            _copy(conn, ring, table.name, content.tables[table.name], day)
        if (rows := content.later.get(table.name)) is not None and rows.num_rows:
            _copy(conn, ring, table.name, rows, day)
    if "charges" in _filled(content.later):
        conn.execute("select ledger.earn_day(%s, %s)", [day, content.later["charges"]["id"].to_pylist()])
    _follow_refunds(conn, content.tables.get("refunds"), day)
    _follow_disputes(conn, content.tables.get("disputes"), day)
    conn.execute("select ledger.give_back_day(%s)", [day])
    for name in _filled(content.updates):
        changes.apply(conn, name, content.updates[name], day)
    changes.follow_refunds(conn, content.updates.get("refunds"))
    conn.execute("select ledger.decide_day(%s, %s, %s::timestamptz[])",
                 [day, *changes.movements(content.updates, "refunds", "disputes")])
    if "payouts" in names:
        conn.execute("select ledger.pay_out_day(%s, %s)", [day, content.tables["payouts"]["id"].to_pylist()])
    conn.execute("select ledger.settle_payouts_day(%s, %s, %s::timestamptz[])",
                 [day, *changes.movements(content.updates, "payouts")])
    conn.execute("select ledger.settle_day(%s)", [day])
    conn.execute("select ledger.post_day(%s)", [day])


def is_loaded(conn: psycopg.Connection, digest: str, day: dt.date) -> bool:
    """Whether this source brought this day before."""
    query = "select 1 from ops.load_day where source_digest = %s and day = %s"
    return conn.execute(query, [digest, day]).fetchone() is not None


def copy_bytes(rows: pa.Table) -> bytes:
    """Rows as the CSV that COPY reads: nulls are empty, empty strings quoted."""
    sink = pa.BufferOutputStream()
    pcsv.write_csv(rows, sink, pcsv.WriteOptions(include_header=False, batch_size=16_384))
    return sink.getvalue().to_pybytes()


def quarantine(conn: psycopg.Connection, ring: Keyring, digest: str, refused: Sequence[BadRecord]) -> int:
    """Keep refused records with their reason, payload encrypted; a record already kept for a rule is kept once."""
    if not refused:
        return 0
    key = new_keys([f"source:{digest}"])[0]
    store_keys(conn, ring, [key])
    kept = 0
    for bad in refused:
        name = "qr_" + hashlib.sha256("\x1f".join((digest, bad.record, bad.rule)).encode()).hexdigest()[:32]
        sealed = None if bad.payload is None else key.seal("ops.quarantine", "payload_ciphertext", name, bad.payload)
        kept += conn.execute(
            "insert into ops.quarantine (id, source, record, rule, reason, payload_ciphertext)"
            " values (%s, %s, %s, %s, %s, %s) on conflict (id) do nothing",
            [name, digest, bad.record, bad.rule, bad.reason, sealed],
        ).rowcount
    return kept


def _copy(conn: psycopg.Connection, ring: Keyring, table: str, rows: pa.Table, day: dt.date) -> None:
    if table in SEALED:
        rows = _seal(conn, ring, table, rows)
    columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(sql.Identifier("oltp", table), columns)
    try:
        with conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(copy_bytes(rows))
    except psycopg.errors.IntegrityError as error:
        # The server's DETAIL shows the row: only the rule's name may travel on.
        rule = error.diag.constraint_name or error.diag.column_name or type(error).__name__
        raise LoadError(f"rows of oltp.{table} for {day} break the rule {rule}: nothing of it was written") from None
    except psycopg.Error as error:
        # CONTEXT, and for some errors the message itself, shows values: the error's class and code say enough.
        name = f"{type(error).__name__}, SQLSTATE {error.sqlstate}" if error.sqlstate else type(error).__name__
        raise LoadError(f"rows of oltp.{table} for {day} were refused ({name}): nothing of it was written") from None


def _seal(conn: psycopg.Connection, ring: Keyring, table: str, rows: pa.Table) -> pa.Table:
    ids = rows.column("id").to_pylist()
    keys = new_keys(ids)
    store_keys(conn, ring, keys)
    for clear, sealed in SEALED[table].items():
        if clear not in rows.column_names:
            continue
        values = rows.column(clear).to_pylist()
        texts = [
            None if value is None else "\\x" + key.seal(f"oltp.{table}", sealed, key.subject, value).hex()
            for key, value in zip(keys, values, strict=True)
        ]
        rows = rows.drop_columns([clear]).append_column(sealed, pa.array(texts, pa.string()))
    return rows


def _follow_refunds(conn: psycopg.Connection, refunds: pa.Table | None, day: dt.date) -> None:
    if refunds is None or not refunds.num_rows:
        return
    done = refunds.filter(pc.equal(refunds["status"], "succeeded")).select(["charge_id", "currency", "amount"])
    sums = done.group_by(["charge_id", "currency"]).aggregate([("amount", "sum")])
    try:
        updated = conn.execute(
            "update oltp.charges c set amount_refunded = c.amount_refunded + r.amount"
            " from unnest(%s::text[], %s::text[], %s::bigint[]) as r (charge_id, currency, amount)"
            " where c.id = r.charge_id and c.currency = r.currency",
            [sums[name].to_pylist() for name in ("charge_id", "currency", "amount_sum")],
        ).rowcount
    except psycopg.errors.CheckViolation:
        raise LoadError(f"refunds of {day} exceed the captured amount of a charge: nothing of it was written") from None
    if updated != sums.num_rows:
        raise LoadError(f"refunds of {day} name a charge in another currency: nothing of that day was written")


def _follow_disputes(conn: psycopg.Connection, disputes: pa.Table | None, day: dt.date) -> None:
    if disputes is None or not disputes.num_rows:
        return
    named = disputes.select(["charge_id", "currency"]).group_by(["charge_id", "currency"]).aggregate([])
    updated = conn.execute(
        "update oltp.charges c set disputed = true from unnest(%s::text[], %s::text[]) as d (charge_id, currency)"
        " where c.id = d.charge_id and c.currency = d.currency",
        [named["charge_id"].to_pylist(), named["currency"].to_pylist()],
    ).rowcount
    if updated != named.num_rows:
        raise LoadError(f"disputes of {day} name a charge in another currency: nothing of that day was written")
