select
    id as terminal_id,
    account_id,
    label,
    device_type,
    country,
    latitude,
    longitude,
    created
from {{ source('raw', 'terminals') }}
where not _deleted
