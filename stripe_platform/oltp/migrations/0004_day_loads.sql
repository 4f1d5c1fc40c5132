-- A day that comes by COPY moves its money in sums: every charge, refund and dispute has its balance transaction, but
-- merchant, currency and category share one entry of the day. Ten rows a payment become six. History is loaded as it
-- stood when it was over: everything available.

create function ledger._day_entry(p_account text, p_currency text, p_category text, p_at timestamptz) returns text
language sql immutable parallel safe as $$
    select ledger._from_id(p_at) || 'a' || substr(h.x, 1, 7) || 'e' || substr(h.x, 8, 7)
    from (select md5(concat_ws(' ', p_account, p_currency, p_category)) as x) h
$$;
comment on function ledger._day_entry is 'Id of a merchant''s entry of a day: computed, so that rows can name it first';

create function ledger._end_of(p_day date) returns timestamptz language sql immutable parallel safe as $$
    select (p_day + 1)::timestamp at time zone 'UTC' - interval '1 microsecond'
$$;

create function ledger._day_of_ids(p_prefix text, p_day date) returns text language sql immutable parallel safe as $$
    select p_prefix || substr(ledger._from_id(p_day::timestamp at time zone 'UTC'), 4, 12)
$$;

create function ledger._fees_of_day(p_category text, p_day date) returns integer language plpgsql as $$
declare
    written integer;
begin
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    select b.id, 0, 'stripe_fee', b.fee, b.currency from oltp.balance_transactions b
    where b.id >= ledger._day_of_ids('txn_', p_day) and b.id < ledger._day_of_ids('txn_', p_day + 1)
    and b.reporting_category = p_category and b.fee <> 0;
    get diagnostics written = row_count;
    return written;
end $$;

create function ledger.earn_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_hashjoin = on as $$
declare
    at timestamptz := ledger._end_of(p_day);
    low text := ledger._day_of_ids('ch_', p_day);
    high text := ledger._day_of_ids('ch_', p_day + 1);
    written integer;
begin
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
        currency, status, available_on, created, ledger_entry_id, available_entry_id)
    select 'txn_' || substr(c.id, 4), c.account_id, c.id, 'charge', 'charge', c.amount_captured, c.fee,
        c.amount_captured - c.fee, c.currency, 'available', c.created, c.created, c.entry, c.entry
    from (
        select t.id, t.account_id, t.amount_captured, t.currency, t.created,
            payments._fee(t.amount_captured, m.terms) as fee, m.entry
        from oltp.charges t
        join (
            select d.account_id, d.currency, payments._terms(d.account_id, d.currency) as terms,
                ledger._day_entry(d.account_id, d.currency, 'charge', at) as entry
            from (
                select distinct account_id, currency from oltp.charges
                where id >= low and id < high and amount_captured > 0
            ) d
        ) m on m.account_id = t.account_id and m.currency = t.currency
        where t.id >= low and t.id < high and t.amount_captured > 0 and (m.terms).fixed is not null
    ) c;
    get diagnostics written = row_count;
    if written <> (select count(*) from oltp.charges t where t.id >= low and t.id < high and t.amount_captured > 0) then
        raise exception 'charges of % are in a currency without a fee policy: add a row to fee_policies', p_day
        using errcode = 'P0001', constraint = 'currency_has_a_fee_policy', table = 'fee_policies';
    end if;
    return written + ledger._fees_of_day('charge', p_day);
end $$;
comment on function ledger.earn_day is 'Balance transactions and fees of a loaded day''s charges; rows written';

create function ledger.give_back_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._end_of(p_day);
    written integer;
    withdrawn integer;
begin
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
        currency, status, available_on, created, ledger_entry_id, available_entry_id)
    select 'txn_' || substr(r.id, 4), c.account_id, r.id, 'refund', 'refund', -r.amount, 0, -r.amount, r.currency,
        'available', r.created, r.created, e.id, e.id
    from oltp.refunds r
    join oltp.charges c on c.id = r.charge_id
    cross join lateral ledger._day_entry(c.account_id, r.currency, 'refund', at) as e (id)
    where r.id >= ledger._day_of_ids('re_', p_day) and r.id < ledger._day_of_ids('re_', p_day + 1)
    and r.status = 'succeeded';
    get diagnostics written = row_count;
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
        currency, status, available_on, created, ledger_entry_id, available_entry_id)
    select 'txn_' || substr(d.id, 4), c.account_id, d.id, 'adjustment', 'dispute', -d.amount, f.fixed,
        -d.amount - f.fixed, d.currency, 'available', d.created, d.created, e.id, e.id
    from oltp.disputes d
    join oltp.charges c on c.id = d.charge_id
    join oltp.fee_policies f on f.kind = 'dispute' and f.currency = d.currency and f.country = '*'
    cross join lateral ledger._day_entry(c.account_id, d.currency, 'dispute', at) as e (id)
    where d.id >= ledger._day_of_ids('dp_', p_day) and d.id < ledger._day_of_ids('dp_', p_day + 1)
    and payments._takes_money(d.status) and d.amount > 0;
    get diagnostics withdrawn = row_count;
    return written + withdrawn + ledger._fees_of_day('dispute', p_day);
end $$;
comment on function ledger.give_back_day is 'Balance transactions and fees of a loaded day''s refunds and disputes';

-- The day's entries from its balance transactions, then the books of the day are closed, summed and sealed.
create function ledger.post_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._end_of(p_day);
    due record;
    zeros bigint[];
begin
    select array_agg(g.entry) as entry, array_agg(g.category) as category, array_agg(g.account) as account,
        array_agg(g.currency) as currency, array_agg(g.net) as net, array_agg(g.fee) as fee
    into due from (
        select b.ledger_entry_id as entry, b.reporting_category as category, b.account_id as account, b.currency,
            sum(b.net)::bigint as net, sum(b.fee)::bigint as fee
        from oltp.balance_transactions b
        where b.id >= ledger._day_of_ids('txn_', p_day) and b.id < ledger._day_of_ids('txn_', p_day + 1)
        and b.ledger_entry_id = ledger._day_entry(b.account_id, b.currency, b.reporting_category, at)
        group by 1, 2, 3, 4
    ) g;
    if due.entry is not null then
        zeros := array_fill(0::bigint, array[cardinality(due.entry)]);
        perform ledger.open_accounts(t.account, t.currency)
        from (select distinct account, currency from unnest(due.account, due.currency) as t (account, currency)
            order by 1, 2) t;
        insert into oltp.ledger_entries (id, kind, account_id, effective_at, created)
        select t.entry, t.category, t.account, at, at from unnest(due.entry, due.category, due.account)
            as t (entry, category, account);
        perform ledger._post(due.entry, due.category, due.account, due.currency,
            array_fill(false, array[cardinality(due.entry)]), due.net, due.fee, zeros, zeros, zeros,
            array_fill(null::text, array[cardinality(due.entry)]),
            array_fill(null::bigint, array[cardinality(due.entry)]));
    end if;
    perform ledger.close(least(at + interval '1 microsecond', clock_timestamp()));
    if at < clock_timestamp() then
        perform ledger.keep_balances(p_day);
        perform ledger.seal();
    end if;
    return coalesce(cardinality(due.entry), 0);
end $$;
comment on function ledger.post_day is 'Entries of a loaded day; its books are closed, its balances kept, its seal made';

create function ledger.kept_balances_astray() returns table (kept bigint, astray bigint) language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
    select count(*), count(*) filter (where k.balance <> p.total)
    from (select distinct on (b.ledger_account_id) b.* from oltp.ledger_balances b order by b.ledger_account_id, b.day desc) k
    cross join lateral (
        select coalesce(sum(p.amount), 0) as total from oltp.ledger_postings p
        where p.ledger_account_id = k.ledger_account_id
        and p.entry_id < ledger._from_id((k.day + 1)::timestamp at time zone 'UTC')
    ) p
$$;
comment on function ledger.kept_balances_astray is
'Accounts with a kept balance, and those whose newest one is not the sum of their postings up to its day';
