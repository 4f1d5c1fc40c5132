{{ config(materialized='ephemeral') }}

select
    charge_id,
    model_version,
    score,
    decision,
    assessed_at
from {{ source('raw', 'fraud_assessments') }}
where not _deleted
