select
    code as country,
    name as country_name,
    region,
    currency
from {{ source('raw', 'countries') }}
where not _deleted
