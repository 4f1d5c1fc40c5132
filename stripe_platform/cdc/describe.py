"""What the source's catalogue tells of a table that its log does not: order of the key, column numbers, defaults.

Where an event trigger tells them in the log (`ddl`), that is taken. Else the system catalogue is asked, never a table.
It shows the present, the log the past: where the two differ in a column's name or type, that is another column.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import psycopg

from resources.lake import Lake
from stripe_platform.cdc import catalogue, ddl
from stripe_platform.cdc.catalogue import Details
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.pgoutput import Relation
from stripe_platform.cdc.pgtypes import FIRST_USER_OID
from stripe_platform.cdc.slot import OPTIONS, CaptureError
from stripe_platform.cdc.source import Source
from stripe_platform.settings import Settings

_COLUMNS = """
select a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
       case when a.atthasmissing then (a.attmissingval::text::text[])[1] end
from pg_attribute a
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_KEY = """
select a.attname
from pg_class c
join pg_index i on i.indrelid = c.oid and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end
cross join unnest(i.indkey::int2[]) with ordinality as k (number, position)
join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
where c.oid = %s and k.position <= i.indnkeyatts order by k.position
"""
_UNNAMED = """
select p.schemaname || '.' || p.tablename
from pg_publication_tables p
join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
where p.pubname = %s and (c.relreplident = 'n' or (c.relreplident = 'd' and not exists (
    select from pg_index i where i.indrelid = c.oid and i.indisprimary)))
order by 1
"""


def describer(settings: Settings, source: Source) -> Callable[[Relation], Details]:
    """Answers for the relations of a source: the declaration where there is one, else the source's own catalogue."""
    def answer(relation: Relation) -> Details:
        key = source.tables.get(relation.table if relation.schema == source.schema else relation.qualified, ())
        if source.declared:
            return Details(tuple(key))
        if relation.told is not None:
            found = ddl.details(relation.told)
        else:
            with closing(connect(settings, source)) as connection:
                found = describe(connection, relation)
        return Details(tuple(key), found.numbers, found.missing) if key else found

    return answer


def connect(settings: Settings, source: Source) -> psycopg.Connection:
    """A plain connection of the capture's role."""
    return psycopg.connect(source.conninfo(settings), autocommit=True, options=OPTIONS, client_encoding="UTF8",
                           application_name="stripe_platform_cdc")


def describe(connection: psycopg.Connection, relation: Relation) -> Details:
    """A relation as the catalogue has it now; nothing of the columns that are other ones by now."""
    rows = {landed(name): (number, kind, missing) for name, number, kind, missing in
            connection.execute(_COLUMNS, [relation.oid])}
    same = [c.name for c in relation.columns
            if c.name in rows and (c.oid >= FIRST_USER_OID or rows[c.name][1] == c.type)]
    key = tuple(landed(row[0]) for row in connection.execute(_KEY, [relation.oid]))
    return Details(key if set(key) <= {c.name for c in relation.columns} else (), {n: rows[n][0] for n in same},
                   {n: rows[n][2] for n in same if rows[n][2] is not None})


def source_tells(settings: Settings, source: Source) -> bool:
    """Whether the source tells its DDL in the log."""
    if source.declared:
        return False
    with closing(connect(settings, source)) as connection:
        return ddl.active(connection, source.publication_name(settings))


def refuse_unnamed_rows(settings: Settings, source: Source, lake: Lake) -> None:
    """Raise `CaptureError` for published tables whose rows nothing names, before any of their changes is read.

    Of a table that the lake knows already, losing the key stops its apply alone, not the capture.
    """
    with closing(connect(settings, source)) as connection:
        found = [row[0] for row in connection.execute(_UNNAMED, [source.publication_name(settings)])]
    known = {version.qualified for version in catalogue.all_versions(lake)} if found else set()
    unnamed = [name for name in found if name not in known]
    if unnamed:
        raise CaptureError(
            f"{', '.join(unnamed)} of source {source.name}: updates and deletes would name no row (no primary key, or"
            " replica identity nothing): give it a primary key, set `replica identity full`, or leave it out")
