"""A canary in the log: transactional message n, then n + 1, n + 2; a number that does not arrive is a hole in the log.

It also moves idle slots: each message is a commit to acknowledge. The number is kept in the lake together with the
transaction that carries it, before that commits: a killed emitter asks the server what became of it.
"""

from __future__ import annotations

import json
from contextlib import closing

import psycopg

from resources.lake import Lake
from stripe_platform.cdc.describe import connect
from stripe_platform.cdc.manifest import CANARY_PREFIX, Chain, canonical
from stripe_platform.cdc.slot import CaptureError
from stripe_platform.cdc.source import Source
from stripe_platform.settings import Settings

STATE = "cdc/canary.json"
_LOCK = 7_220_011  # advisory lock of the emitter; any constant that no other part uses


def emit(settings: Settings, source: Source, lake: Lake | None = None) -> int | None:
    """Commit the next canary at the source; its number, None at a standby. One emitter at a time, others wait.

    Raises `CaptureError` while an earlier one's transaction is still open.
    """
    lake = lake or source.lake(settings)
    with closing(connect(settings, source)) as connection, connection.transaction():
        if connection.execute("select pg_is_in_recovery()").fetchone() == (True,):
            return None
        connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, source.name])
        number = _next(connection, lake, source)
        row = connection.execute("select pg_current_xact_id()::text").fetchone()
        assert row is not None  # noqa: S101 - the function always answers
        lake.put(STATE, canonical({"number": number, "transaction": row[0]}))
        connection.execute("select pg_logical_emit_message(true, %s, %s)",
                           [CANARY_PREFIX, json.dumps({"source": source.name, "number": number})])
    return number


def _next(connection: psycopg.Connection, lake: Lake, source: Source) -> int:
    if lake.size(STATE) is None:
        return 1
    state = json.loads(lake.read(STATE))
    row = connection.execute("select pg_xact_status(%s::xid8)", [state["transaction"]]).fetchone()
    status = row[0] if row else None
    if status == "in progress":
        raise CaptureError(f"canary {state['number']} of source {source.name} has not committed yet: try again")
    return state["number"] + (status != "aborted")  # so old that the server forgot it: it was not the last one


def gaps(chain: Chain, pending: tuple[tuple[int, int], ...] = ()) -> list[str]:
    """Level D: the canaries of the log follow each other; a sentence for each that is missing or came twice."""
    found, last = [], None
    stretches = [(m.path, r) for m in chain.manifests for r in m.canaries]
    for path, (first, through) in [*stretches, *(("the log's end", r) for r in pending)]:
        if last is not None and first != last + 1:
            what = f"canaries {last + 1} to {first - 1} are missing" if first > last else f"canary {first} came again"
            found.append(f"{path}: {what} in the log: changes around were lost or doubled; re-snapshot the source")
        last = through
    return found
