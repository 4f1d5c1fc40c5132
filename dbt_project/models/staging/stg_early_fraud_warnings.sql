select
    id as early_fraud_warning_id,
    charge_id,
    fraud_type,
    actionable,
    created,
    {{ utc_day('created') }} as event_day
from {{ source('raw', 'early_fraud_warnings') }}
where not _deleted
