"""What the source's catalogue tells of a table that its log does not: order of the key, column numbers, defaults.

Where an event trigger tells them in the log (`ddl`), that is taken. Else the system catalogue is asked, never a table.
It shows the present, the log the past: where the two differ in a column's name or type, that is another column.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import psycopg

from resources.lake import Lake
from stripe_platform.cdc import catalogue, ddl
from stripe_platform.cdc.catalogue import Details, version_of
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.pgoutput import Column, Relation
from stripe_platform.cdc.pgtypes import FIRST_USER_OID, type_name
from stripe_platform.cdc.slot import OPTIONS, CaptureError
from stripe_platform.cdc.source import Source
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.cdc.stream_tables import Described
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


_TABLE = """
select c.oid, c.relreplident
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p')
"""
# A type that the database made goes in the log by its name there, a domain by its base type's.
_TYPES = """
select a.attname, a.atttypid, a.atttypmod, a.attgenerated <> '', (
    with recursive type as (
        select t.typname, t.typnamespace, t.typtype, t.typbasetype from pg_type t where t.oid = a.atttypid
        union all
        select t.typname, t.typnamespace, t.typtype, t.typbasetype
        from type join pg_type t on t.oid = type.typbasetype where type.typtype = 'd')
    select case when n.nspname = 'pg_catalog' then type.typname else n.nspname || '.' || type.typname end
    from type join pg_namespace n on n.oid = type.typnamespace where type.typtype <> 'd')
from pg_attribute a where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""


def describer(settings: Settings, source: Source) -> Callable[[Relation], Details]:
    """Answers for the relations of a source: the declaration where there is one, else the source's own catalogue."""
    def answer(relation: Relation) -> Details:
        key = source.key_of(relation.schema, relation.table)
        if source.declared:
            return Details(key)
        if relation.told is not None:
            found = ddl.details(relation.told)
        else:
            with closing(connect(settings, source)) as connection:
                found = describe(connection, relation)
        return Details(key, found.numbers, found.missing) if key else found

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


def asker(settings: Settings, source: ConfiguredSource) -> Callable[[str, str], Described | None]:
    """Describes tables by schema and name as the capture would; None for one that the source does not have."""
    listed = {source.place_of(each.name): each.columns for each in source.published if each.columns}

    def answer(schema: str, table: str) -> Described | None:
        with closing(connect(settings, source)) as connection:
            return describe_table(connection, schema, table, source.key_of(schema, table),
                                  listed.get((schema, table), ()))

    return answer


def describe_table(connection: psycopg.Connection, schema: str, table: str, key: tuple[str, ...] = (),
                   listed: tuple[str, ...] = ()) -> Described | None:
    """A table as the catalogue has it now, in the form that its log would give it. `listed`: columns published, if not
    all; they and generated ones may be left out by a stream.
    """
    row = connection.execute(_TABLE, [schema, table]).fetchone()
    if row is None:
        return None
    types = connection.execute(_TYPES, [row[0]]).fetchall()
    columns = tuple(Column(landed(name), oid, typmod, False, type_name(oid, typmod, named))
                    for name, oid, typmod, _generated, named in types)
    plain = Relation(row[0], schema, table, row[1], columns)
    details = describe(connection, plain)
    own = details.key if row[1] in "di" else ()
    relation = replace(plain, columns=tuple(replace(c, in_key=c.name in own) for c in columns))
    optional = {landed(name) for name, _oid, _typmod, generated, _named in types
                if generated or (listed and name not in listed)}
    return Described(version_of(relation, replace(details, key=key) if key else details), frozenset(optional))


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
