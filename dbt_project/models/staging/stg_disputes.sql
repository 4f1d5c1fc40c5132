select
    id as dispute_id,
    charge_id,
    amount,
    currency,
    status,
    reason,
    created,
    {{ utc_day('created') }} as event_day
from {{ source('raw', 'disputes') }}
where not _deleted
