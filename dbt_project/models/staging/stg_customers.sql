select
    id as customer_id,
    account_id,
    country,
    currency,
    delinquent,
    deleted,
    token as customer_token,
    created
from {{ source('raw', 'customers') }}
where not _deleted
