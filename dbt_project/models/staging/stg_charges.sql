select
    id as charge_id,
    payment_intent_id,
    account_id,
    customer_id,
    payment_method_id,
    terminal_id,
    amount,
    amount_captured,
    amount_refunded,
    currency,
    status,
    disputed,
    failure_code,
    device_type,
    ip_country,
    created,
    {{ utc_day('created') }} as event_day
from {{ source('raw', 'charges') }}
where not _deleted
