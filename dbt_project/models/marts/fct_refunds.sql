{{ config(
    materialized='incremental',
    incremental_strategy='rewrite_days',
    tags=['facts'],
    indexes=[{'columns': ['event_day']}, {'columns': ['charge_id']}] if target.type == 'postgres' else none,
) }}
-- The days to rewrite are read from these, in the pre-hook:
-- depends_on: {{ source('raw', 'refunds') }}
-- depends_on: {{ source('raw', 'exchange_rates') }}

with refunds as (
    select *
    from {{ ref('stg_refunds') }}
    {% if is_incremental() -%}
        where event_day in ({{ noted_days('fct_refunds') }})
    {%- endif %}
)

select
    o.refund_id,
    o.charge_id,
    o.created,
    o.event_day,
    c.account_id,
    c.account_token,
    c.customer_token,
    c.terminal_id,
    o.amount,
    o.currency,
    {{ to_reporting_currency('o.amount', 'o.currency', 'y.stripe_exponent', 'x.rate') }} as amount_eur,
    o.status,
    o.reason,
    c.created as charge_created,
    c.event_day as charge_event_day
from refunds as o
left join {{ ref('fct_charges') }} as c on o.charge_id = c.charge_id
left join {{ ref('stg_currencies') }} as y on o.currency = y.currency
left join {{ ref('stg_exchange_rates') }} as x
    on
        o.event_day = x.rate_day
        and o.currency = x.from_currency
        and x.to_currency = '{{ var("reporting_currency") }}'
