select
    account_id,
    account_token,
    type,
    country,
    default_currency,
    business_type,
    mcc,
    charges_enabled,
    payouts_enabled,
    created
from {{ ref('stg_accounts') }}
