select
    id as payment_method_id,
    customer_id,
    type,
    card_brand,
    card_exp_month,
    card_exp_year,
    card_funding,
    card_country,
    card_fingerprint,
    created
from {{ source('raw', 'payment_methods') }}
where not _deleted
