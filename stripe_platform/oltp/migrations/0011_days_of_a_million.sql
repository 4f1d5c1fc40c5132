-- A day of a million charges: what was compared with every element of an array is looked up.

-- With 1.5 million charges a day, of which 70,000 came after the rest, `id = any (p_charges)` as a filter was 10^11
-- comparisons; a subquery is hashed once.
create or replace function ledger.earn_day(p_day date, p_charges text[] default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_hashjoin = on
set enable_nestloop = off as $$
declare
    at timestamptz := ledger._end_of(p_day);
    low text := ledger._day_of_ids('ch_', p_day);
    high text := ledger._day_of_ids('ch_', p_day + 1);
    due bigint;
    written integer;
    fees integer;
begin
    select count(*) into due from oltp.charges t
    where t.id >= low and t.id < high and t.amount_captured > 0 and (p_charges is null or t.id in (select unnest(p_charges)));
    -- Terms and entries once per merchant, not once per charge; sizes of young tables are unknown, loops would be slow.
    with merchant as materialized (
        select d.account_id, d.currency, e.settlement, s.rate, s.shift, p.basis_points, p.fixed, p.multiple,
            ledger._day_entry(d.account_id, e.settlement, 'charge', at, nullif(d.currency, e.settlement)) as entry
        from (
            select distinct c.account_id, c.currency from oltp.charges c
            where c.id >= low and c.id < high and c.amount_captured > 0 and (p_charges is null or c.id in (select unnest(p_charges)))
        ) d
        left join ledger._settlements(p_day) s on s.account_id = d.account_id and s.currency = d.currency
        cross join lateral (select coalesce(s.settlement, d.currency) as settlement) e
        cross join lateral payments._terms(d.account_id, e.settlement) p
        where p.fixed is not null
    ),
    earned as (
        select t.id, t.account_id, t.created, m.rate, m.entry, m.settlement as currency, m.multiple, m.basis_points, m.fixed,
            case when m.rate is null then t.amount_captured
                else round(t.amount_captured * m.rate * 10.0 ^ m.shift)::bigint end as amount
        from oltp.charges t
        join merchant m on m.account_id = t.account_id and m.currency = t.currency
        where t.id >= low and t.id < high and t.amount_captured > 0 and (p_charges is null or t.id in (select unnest(p_charges)))
    )
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
        currency, exchange_rate, status, available_on, created, ledger_entry_id, available_entry_id)
    select 'txn_' || substr(c.id, 4), c.account_id, c.id, 'charge', 'charge', c.amount, f.fee, c.amount - f.fee, c.currency,
        c.rate, 'available', c.created, c.created, c.entry, c.entry
    from earned c
    cross join lateral (
        select (c.amount / c.multiple / 10000 * c.basis_points
            + (c.amount / c.multiple % 10000 * c.basis_points + 5000) / 10000) * c.multiple + c.fixed as fee
    ) f;
    get diagnostics written = row_count;
    if written <> due then
        raise exception 'charges of % are in a currency without a fee policy: add a row to fee_policies', p_day
        using errcode = 'P0001', constraint = 'currency_has_a_fee_policy', table = 'fee_policies';
    end if;
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    select b.id, 0, 'stripe_fee', b.fee, b.currency from oltp.balance_transactions b
    where b.id >= ledger._day_of_ids('txn_', p_day) and b.id < ledger._day_of_ids('txn_', p_day + 1)
    and b.reporting_category = 'charge' and b.fee <> 0 and (p_charges is null or b.source_id in (select unnest(p_charges)));
    get diagnostics fees = row_count;
    return written + fees;
end $$;
