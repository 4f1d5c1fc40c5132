-- The kept balances against the postings in one pass over them: looked up account by account, 65,000 postings of 474
-- accounts took seven seconds where the planner knew too little of a table just loaded.

create or replace function ledger.kept_balances_astray() returns table (kept bigint, astray bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with newest as materialized (
        select distinct on (b.ledger_account_id) b.ledger_account_id, b.balance,
            ledger._from_id((b.day + 1)::timestamp at time zone 'UTC') as before
        from oltp.ledger_balances b order by b.ledger_account_id, b.day desc
    ),
    posted as (
        select p.ledger_account_id, sum(p.amount) as total
        from oltp.ledger_postings p join newest n on n.ledger_account_id = p.ledger_account_id
        where p.entry_id < n.before
        group by 1
    )
    select count(*), count(*) filter (where n.balance <> coalesce(p.total, 0))
    from newest n left join posted p using (ledger_account_id)
$$;
