{#-
  Minor units of one currency to minor units of the reporting currency, at the rate of the event's day.
  `amount * rate` is exact (integer times decimal); 10^(2 - exponent) is 100, 1 or 0.1; rounding is half away from
  zero, so half up for money, in PostgreSQL and in Snowflake. No rate, no exponent: null, never a guess.
-#}
{% macro to_reporting_currency(amount, currency, exponent, rate) -%}
    case
        when {{ currency }} = '{{ var("reporting_currency") }}' then {{ amount }}
        else cast(
            round(
                cast({{ amount }} as decimal(38, 0)) * {{ rate }}
                * case {{ exponent }} when 0 then 100 when 2 then 1 when 3 then 0.1 end,
                0
            ) as bigint
        )
    end
{%- endmacro %}

{#- A sum of bigint is numeric in PostgreSQL and NUMBER in Snowflake: always cast back. -#}
{% macro sum_bigint(expression) -%}
    cast(coalesce(sum({{ expression }}), 0) as bigint)
{%- endmacro %}
