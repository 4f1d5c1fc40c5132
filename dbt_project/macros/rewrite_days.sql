{#-
  Incremental strategy `rewrite_days`: delete the touched event days, insert them anew. Unlike delete+insert it also
  empties a day whose last row was deleted. A pre-hook notes the days once, in ops.touched_days: the model selects by
  them, the strategy deletes by them, and afterwards they name what the run rewrote.
-#}
{% macro note_touched_days() -%}
    {%- if execute and model.config.materialized == 'incremental' and is_incremental() -%}
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
        group by d.event_day
    {%- endif -%}
{%- endmacro %}

{#- The noted days of this mart; unit tests set `touched_inline` to judge the rule itself, on their own rows. -#}
{% macro noted_days(mart) -%}
    {%- if var('touched_inline', false) -%}
        {{ touched_days(mart) }}
    {%- else -%}
        select l.event_day from {{ touched_days_log() }} as l where l.mart = '{{ mart }}'
    {%- endif -%}
{%- endmacro %}

{% macro get_incremental_rewrite_days_sql(arg_dict) -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    delete from {{ arg_dict['target_relation'] }} where event_day in ({{ noted_days(model.name) }});
    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }};
{%- endmacro %}

{% macro touched_days_log() -%}
    {{ return(api.Relation.create(database=target.database, schema='ops', identifier='touched_days')) }}
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
