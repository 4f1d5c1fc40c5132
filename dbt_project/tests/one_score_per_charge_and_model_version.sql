-- A key of several columns: enforced by a unique index on PostgreSQL, by this test on Snowflake.
{{ config(meta={'dagster': {'ref': {'name': 'fct_fraud_scores'}}}) }}

select count(*) as duplicates
from (
    select 1 as one
    from {{ ref('fct_fraud_scores') }}
    group by charge_id, model_version
    having count(*) > 1
) as d
having count(*) > 0
