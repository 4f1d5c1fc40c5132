-- Every merchant-currency pair: the aggregate against sums taken anew from the facts.
{{ config(meta={'dagster': {'ref': {'name': 'agg_daily_revenue'}}}) }}

with facts as (
    select
        account_id,
        currency,
        count(*) as charges,
        {{ sum_bigint('amount_captured') }} as gross
    from {{ ref('fct_charges') }}
    group by account_id, currency
),

aggregated as (
    select
        account_id,
        currency,
        {{ sum_bigint('charges') }} as charges,
        {{ sum_bigint('gross') }} as gross
    from {{ ref('agg_daily_revenue') }}
    group by account_id, currency
)

select count(*) as pairs
from facts as f
full outer join aggregated as a on f.account_id = a.account_id and f.currency = a.currency
where
    coalesce(f.charges, 0) <> coalesce(a.charges, 0)
    or coalesce(f.gross, 0) <> coalesce(a.gross, 0)
having count(*) > 0
