select
    code as currency,
    name as currency_name,
    stripe_exponent,
    iso_exponent,
    payout_multiple
from {{ source('raw', 'currencies') }}
where not _deleted
