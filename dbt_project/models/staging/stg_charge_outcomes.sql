select
    charge_id,
    type as outcome_type,
    network_status,
    reason as outcome_reason,
    risk_level,
    risk_score
from {{ source('raw', 'charge_outcomes') }}
where not _deleted
