select
    c.customer_token,
    a.account_token,
    c.country,
    c.currency,
    c.delinquent,
    c.deleted,
    c.created
from {{ ref('stg_customers') }} as c
left join {{ ref('stg_accounts') }} as a on c.account_id = a.account_id
