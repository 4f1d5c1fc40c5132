{#- What sqlfluff renders in place of this project's macros: same shape, no dbt. Never loaded by dbt. -#}
{% macro utc_day(instant) %}cast({{ instant }} at time zone 'UTC' as date){% endmacro %}
{% macro iso_week(day) %}cast(extract(week from {{ day }}) as integer){% endmacro %}
{% macro iso_weekday(day) %}cast(extract(isodow from {{ day }}) as integer){% endmacro %}
{% macro sum_bigint(expression) %}cast(coalesce(sum({{ expression }}), 0) as bigint){% endmacro %}
{% macro noted_days(mart) %}select l.event_day from ops.touched_days as l where l.mart = '{{ mart }}'{% endmacro %}
{% macro to_reporting_currency(amount, currency, exponent, rate) -%}
    cast(round({{ amount }} * {{ rate }} * {{ exponent }}, 0) as bigint)
{%- endmacro %}
