-- Rows are counts by day: an amount must not appear in a test's result.
{{ config(meta={'dagster': {'ref': {'name': 'fct_charges'}}}) }}

select
    event_day,
    count(*) as charges
from {{ ref('fct_charges') }}
where amount_refunded > amount_captured or amount_captured > amount
group by event_day
