"""The OLTP tables as the live catalogue describes them, kept in `schema.json` so that no room needs a database to know.

`python -m stripe_platform.oltp.schema` writes the file anew from a migrated database; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psycopg

from stripe_platform.keys import OLTP_TABLES, Table

SCHEMA_FILE = Path(__file__).parent / "schema.json"


@dataclass(frozen=True)
class Column:
    """One column: PostgreSQL type as `format_type` prints it (`bigint`, `text`, `timestamp with time zone`, ...)."""

    name: str
    type: str
    nullable: bool
    comment: str | None = None


@dataclass(frozen=True)
class TableSchema:
    """One table: columns in catalogue order, primary key, and whether it is partitioned."""

    name: str
    key: tuple[str, ...]
    partitioned: bool
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def sensitive(self) -> tuple[str, ...]:
        """Ciphertext columns: they stay in OLTP and change log, no later layer has them."""
        return tuple(c.name for c in self.columns if c.name.endswith("_ciphertext"))

    def column(self, name: str) -> Column:
        """The named column; `KeyError` when the table has none of that name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"oltp.{self.name} has no column {name!r}")


_COLUMNS = """
select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull, col_description(a.attrelid, a.attnum)
from pg_attribute a
where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_KEY = """
select array_agg(a.attname order by k.position)
from pg_index i
cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, position)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = to_regclass(%s) and i.indisprimary
"""


def read_catalogue(
    conn: psycopg.Connection, declarations: Sequence[Table] = OLTP_TABLES, schema: str = "oltp"
) -> dict[str, TableSchema]:
    """Schemas of the declared tables, in that order, from the connected database."""
    tables = {}
    for declared in declarations:
        name = f"{schema}.{declared.name}"
        kind = conn.execute("select relkind from pg_class where oid = to_regclass(%s)", [name]).fetchone()
        if kind is None:
            raise LookupError(f"{name} is declared in keys.py and missing in the database: migrate, or remove it")
        key = conn.execute(_KEY, [name]).fetchone()
        columns = tuple(Column(*row) for row in conn.execute(_COLUMNS, [name]))
        tables[declared.name] = TableSchema(
            declared.name, tuple(key[0]) if key and key[0] else (), kind[0] in ("p", b"p"), columns
        )
    return tables


def render(tables: dict[str, TableSchema]) -> str:
    """Text of `schema.json` for these tables."""
    return json.dumps({"tables": [asdict(t) for t in tables.values()]}, indent=1) + "\n"


@cache
def load_schema(file: Path = SCHEMA_FILE) -> dict[str, TableSchema]:
    """Schemas by table name, in the order of `keys.OLTP_TABLES`, from the committed file (or another database's)."""
    content = json.loads(file.read_text())
    return {
        t["name"]: TableSchema(
            t["name"], tuple(t["key"]), t["partitioned"], tuple(Column(**column) for column in t["columns"])
        )
        for t in content["tables"]
    }


def generate(owner_dsn: str, target: Path = SCHEMA_FILE) -> None:
    """Write `schema.json` from the live catalogue behind `owner_dsn`."""
    with psycopg.connect(owner_dsn) as conn:
        target.write_text(render(read_catalogue(conn)))


if __name__ == "__main__":
    from stripe_platform.settings import load_settings

    generate(load_settings().need("oltp_owner_dsn"))
