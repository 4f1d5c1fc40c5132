"""Units of work over both databases. What belongs to the reference is written with a message to the payments database,
in one transaction; the message is acted upon there later, once, however often it is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from stripe_platform.reference import write
from stripe_platform.reference.database import REFERENCE, connect
from stripe_platform.reference.sync import SyncReport, sync
from stripe_platform.settings import Settings

ACCOUNT_SETTINGS = "account_settings"


class OutboxError(RuntimeError):
    """A message that cannot be acted upon; it names the message and the remedy, and waits."""


@dataclass(frozen=True)
class AccountSettings:
    """What a merchant may do: owned by the payments database. `capabilities`: status by name."""

    charges_enabled: bool = True
    payouts_enabled: bool = True
    details_submitted: bool = True
    capabilities: Mapping[str, str] = field(default_factory=dict)


@dataclass
class RelayReport:
    """What one relay did. `done`: messages; `problems`: those that wait, one sentence each."""

    done: int = 0
    problems: list[str] = field(default_factory=list)
    sync: SyncReport = field(default_factory=SyncReport)


def onboard_merchant(conn: psycopg.Connection, settings: AccountSettings, **merchant: Any) -> str:
    """Register a merchant and order its account's settings, both or neither; its id. `merchant`: as registered."""
    with conn.transaction():
        name = write.register_merchant(conn, **merchant)
        conn.execute("insert into ops.outbox (kind, payload) values (%s, %s)",
                     [ACCOUNT_SETTINGS, json.dumps({"account_id": name, **asdict(settings)})])
    return name


def relay(settings: Settings) -> RelayReport:
    """Bring the copies up to the reference, then deliver what waits, in order; a message that cannot be acted upon
    holds no other. Killed anywhere, it is called again.
    """
    report = RelayReport(sync=sync(settings))
    with connect(settings) as here:
        waiting = here.execute(
            "select id, kind, payload from ops.outbox where done_at is null order by position").fetchall()
        if not waiting:
            return report
        with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as there:
            for message, kind, payload in waiting:
                try:
                    _deliver(there, message, kind, payload)
                except OutboxError as error:
                    report.problems.append(str(error))
                    continue
                _mark_done(here, message)
                report.done += 1
    return report


def _deliver(there: psycopg.Connection, message: Any, kind: str, payload: dict[str, Any]) -> None:
    """Act upon a message in one transaction with the note that it was; one that was acted upon does nothing."""
    with there.transaction():
        new = there.execute("insert into ops.inbox (source, id, kind) values (%s, %s, %s) on conflict do nothing",
                            [REFERENCE.name, message, kind]).rowcount
        if not new:
            return
        act = _ACTS.get(kind)
        if act is None:
            raise OutboxError(f"message {message} is of kind {kind!r}, which this release does not know: update it")
        try:
            with there.transaction():
                act(there, payload)
        except (psycopg.Error, LookupError) as error:
            raise OutboxError(f"message {message} ({kind}) was refused ({type(error).__name__}): mend what it names,"
                              " it is delivered again") from None


def _mark_done(here: psycopg.Connection, message: Any) -> None:
    here.execute("update ops.outbox set done_at = clock_timestamp() where id = %s and done_at is null", [message])


def _set_account(there: psycopg.Connection, payload: dict[str, Any]) -> None:
    found = there.execute(
        "update oltp.accounts set charges_enabled = %(charges_enabled)s, payouts_enabled = %(payouts_enabled)s,"
        " details_submitted = %(details_submitted)s where id = %(account_id)s", payload).rowcount
    if not found:
        raise LookupError("the merchant's copy has not arrived")
    for name, status in payload["capabilities"].items():
        there.execute(
            "insert into oltp.capabilities (account_id, name, status, requested) values (%s, %s, %s, true)"
            " on conflict (account_id, name) do update set status = excluded.status",
            [payload["account_id"], name, status])


_ACTS: dict[str, Callable[[psycopg.Connection, dict[str, Any]], None]] = {ACCOUNT_SETTINGS: _set_account}
