{#-
  Incremental strategy `rewrite_days`: delete the touched event days, insert them anew. Unlike delete+insert it also
  empties a day whose last row was deleted. The days are written to ops.touched_days, which names them for the run.
-#}
{% macro get_incremental_rewrite_days_sql(arg_dict) -%}
    {%- set target_relation = arg_dict['target_relation'] -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    {%- set log = touched_days_log() -%}
    delete from {{ log }} where mart = '{{ model.name }}';
    insert into {{ log }} (mart, event_day, ledger_from, ledger_to)
    select
        '{{ model.name }}' as mart,
        d.event_day,
        cast('{{ var("ledger_from") }}' as date) as ledger_from,
        cast('{{ var("ledger_to") }}' as date) as ledger_to
    from (
        {{ touched_days(model.name) }}
    ) as d
    where d.event_day is not null
    group by d.event_day;
    delete from {{ target_relation }}
    where event_day in (select l.event_day from {{ log }} as l where l.mart = '{{ model.name }}');
    insert into {{ target_relation }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }};
{%- endmacro %}

{% macro touched_days_log() -%}
    {{ return(api.Relation.create(
        database=target.database, schema=source_schema('ops') | trim, identifier=source_schema('touched_days') | trim
    )) }}
{%- endmacro %}

{% macro create_touched_days_log() -%}
    create table if not exists {{ touched_days_log() }} (
        mart varchar(100) not null,
        event_day date not null,
        ledger_from date not null,
        ledger_to date not null,
        primary key (mart, event_day)
    )
{%- endmacro %}

{#- Fresh tables have no statistics until autovacuum comes by; the next query must not plan blind. -#}
{% macro refresh_statistics(relation) -%}
    {%- if target.type == 'postgres' -%} analyze {{ relation }} {%- endif -%}
{%- endmacro %}
