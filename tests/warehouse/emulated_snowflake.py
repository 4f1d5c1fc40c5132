"""A Snowflake emulator as a process: `python emulated_snowflake.py PORT LEDGER`.

fakesnow with the few deviations that dbt needs; every use of one is written to the ledger, and a test compares the
ledger's names with a committed list. What passes here is "emulated": it proves SQL, not transactions, rights or cost.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import uvicorn
from fakesnow import FakeSnow, cursor, info_schema
from snowflake.connector import errors
from sqlglot import exp

PINNED = "0.12.1"  # the patches below reach into private names
DEVIATIONS = {"temp_made_permanent", "comment_own_transaction"}


def patch(ledger: Path) -> None:
    """Install the deviations; each notes its use."""
    log = ledger.open("a", buffering=1)

    def note(name: str, sql: str) -> None:
        log.write(json.dumps([name, sql[:300]]) + "\n")

    fake = cursor.FakeSnowflakeCursor
    run, transform, run_one = fake.execute, fake._transform, fake._execute

    def permanent_temp(self: Any, e: exp.Expression, params: Any) -> Any:
        properties = e.args.get("properties") if isinstance(e, exp.Create) else None
        table = e.this.this if properties and isinstance(e.this, exp.Schema) else e.this
        if properties and isinstance(table, exp.Table) and table.db:
            temporary = properties.find(exp.TemporaryProperty)
            if temporary:
                note("temp_made_permanent", e.sql("snowflake"))
                temporary.pop()
                if not properties.expressions:
                    e.set("properties", None)
        return transform(self, e, params)

    def comment_apart(self: Any, t: Any, params: Any = None) -> None:
        table, text = t.args.pop("table_comment", None) or (None, None)
        run_one(self, t, params)
        if text is not None:
            note("comment_own_transaction", text)
            with self._duck_conn.cursor() as c:
                c.execute(info_schema.insert_table_comment_sql(
                    table.catalog or self._conn.database, table.db or self._conn.schema, table.name,
                    text.replace("'", "''")))

    def refuse_clearly(self: Any, sql: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return run(self, sql, *args, **kwargs)
        except Exception as error:
            note(f"rolled_back {type(error).__name__}", sql)
            with suppress(duckdb.TransactionException):
                self._duck_conn.execute("rollback")
            if isinstance(error, errors.Error):
                raise
            raise errors.ProgrammingError(msg=f"fakesnow: {error}", errno=1003, sqlstate="42000") from error

    fake.execute, fake._transform, fake._execute = refuse_clearly, permanent_temp, comment_apart


@contextmanager
def served(ledger: Path) -> Iterator[int]:
    """The emulator in a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-W", "ignore", __file__, str(port), str(ledger)])
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    yield port
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the emulator did not start (exit code {server.poll()})")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if version("fakesnow") != PINNED:
        sys.exit(f"fakesnow is {version('fakesnow')}, not {PINNED}: prove the deviations again, then move the pin")
    patch(Path(sys.argv[2]))
    server = import_module("fakesnow.server")  # the package has a function of the same name
    server.shared_fs = FakeSnow()
    uvicorn.run(server.app, port=int(sys.argv[1]), log_level="error")
