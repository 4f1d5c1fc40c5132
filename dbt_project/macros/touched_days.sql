{#-
  Which event days a run rewrites: those touched by raw rows whose ledger day lies in [ledger_from, ledger_to].
  Read from raw, not staging, because a deleted row touches its day too. `created` of a record never changes (its id
  carries it), so the day of the row as it stands is also the day where it stood before.
-#}

{% macro ledger_window(alias) -%}
    {%- if execute and (var('ledger_from') is none or var('ledger_to') is none) -%}
        {{ exceptions.raise_compiler_error(
            "ledger_from and ledger_to are not set: an incremental run of " ~ model.name ~ " rewrites the event days "
            ~ "that these ledger days touch; pass --vars '{ledger_from: YYYY-MM-DD, ledger_to: YYYY-MM-DD}', or "
            ~ "--full-refresh to rebuild everything"
        ) }}
    {%- endif -%}
    {{ alias }}._ledger_day between cast('{{ var("ledger_from") }}' as date) and cast('{{ var("ledger_to") }}' as date)
{%- endmacro %}

{#- Days whose rate into the reporting currency changed: every converted amount of those days changes. -#}
{% macro repriced_days() -%}
    select x.day as event_day
    from {{ source('raw', 'exchange_rates') }} as x
    where {{ ledger_window('x') }} and x.to_currency = '{{ var("reporting_currency") }}'
{%- endmacro %}

{#- Event days of refunds or disputes (`table`) to rewrite. -#}
{% macro touched_own_days(table) -%}
    select {{ utc_day('o.created') }} as event_day
    from {{ source('raw', table) }} as o
    where {{ ledger_window('o') }}
    union
    {{ repriced_days() }}
{%- endmacro %}

{#- Days of the charges behind refunds or disputes that this run rewrites: no row is written without its charge. -#}
{% macro charge_days_behind(table) -%}
    select {{ utc_day('c.created') }} as event_day
    from {{ source('raw', table) }} as o
    inner join {{ source('raw', 'charges') }} as c on o.charge_id = c.id
    where {{ utc_day('o.created') }} in ({{ touched_own_days(table) }})
{%- endmacro %}

{#-
  Event days of fct_charges to rewrite: by charges, outcomes, cards, refunds, disputes and rates. Merchants and payers
  give only their tokens, which never change.
-#}
{% macro touched_charge_days() -%}
    select {{ utc_day('c.created') }} as event_day
    from {{ source('raw', 'charges') }} as c
    where {{ ledger_window('c') }}
    union
    select {{ utc_day('c.created') }} as event_day
    from {{ source('raw', 'charge_outcomes') }} as o
    inner join {{ source('raw', 'charges') }} as c on o.charge_id = c.id
    where {{ ledger_window('o') }}
    union
    select {{ utc_day('c.created') }} as event_day
    from {{ source('raw', 'payment_methods') }} as p
    inner join {{ source('raw', 'charges') }} as c on p.id = c.payment_method_id
    where {{ ledger_window('p') }}
    union
    {{ charge_days_behind('refunds') }}
    union
    {{ charge_days_behind('disputes') }}
    union
    {{ repriced_days() }}
{%- endmacro %}

{#- Event days of fct_fraud_scores to rewrite: those of the charges assessed in the window. -#}
{% macro touched_score_days() -%}
    select {{ utc_day('c.created') }} as event_day
    from {{ source('raw', 'fraud_assessments') }} as a
    inner join {{ source('raw', 'charges') }} as c on a.charge_id = c.id
    where {{ ledger_window('a') }}
{%- endmacro %}

{#- The event days that a run of this mart rewrites: one column, event_day. -#}
{% macro touched_days(mart) -%}
    {%- if mart == 'fct_charges' -%} {{ touched_charge_days() }}
    {%- elif mart == 'fct_refunds' -%} {{ touched_own_days('refunds') }}
    {%- elif mart == 'fct_disputes' -%} {{ touched_own_days('disputes') }}
    {%- elif mart == 'agg_daily_revenue' -%}
    {{ touched_charge_days() }}
    union
    {{ touched_own_days('refunds') }}
    union
    {{ touched_own_days('disputes') }}
    {%- elif mart == 'fct_fraud_scores' -%} {{ touched_score_days() }}
    {%- else -%}
        {{ exceptions.raise_compiler_error("no rule says which days " ~ mart ~ " rewrites: add it to touched_days") }}
    {%- endif -%}
{%- endmacro %}
