{{ config(
    materialized='incremental',
    incremental_strategy='rewrite_days',
    tags=['facts'],
    indexes=[
        {'columns': ['account_id', 'currency', 'event_day'], 'unique': true},
        {'columns': ['event_day']},
    ] if target.type == 'postgres' else none,
) }}
-- The days to rewrite are read from these, in the pre-hook:
-- depends_on: {{ source('raw', 'charges') }}
-- depends_on: {{ source('raw', 'charge_outcomes') }}
-- depends_on: {{ source('raw', 'payment_methods') }}
-- depends_on: {{ source('raw', 'refunds') }}
-- depends_on: {{ source('raw', 'disputes') }}
-- depends_on: {{ source('raw', 'exchange_rates') }}

{%- set only_touched %}
    {% if is_incremental() -%}
        and event_day in ({{ noted_days('agg_daily_revenue') }})
    {%- endif %}
{%- endset %}

with
-- Every amount on the day of its own event: a refund lowers the day it was made, not the day of its charge.
movements as (
    select
        account_id,
        account_token,
        currency,
        event_day,
        1 as charges,
        case when status = 'succeeded' then 1 else 0 end as charges_succeeded,
        amount_captured as gross,
        0 as refunds,
        0 as disputes
    from {{ ref('fct_charges') }}
    where 1 = 1 {{ only_touched }}
    union all
    select
        account_id,
        account_token,
        currency,
        event_day,
        0 as charges,
        0 as charges_succeeded,
        0 as gross,
        amount as refunds,
        0 as disputes
    from {{ ref('fct_refunds') }}
    where status in ('succeeded', 'pending', 'requires_action') {{ only_touched }}
    union all
    select
        account_id,
        account_token,
        currency,
        event_day,
        0 as charges,
        0 as charges_succeeded,
        0 as gross,
        0 as refunds,
        amount as disputes
    from {{ ref('fct_disputes') }}
    -- Money is withdrawn by chargebacks: not by inquiries (warning_*), not by prevented ones; a won one came back.
    where status in ('needs_response', 'under_review', 'lost') {{ only_touched }}
),

sums as (
    select
        account_id,
        account_token,
        currency,
        event_day,
        {{ sum_bigint('charges') }} as charges,
        {{ sum_bigint('charges_succeeded') }} as charges_succeeded,
        {{ sum_bigint('gross') }} as gross,
        {{ sum_bigint('refunds') }} as refunds,
        {{ sum_bigint('disputes') }} as disputes
    from movements
    group by account_id, account_token, currency, event_day
)

select
    s.account_id,
    s.account_token,
    s.currency,
    s.event_day,
    s.charges,
    s.charges_succeeded,
    s.gross,
    s.refunds,
    s.disputes,
    s.gross - s.refunds - s.disputes as net,
    {{ to_reporting_currency(
        '(s.gross - s.refunds - s.disputes)', 's.currency', 'y.stripe_exponent', 'x.rate'
    ) }} as net_eur
from sums as s
left join {{ ref('stg_currencies') }} as y on s.currency = y.currency
left join {{ ref('stg_exchange_rates') }} as x
    on
        s.event_day = x.rate_day
        and s.currency = x.from_currency
        and x.to_currency = '{{ var("reporting_currency") }}'
