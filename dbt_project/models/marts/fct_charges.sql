{{ config(
    materialized='incremental',
    incremental_strategy='rewrite_days',
    tags=['facts'],
    indexes=[{'columns': ['event_day']}] if target.type == 'postgres' else none,
) }}
-- The days to rewrite are read from these, in the pre-hook:
-- depends_on: {{ source('raw', 'charges') }}
-- depends_on: {{ source('raw', 'charge_outcomes') }}
-- depends_on: {{ source('raw', 'payment_methods') }}
-- depends_on: {{ source('raw', 'refunds') }}
-- depends_on: {{ source('raw', 'disputes') }}
-- depends_on: {{ source('raw', 'exchange_rates') }}
-- depends_on: {{ ref('dim_account') }}
-- depends_on: {{ ref('dim_customer') }}
-- depends_on: {{ ref('dim_date') }}

with charges as (
    select *
    from {{ ref('stg_charges') }}
    {% if is_incremental() -%}
        where event_day in ({{ noted_days('fct_charges') }})
    {%- endif %}
)

select
    c.charge_id,
    c.payment_intent_id,
    c.account_id,
    a.account_token,
    u.customer_token,
    c.terminal_id,
    c.event_day,
    c.created,
    c.amount,
    c.amount_captured,
    c.amount_refunded,
    c.currency,
    {{ to_reporting_currency('c.amount', 'c.currency', 'y.stripe_exponent', 'x.rate') }} as amount_eur,
    c.status,
    c.disputed,
    c.device_type,
    c.ip_country,
    p.card_brand,
    p.card_country,
    p.card_funding,
    o.risk_score,
    o.risk_level,
    o.network_status
from charges as c
left join {{ ref('stg_accounts') }} as a on c.account_id = a.account_id
left join {{ ref('stg_customers') }} as u on c.customer_id = u.customer_id
left join {{ ref('stg_payment_methods') }} as p on c.payment_method_id = p.payment_method_id
left join {{ ref('stg_charge_outcomes') }} as o on c.charge_id = o.charge_id
left join {{ ref('stg_currencies') }} as y on c.currency = y.currency
left join {{ ref('stg_exchange_rates') }} as x
    on
        c.event_day = x.rate_day
        and c.currency = x.from_currency
        and x.to_currency = '{{ var("reporting_currency") }}'
