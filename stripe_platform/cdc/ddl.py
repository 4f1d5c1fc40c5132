"""An event trigger at the source that tells its DDL in the log itself, at the very position where it happened.

Without it the capture asks the catalogue, which shows the present: a column that was dropped and added again between
two captures looks as if nothing had happened. Only a superuser may make one; without, the rest works as before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc.catalogue import Details
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.manifest import canonical

SCHEMA = "stripe_platform_cdc"
PREFIX = "stripe_platform.schema"
FOLDER = "cdc/told"
_TOLD = """json_build_object(
    'table', told.nspname || '.' || told.relname,
    'key', (
        select json_agg(a.attname order by k.position)
        from pg_class c
        join pg_index i on i.indrelid = c.oid
            and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end
        cross join unnest(i.indkey::int2[]) with ordinality as k (number, position)
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
        where c.oid = told.oid and k.position <= i.indnkeyatts),
    'columns', (
        select json_agg(json_build_array(a.attname, a.attnum,
            case when a.atthasmissing then (a.attmissingval::text::text[])[1] end))
        from pg_attribute a where a.attrelid = told.oid and a.attnum > 0 and not a.attisdropped))::text"""
_FUNCTION = """
create or replace function {function}() returns event_trigger language plpgsql set search_path = pg_catalog as $tell$
declare
    told record;
begin
    for told in
        select distinct c.oid, n.nspname, c.relname
        from pg_event_trigger_ddl_commands() d
        join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relkind in ('r', 'p')
        join pg_namespace n on n.oid = c.relnamespace
        join pg_publication_tables p on p.pubname = {publication} and p.schemaname = n.nspname
            and p.tablename = c.relname
    loop
        perform pg_logical_emit_message(true, {prefix}, {told});
    end loop;
end
$tell$
"""
_ALL = """
select pg_logical_emit_message(true, {prefix}, {told})
from (select c.oid, n.nspname, c.relname from pg_publication_tables p
    join pg_namespace n on n.nspname = p.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename where p.pubname = {publication}) as told
"""


def install(connection: psycopg.Connection, publication: str) -> bool:
    """Make the trigger for a publication's tables, in the caller's transaction; False where that is not allowed."""
    function = sql.Identifier(SCHEMA, f"tell_{publication}")
    trigger = sql.Identifier(f"stripe_platform_{publication}")
    try:
        with connection.transaction():
            connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)))
            connection.execute(sql.SQL(_FUNCTION).format(
                function=function, publication=sql.Literal(publication), prefix=sql.Literal(PREFIX),
                told=sql.SQL(_TOLD)))
            connection.execute(sql.SQL("drop event trigger if exists {}").format(trigger))
            # What dates and times print as in a default must not depend on who alters a table.
            connection.execute(sql.SQL("alter function {} () set timezone = 'UTC'").format(function))
            connection.execute(sql.SQL("alter function {} () set datestyle = 'ISO'").format(function))
            connection.execute(sql.SQL("alter function {} () set intervalstyle = 'iso_8601'").format(function))
            connection.execute(sql.SQL("create event trigger {} on ddl_command_end when tag in ('ALTER TABLE')"
                                       " execute function {}()").format(trigger, function))
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def active(connection: psycopg.Connection, publication: str) -> bool:
    """Whether the trigger is there and enabled."""
    return connection.execute("select 1 from pg_event_trigger where evtname = %s and evtenabled <> 'D'",
                              [f"stripe_platform_{publication}"]).fetchone() is not None


def tell(connection: psycopg.Connection, publication: str) -> None:
    """Say in the log how every published table is now: what a later change of it is measured by."""
    connection.execute(sql.SQL(_ALL).format(
        publication=sql.Literal(publication), prefix=sql.Literal(PREFIX), told=sql.SQL(_TOLD)))


def remember(lake: Lake, told: Sequence[tuple[int, bytes]]) -> None:
    """Keep what commits (by position) told, durably: their messages come once, tables are described anew each time."""
    for lsn, content in told:
        path = f"{FOLDER}/{table_of(content)}.json"
        known = json.loads(lake.read(path)) if lake.size(path) is not None else []
        if [lsn, content.decode()] not in known:
            lake.put(path, canonical([*known, [lsn, content.decode()]]))


def remembered(lake: Lake, before: int) -> dict[str, bytes]:
    """By table what was told last before a position."""
    found = {}
    for path in lake.list(FOLDER):
        entries = [content for lsn, content in json.loads(lake.read(path)) if lsn < before]
        if entries:
            found[table_of(entries[-1].encode())] = entries[-1].encode()
    return found


def table_of(content: bytes) -> str:
    """Qualified name of the table that a message tells of."""
    return str(json.loads(content)["table"])


def details(content: bytes) -> Details:
    """What a message tells."""
    told = json.loads(content)
    columns = [(landed(name), number, missing) for name, number, missing in told["columns"]]
    return Details(tuple(map(landed, told["key"] or ())), {name: number for name, number, _missing in columns},
                   {name: missing for name, _number, missing in columns if missing is not None})
