"""The replication slot: made once, read by one, acknowledged only behind what is durable."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc.manifest import Epoch, load_epochs, save_epoch
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.settings import Settings

KEEPALIVE, DATA = ord("k"), ord("w")
_STATUS = struct.Struct("!cQQQQB")
_KEEPALIVE = struct.Struct("!QQB")
FAILOVER_SINCE = 170_000  # servers that copy slots to a standby
# What decides the text of values; the server's own defaults must not.
OPTIONS = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c bytea_output=hex -c extra_float_digits=1"


class CaptureError(RuntimeError):
    """The log cannot be read on: slot lost, busy, or not ours; the message names the slot and the remedy."""


@dataclass(frozen=True)
class SlotState:
    """What the server says of the slot and of itself."""

    system_identifier: str
    timeline: int
    wal_end: int
    exists: bool
    confirmed_lsn: int
    active_pid: int | None
    wal_status: str | None
    failover: bool = True  # a standby keeps a copy of the slot; true also where the server knows no such thing
    history: Mapping[int, int] = field(default_factory=dict)  # where each earlier timeline of the server ended


@contextmanager
def replication(settings: Settings, source: Source = OLTP) -> Iterator[psycopg.Connection]:
    """A walsender connection: replication commands and simple SQL, values as text in UTC."""
    connection = psycopg.connect(source.conninfo(settings), replication="database", autocommit=True, options=OPTIONS,
                                 client_encoding="UTF8", application_name="stripe_platform_cdc")
    with closing(connection):  # not `with connection`: that sends COMMIT, which a copy-both stream cannot take
        yield connection


def inspect(connection: psycopg.Connection, slot: str) -> SlotState:
    """Server identity, end of its log, and the slot's state."""
    identity = connection.execute("IDENTIFY_SYSTEM").fetchone()
    failover = "failover" if connection.info.server_version >= FAILOVER_SINCE else "true"
    row = connection.execute(sql.SQL(
        "select confirmed_flush_lsn::text, active_pid, wal_status, {} from pg_replication_slots"
        " where slot_name = {} and database = current_database()").format(
            sql.SQL(failover), sql.Literal(slot))).fetchone()
    assert identity is not None  # noqa: S101 - the command always answers one row
    timeline = int(identity[1])
    return SlotState(
        str(identity[0]), timeline, lsn_int(str(identity[2])), row is not None,
        lsn_int(row[0]) if row and row[0] else 0, row[1] if row else None, row[2] if row else None,
        row is None or row[3] in (True, "t"), _history(connection, timeline))


def _history(connection: psycopg.Connection, timeline: int) -> dict[int, int]:
    """Where the earlier timelines ended, by number; the first timeline has none."""
    if timeline == 1:
        return {}
    row = connection.execute(sql.SQL("TIMELINE_HISTORY {}").format(sql.SQL(str(timeline)))).fetchone()
    assert row is not None  # noqa: S101 - the command answers one row, or fails
    text = row[1].decode() if isinstance(row[1], bytes) else str(row[1])
    fields = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {int(number): lsn_int(end) for number, end, *_reason in fields}


def ensure_slot(settings: Settings, lake: Lake | None = None, source: Source = OLTP, *,
                connection: psycopg.Connection | None = None) -> Epoch:
    """Create the slot where it is missing and record its life in the lake; harmless when repeated.

    Must run before the first commit that shall be captured. A slot that vanished is an error, not a new slot:
    what was committed in between can no longer be read. `connection`: a walsender connection that is open already.
    """
    if connection is None:
        with replication(settings, source) as own:
            return ensure_slot(settings, lake, source, connection=own)
    lake = lake or source.lake(settings)
    slot = source.slot_name(settings)
    state = inspect(connection, slot)
    epochs = load_epochs(lake)
    if epochs and epochs[-1].streamed:
        raise CaptureError(f"the log of {source.name} is fed by a Debezium stream, not by a slot: read on with"
                           " --from-kafka or --from-files, or give the slot a lake of its own"
                           " (STRIPE_PLATFORM_LAKE_URL)")
    if epochs and not state.exists:
        raise CaptureError(
            f"slot {slot} is gone from the source, changes after the last batch cannot be read: " + _remedy(source))
    if not state.exists:
        consistent = create_slot(connection, slot)
    else:
        _let_it_fail_over(connection, slot, state)
        consistent = state.confirmed_lsn  # made by a call that was killed before it could write the record
    if not epochs:
        save_epoch(lake, Epoch(1, slot, state.system_identifier, state.timeline, consistent))
    return load_epochs(lake)[-1]


def create_slot(connection: psycopg.Connection, slot: str) -> int:
    """Make the slot, copied to standbys where the server can; the position from which on commits will be read."""
    failover = ", FAILOVER" if connection.info.server_version >= FAILOVER_SINCE else ""
    row = connection.execute(sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'nothing'{})").format(
        sql.Identifier(slot), sql.SQL(failover))).fetchone()
    assert row is not None  # noqa: S101 - the command always answers one row
    return lsn_int(str(row[1]))


def _remedy(source: Source) -> str:
    if not source.declared:
        return f"take every table anew with `stripe-platform cdc snapshot --new-slot --source {source.name}`"
    return "start with an empty lake and warehouse, or restore source and slot from the same backup"


def _let_it_fail_over(connection: psycopg.Connection, slot: str, state: SlotState) -> None:
    """Give the option to a slot that an earlier release made; next time, when somebody is reading it now."""
    if not state.failover and state.active_pid is None and state.wal_status != "lost":
        with suppress(psycopg.errors.ObjectInUse):
            connection.execute(sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(sql.Identifier(slot)))


def continues(epoch: Epoch, state: SlotState, durable_lsn: int) -> bool:
    """Whether the server is a promoted standby of the epoch's: same system, and all we hold is before the promotion.

    A promotion ends the old timeline at one LSN; the log before it is the same on both servers.
    """
    return (state.system_identifier == epoch.system_identifier and state.timeline > epoch.timeline
            and durable_lsn <= state.history.get(epoch.timeline, -1))


def follow_promotion(lake: Lake, epoch: Epoch, state: SlotState, durable_lsn: int) -> Epoch:
    """The epoch to read in: a new one on the slot's new timeline, beginning exactly where the durable log ends."""
    if state.timeline == epoch.timeline:
        return epoch
    following = Epoch(epoch.ordinal + 1, epoch.slot, state.system_identifier, state.timeline, durable_lsn)
    save_epoch(lake, following)
    return following


def refuse_a_foreign_slot(epoch: Epoch, state: SlotState, durable_lsn: int) -> None:
    """Raise unless the slot continues exactly where the lake's batches end, on the same server or its standby."""
    same = (state.system_identifier, state.timeline) == (epoch.system_identifier, epoch.timeline)
    if not same and not continues(epoch, state, durable_lsn):
        raise CaptureError(
            f"slot {epoch.slot} is on another server or timeline than the batches in the lake: point the CDC to the"
            " server it began with or to its promoted standby, or start with an empty lake and warehouse")
    if same and state.wal_end < durable_lsn:
        # Commits would go on below what is durable, and be taken for read.
        raise CaptureError(
            f"the log of slot {epoch.slot}'s server ends at {lsn_text(state.wal_end)}, durable batches end at"
            f" {lsn_text(durable_lsn)}: it was restored to an earlier state; restore lake and warehouse to the same, or"
            " start with an empty lake and warehouse")
    if state.wal_status == "lost":
        raise CaptureError(
            f"slot {epoch.slot} is lost, the server removed log it still needed: start with an empty lake and"
            " warehouse (`stripe-platform cdc snapshot --new-slot` for a source of the file), and raise"
            " max_slot_wal_keep_size")
    if state.confirmed_lsn > durable_lsn:
        raise CaptureError(
            f"slot {epoch.slot} was advanced to {lsn_text(state.confirmed_lsn)}, durable batches end at"
            f" {lsn_text(durable_lsn)}: the stretch between is lost; start with an empty lake and warehouse")


# Seconds. A reader that sleeps on the socket is woken by every message, which costs the walsender a third of its speed:
# 62,000 changes/s became 85,000.
GATHER = 0.001


class Stream:
    """The copy-both stream of one slot: messages in, acknowledgements out."""

    def __init__(self, connection: psycopg.Connection, slot: str, publication: str, start: int,
                 wait_seconds: float) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self.get = self._pgconn.get_copy_data
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '4', publication_names {},"
                          " messages 'true')").format(
            sql.Identifier(slot), sql.SQL(lsn_text(start)), sql.Literal(publication))
        deadline = time.monotonic() + wait_seconds
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Such a database holds any bytes; asked for UTF-8, the server ends the stream at the first that are none.
            connection.execute("set client_encoding to sql_ascii")
        while True:
            try:
                connection.execute(command)
            except psycopg.errors.ObjectInUse as error:
                if time.monotonic() < deadline:  # the reader of a killed process ends when the server notices
                    time.sleep(0.2)
                    continue
                raise CaptureError(
                    f"slot {slot} is being read by another process ({error.diag.message_primary}): stop it, or wait"
                ) from None
            break
        self._durable = start

    def settle(self, seq: int) -> None:
        """Nothing belongs to a batch beside its rows."""

    def reason(self) -> str:
        """The server's code for why it ended the stream; its text may show values."""
        result = self._pgconn.get_result()
        code = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) if result is not None else None
        return f" (SQLSTATE {code.decode()})" if code else ""

    def wait(self, seconds: float) -> None:
        """Take what the server sent; where it has sent nothing, let some gather, or sleep until the time is over."""
        sockets = [self._pgconn.socket]
        if not select.select(sockets, [], [], 0)[0]:
            time.sleep(min(GATHER, seconds))
            if not select.select(sockets, [], [], max(0.0, seconds - GATHER))[0]:
                return
        self._pgconn.consume_input()

    def status(self, durable_lsn: int, *, ask: bool = False) -> None:
        """Acknowledge what is durable; with `ask` the server answers at once with how far it has read."""
        self._durable = max(self._durable, durable_lsn)
        now = int(time.time() * 1e6) - 946_684_800_000_000
        message = _STATUS.pack(b"r", self._durable, self._durable, self._durable, now, int(ask))
        self._pgconn.put_copy_data(message)
        self._pgconn.flush()


def read_keepalive(data: memoryview) -> tuple[int, bool]:
    """(log position the server has sent up to, whether it wants an answer)."""
    end, _clock, reply = _KEEPALIVE.unpack_from(data, 1)
    return end, bool(reply)
