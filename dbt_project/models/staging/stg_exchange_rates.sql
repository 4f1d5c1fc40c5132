select
    day as rate_day,
    from_currency,
    to_currency,
    rate
from {{ source('raw', 'exchange_rates') }}
where not _deleted
