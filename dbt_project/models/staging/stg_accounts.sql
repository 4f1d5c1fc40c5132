select
    id as account_id,
    type,
    country,
    default_currency,
    business_type,
    mcc,
    charges_enabled,
    payouts_enabled,
    token as account_token,
    created
from {{ source('raw', 'accounts') }}
where not _deleted
