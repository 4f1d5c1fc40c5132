{#- An instant. PostgreSQL stores UTC and shows the session's zone; Snowflake keeps UTC without a zone. -#}
{% macro type_instant() -%}
    {{ return(adapter.dispatch('type_instant')()) }}
{%- endmacro %}
{% macro default__type_instant() -%}{{ return('timestamp with time zone') }}{%- endmacro %}
{% macro snowflake__type_instant() -%}{{ return('timestamp_tz') }}{%- endmacro %}

{#- Calendar day of an instant, in UTC whatever the session's zone. -#}
{% macro utc_day(instant) -%}
    {{ return(adapter.dispatch('utc_day')(instant)) }}
{%- endmacro %}
{% macro default__utc_day(instant) -%}{{ return("cast(" ~ instant ~ " at time zone 'UTC' as date)") }}{%- endmacro %}
{% macro snowflake__utc_day(instant) -%}
    {{ return("cast(convert_timezone('UTC', " ~ instant ~ ") as date)") }}
{%- endmacro %}

{#- Day of the week, Monday = 1 to Sunday = 7. -#}
{% macro iso_weekday(day) -%}
    {{ return(adapter.dispatch('iso_weekday')(day)) }}
{%- endmacro %}
{% macro default__iso_weekday(day) -%}{{ return("cast(extract(isodow from " ~ day ~ ") as integer)") }}{%- endmacro %}
{% macro snowflake__iso_weekday(day) -%}{{ return("cast(dayofweekiso(" ~ day ~ ") as integer)") }}{%- endmacro %}

{#- ISO week of the year, 1 to 53. -#}
{% macro iso_week(day) -%}
    {{ return(adapter.dispatch('iso_week')(day)) }}
{%- endmacro %}
{% macro default__iso_week(day) -%}{{ return("cast(extract(week from " ~ day ~ ") as integer)") }}{%- endmacro %}
{% macro snowflake__iso_week(day) -%}{{ return("cast(weekiso(" ~ day ~ ") as integer)") }}{%- endmacro %}
