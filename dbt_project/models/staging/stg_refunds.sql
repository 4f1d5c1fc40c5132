select
    id as refund_id,
    charge_id,
    amount,
    currency,
    status,
    reason,
    created,
    {{ utc_day('created') }} as event_day
from {{ source('raw', 'refunds') }}
where not _deleted
