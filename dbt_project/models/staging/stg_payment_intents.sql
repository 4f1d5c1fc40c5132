select
    id as payment_intent_id,
    account_id,
    customer_id,
    payment_method_id,
    amount,
    amount_received,
    currency,
    status,
    capture_method,
    created,
    {{ utc_day('created') }} as event_day
from {{ source('raw', 'payment_intents') }}
where not _deleted
