{{ config(
    materialized='incremental',
    incremental_strategy='rewrite_days',
    tags=['scores'],
    indexes=[
        {'columns': ['charge_id', 'model_version'], 'unique': true},
        {'columns': ['event_day']},
    ] if target.type == 'postgres' else none,
) }}
-- The days to rewrite are read from these, in the pre-hook:
-- depends_on: {{ source('raw', 'fraud_assessments') }}
-- depends_on: {{ source('raw', 'charges') }}

select
    s.charge_id,
    s.model_version,
    c.event_day,
    c.created as charge_created,
    f.account_id,
    f.account_token,
    f.customer_token,
    f.terminal_id,
    s.score,
    s.decision,
    s.assessed_at
from {{ ref('stg_fraud_assessments') }} as s
inner join {{ ref('stg_charges') }} as c on s.charge_id = c.charge_id
-- Left, so that a score whose charge is not in the mart yet breaks the contract instead of vanishing.
left join {{ ref('fct_charges') }} as f on s.charge_id = f.charge_id
{% if is_incremental() -%}
    where c.event_day in ({{ noted_days('fct_fraud_scores') }})
{%- endif %}
