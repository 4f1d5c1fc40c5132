-- A key of several columns: enforced by a unique index on PostgreSQL, by this test on Snowflake.
{{ config(meta={'dagster': {'ref': {'name': 'agg_daily_revenue'}}}) }}

select count(*) as duplicates
from (
    select 1 as one
    from {{ ref('agg_daily_revenue') }}
    group by account_id, currency, event_day
    having count(*) > 1
) as d
having count(*) > 0
