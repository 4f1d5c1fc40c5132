-- A missing rate leaves amount_eur null, never wrong: this names the days and currencies that need one.
{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'fct_charges'}}}) }}

select
    event_day,
    currency,
    count(*) as charges
from {{ ref('fct_charges') }}
where amount_eur is null
group by event_day, currency
