-- A missing rate leaves amount_eur null, never wrong: this names the days and currencies that need one.
{{ config(severity='warn') }}

select
    event_day,
    currency,
    count(*) as charges
from {{ ref('fct_charges') }}
where amount_eur is null
group by event_day, currency
