-- A day that comes by COPY moves its money in sums: every charge, refund, dispute and payout has its balance
-- transaction, but merchant, currency and category share one entry of the day. Ten rows a payment become six. History
-- is loaded as it stood when it was over: everything available.

create function ledger._time_of_id(p_at timestamptz) returns text language sql immutable parallel safe as $$
    select substr(ledger._from_id(p_at), 4)
$$;
comment on function ledger._time_of_id is 'The sixteen digits of an id that carry its instant';

create function ledger._id_named(p_at timestamptz, p_name text) returns text language sql immutable parallel safe as $$
    select ledger._time_of_id(p_at) || 'a' || substr(h.x, 1, 7) || 'e' || substr(h.x, 8, 7) from (select md5(p_name) as x) h
$$;
comment on function ledger._id_named is 'Body of an id that is computed, so that rows can name it first';

create function ledger._day_entry(
    p_account text, p_currency text, p_category text, p_at timestamptz, p_other_currency text default null
) returns text language sql immutable parallel safe as $$
    select 'le_' || ledger._id_named(p_at, concat_ws(' ', p_account, p_currency, p_category, p_other_currency))
$$;
comment on function ledger._day_entry is 'Id of a merchant''s entry of a day';

create function ledger._end_of(p_day date) returns timestamptz language sql immutable parallel safe as $$
    select (p_day + 1)::timestamp at time zone 'UTC' - interval '1 microsecond'
$$;

create function ledger._day_of_ids(p_prefix text, p_day date) returns text language sql immutable parallel safe as $$
    select p_prefix || substr(ledger._from_id(p_day::timestamp at time zone 'UTC'), 4, 12)
$$;

create function ledger._fees_of(p_movements text[]) returns integer language plpgsql as $$
declare
    written integer;
begin
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    select b.id, 0, 'stripe_fee', b.fee, b.currency from oltp.balance_transactions b
    where b.id = any (p_movements) and b.fee <> 0;
    get diagnostics written = row_count;
    return written;
end $$;

-- What merchants are paid in, where it is not what their payers pay in: they have bank accounts, and none for that.
create function ledger._settlements(p_day date)
returns table (account_id text, currency text, settlement text, rate numeric, shift integer)
language sql stable set enable_hashjoin = on as $$
    with bank as (
        select b.account_id, array_agg(b.currency order by b.default_for_currency desc nulls last, b.id) as currencies
        from oltp.bank_accounts b
        where b.account_id is not null and b.currency is not null and not b.deleted group by 1
    ),
    abroad as (
        select b.account_id, a.default_currency as currency, b.currencies[1] as settlement
        from bank b join oltp.accounts a on a.id = b.account_id where a.default_currency <> all (b.currencies)
    ),
    pair as materialized (
        select p.currency, p.settlement, payments._rate(p.currency, p.settlement, p_day) as rate
        from (select distinct x.currency, x.settlement from abroad x) p
    )
    select a.account_id, a.currency, a.settlement, p.rate, s.stripe_exponent - c.stripe_exponent
    from abroad a
    join pair p on p.currency = a.currency and p.settlement = a.settlement
    join oltp.currencies c on c.code = a.currency
    join oltp.currencies s on s.code = a.settlement and s.stripe_exponent < 3
    where p.rate is not null
$$;
comment on function ledger._settlements is
'Merchants who are paid in another currency, with the day''s rate and the digits by which minor units shift';

-- `p_charges`: only these (they came after the rest of the day); by default all of the day.
create function ledger.earn_day(p_day date, p_charges text[] default null) returns integer
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
    where t.id >= low and t.id < high and t.amount_captured > 0 and (p_charges is null or t.id = any (p_charges));
    -- Terms and entries once per merchant, not once per charge; sizes of young tables are unknown, loops would be slow.
    with merchant as materialized (
        select d.account_id, d.currency, e.settlement, s.rate, s.shift, p.basis_points, p.fixed, p.multiple,
            ledger._day_entry(d.account_id, e.settlement, 'charge', at, nullif(d.currency, e.settlement)) as entry
        from (
            select distinct c.account_id, c.currency from oltp.charges c
            where c.id >= low and c.id < high and c.amount_captured > 0 and (p_charges is null or c.id = any (p_charges))
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
        where t.id >= low and t.id < high and t.amount_captured > 0 and (p_charges is null or t.id = any (p_charges))
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
    and b.reporting_category = 'charge' and b.fee <> 0 and (p_charges is null or b.source_id = any (p_charges));
    get diagnostics fees = row_count;
    return written + fees;
end $$;
comment on function ledger.earn_day is 'Balance transactions and fees of a loaded day''s charges; rows written';

-- What a refund or dispute takes from its merchant: that part of what the charge brought, in the same currency.
create function ledger._take(
    p_day date, p_objects text[], p_at timestamptz[], p_type text, p_category text, p_bodies text[] default null
) returns integer language plpgsql as $$
declare
    ends timestamptz := ledger._end_of(p_day);
    written integer;
    movements text[];
begin
    with taken as (
        insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
            currency, exchange_rate, status, available_on, created, ledger_entry_id, available_entry_id)
        select 'txn_' || o.body, c.account_id, o.id, p_type, p_category, -m.amount, f.fee, -m.amount - f.fee, m.currency,
            m.exchange_rate, 'available', o.at, o.at, e.id, e.id
        from (
            select w.id, w.at, coalesce(w.body, substr(w.id, 4)) as body, coalesce(r.charge_id, d.charge_id) as charge_id,
                coalesce(r.amount, d.amount) as amount, coalesce(r.currency, d.currency) as currency
            from unnest(p_objects, p_at, p_bodies) as w (id, at, body)
            left join oltp.refunds r on r.id = w.id and p_category = 'refund'
            left join oltp.disputes d on d.id = w.id and p_category = 'dispute'
        ) o
        join oltp.charges c on c.id = o.charge_id
        left join lateral (
            select b.amount, b.currency, b.exchange_rate from oltp.balance_transactions b
            where b.source_id = c.id and b.reporting_category = 'charge' order by b.created limit 1
        ) b on true
        cross join lateral (
            select coalesce(b.currency, o.currency) as currency, b.exchange_rate,
                case when b.exchange_rate is null then o.amount else payments._part(b.amount, c.amount_captured,
                    case when p_category = 'refund' then (
                        select coalesce(sum(r.amount), 0)::bigint from oltp.refunds r where r.charge_id = c.id
                        and r.id < o.id and r.status in ('pending', 'requires_action', 'succeeded')) else 0 end,
                    o.amount) end as amount
        ) m
        cross join lateral (
            select case when p_category = 'dispute' then coalesce((
                select p.fixed from oltp.fee_policies p left join oltp.accounts a on a.id = c.account_id
                where p.kind = 'dispute' and p.currency = m.currency and p.country in ('*', a.country)
                order by p.country desc limit 1), 0) else 0 end as fee
        ) f
        cross join lateral ledger._day_entry(c.account_id, m.currency, p_category, ends,
            case when m.exchange_rate is not null then o.currency end) as e (id)
        returning balance_transactions.id
    )
    select array_agg(t.id), count(*) into movements, written from taken as t;
    return written + ledger._fees_of(movements);
end $$;

create function ledger.give_back_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    refunds record;
    disputes record;
begin
    select array_agg(r.id order by r.id) as id, array_agg(r.created order by r.id) as at into refunds from oltp.refunds r
    where r.id >= ledger._day_of_ids('re_', p_day) and r.id < ledger._day_of_ids('re_', p_day + 1)
    and r.status in ('pending', 'requires_action', 'succeeded');
    select array_agg(d.id order by d.id) as id, array_agg(d.created order by d.id) as at into disputes
    from oltp.disputes d
    where d.id >= ledger._day_of_ids('dp_', p_day) and d.id < ledger._day_of_ids('dp_', p_day + 1)
    and payments._takes_money(d.status) and d.amount > 0;
    return ledger._take(p_day, refunds.id, refunds.at, 'refund', 'refund')
        + ledger._take(p_day, disputes.id, disputes.at, 'adjustment', 'dispute');
end $$;
comment on function ledger.give_back_day is 'Balance transactions and fees of a loaded day''s refunds and disputes';

-- The opposite of each source's newest movement, with its fee where that comes back too.
create function ledger._return_movements(
    p_day date, p_sources text[], p_at timestamptz[], p_type text, p_category text, p_fee_too boolean[]
) returns integer language plpgsql as $$
declare
    ends timestamptz := ledger._end_of(p_day);
    written integer;
    movements text[];
begin
    with given as (
        insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
            currency, exchange_rate, status, available_on, created, ledger_entry_id, available_entry_id)
        select 'txn_' || ledger._id_named(w.at, w.id || p_category), b.account_id, w.id, p_type, p_category, -b.amount,
            f.fee, -b.amount - f.fee, b.currency, b.exchange_rate, 'available', w.at, w.at, e.id, e.id
        from unnest(p_sources, p_at, p_fee_too) as w (id, at, fee_too)
        cross join lateral (
            select t.* from oltp.balance_transactions t where t.source_id = w.id order by t.created desc, t.id desc limit 1
        ) b
        left join oltp.disputes d on d.id = w.id and b.exchange_rate is not null
        left join oltp.refunds r on r.id = w.id and b.exchange_rate is not null
        cross join lateral (select case when w.fee_too then -b.fee else 0 end as fee) f
        cross join lateral ledger._day_entry(b.account_id, b.currency, p_category, ends, coalesce(d.currency, r.currency))
            as e (id)
        returning balance_transactions.id
    )
    select array_agg(g.id), count(*) into movements, written from given g;
    return written + ledger._fees_of(movements);
end $$;

-- Own events of a day, one entry per source; those that moved nothing are left out.
create function ledger._events_of_day(
    p_category text, p_at timestamptz, p_source text[], p_account text[], p_currency text[], p_amount bigint[]
) returns integer language plpgsql as $$
declare
    due record;
begin
    select array_agg(w.entry) as entry, array_agg(w.source) as source, array_agg(w.account) as account,
        array_agg(w.currency) as currency, array_agg(w.amount) as amount
    into due from (
        select 'le_' || ledger._id_named(p_at, u.source || ' ' || p_category) as entry, u.*
        from unnest(p_source, p_account, p_currency, p_amount) as u (source, account, currency, amount) where u.amount <> 0
    ) w;
    if due.entry is null then
        return 0;
    end if;
    perform ledger._open_of_day(due.account, due.currency, array_fill(null::text, array[cardinality(due.entry)]));
    insert into oltp.ledger_entries (id, kind, account_id, source_id, effective_at, created)
    select w.entry, p_category, w.account, w.source, p_at, p_at
    from unnest(due.entry, due.account, due.source) as w (entry, account, source);
    perform ledger._post_of_day(due.entry, array_fill(p_category, array[cardinality(due.entry)]), due.account, due.currency,
        due.amount, array_fill(0::bigint, array[cardinality(due.entry)]));
    return cardinality(due.entry);
end $$;

create function ledger._open_of_day(p_account text[], p_currency text[], p_other_currency text[]) returns void
language plpgsql as $$
begin
    perform ledger.open_accounts(t.account, t.currency, t.other)
    from (
        select distinct w.account, w.currency, w.other
        from unnest(p_account, p_currency, p_other_currency) as w (account, currency, other)
        where not exists (
            select 1 from oltp.ledger_accounts a
            where a.id = 'merchant_available:' || w.currency || coalesce(':' || w.account, ''))
        or (w.other is not null and not exists (
            select 1 from oltp.ledger_accounts a where a.id = 'fx_clearing:' || w.currency || ':' || w.other))
        order by 1, 2, 3
    ) t;
end $$;

create function ledger._post_of_day(
    p_entry text[], p_category text[], p_account text[], p_currency text[], p_net bigint[], p_fee bigint[],
    p_other_currency text[] default null, p_other_amount bigint[] default null
) returns void language plpgsql as $$
declare
    zeros bigint[] := array_fill(0::bigint, array[cardinality(p_entry)]);
begin
    perform ledger._post(p_entry, p_category, p_account, p_currency, array_fill(false, array[cardinality(p_entry)]), p_net,
        p_fee, zeros, zeros, zeros, p_other_currency, p_other_amount);
end $$;

-- What refunds and disputes of earlier days became on this one moves money back, or for good.
create function ledger.decide_day(p_day date, p_objects text[], p_at timestamptz[]) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    due record;
    written integer := 0;
begin
    select array_agg(r.id order by r.id) as id, array_agg(w.at order by r.id) as at, array_agg(true) as fee_too into due
    from unnest(p_objects, p_at) as w (id, at)
    join oltp.refunds r on r.id = w.id and r.status in ('failed', 'canceled');
    written := written + ledger._return_movements(p_day, due.id, due.at, 'refund_failure', 'refund_failure', due.fee_too);
    update oltp.refunds r set failure_balance_transaction_id = 'txn_' || ledger._id_named(w.at, w.id || 'refund_failure')
    from unnest(due.id, due.at) as w (id, at) where r.id = w.id;

    -- An inquiry that became a chargeback takes the money now.
    select array_agg(d.id order by d.id) as id, array_agg(w.at order by d.id) as at,
        array_agg(ledger._id_named(w.at, d.id) order by d.id) as body into due
    from unnest(p_objects, p_at) as w (id, at)
    join oltp.disputes d on d.id = w.id and payments._takes_money(d.status) and d.amount > 0
    where not exists (select 1 from oltp.balance_transactions b where b.source_id = d.id);
    written := written + ledger._take(p_day, due.id, due.at, 'adjustment', 'dispute', due.body);

    select array_agg(d.id order by d.id) as id, array_agg(w.at order by d.id) as at, array_agg(d.status <> 'won' or exists (
        select 1 from oltp.fee_policies p join oltp.accounts a on a.country = p.country
        where p.kind = 'dispute' and p.returned_when_won and a.id = t.account_id and p.currency = t.currency) order by d.id)
        as fee_too into due
    from unnest(p_objects, p_at) as w (id, at)
    join oltp.disputes d on d.id = w.id and d.status in ('won', 'prevented', 'charge_refunded')
    cross join lateral (
        select b.* from oltp.balance_transactions b where b.source_id = d.id order by b.created desc, b.id desc limit 1
    ) t
    where t.reporting_category = 'dispute';
    written := written + ledger._return_movements(p_day, due.id, due.at, 'adjustment', 'dispute_reversal', due.fee_too);

    select array_agg(d.id order by d.id) as id, array_agg(c.account_id order by d.id) as account,
        array_agg(d.currency order by d.id) as currency, array_agg(d.amount order by d.id) as amount into due
    from unnest(p_objects, p_at) as w (id, at)
    join oltp.disputes d on d.id = w.id and d.status = 'lost'
    join oltp.charges c on c.id = d.charge_id
    where exists (select 1 from oltp.balance_transactions b where b.source_id = d.id);
    return written
        + ledger._events_of_day('dispute_lost', ledger._end_of(p_day), due.id, due.account, due.currency, due.amount);
end $$;
comment on function ledger.decide_day is 'Movements of refunds and disputes of earlier days whose status changed on this one';

-- Payouts of the day take their amount from their merchants. An automatic one names its movements and is their sum.
create function ledger.pay_out_day(p_day date, p_payouts text[]) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    ends timestamptz := ledger._end_of(p_day);
    written integer;
    named integer;
    bad text;
begin
    insert into oltp.payout_balance_transactions (balance_transaction_id, payout_id)
    select b.id, p.id
    from (
        select n.id, n.account_id, n.currency, (
            select coalesce(date_trunc('day', max(o.created), 'UTC'), '-infinity') from oltp.payouts o
            where o.account_id = n.account_id and o.currency = n.currency and o.created < n.created) as since
        from oltp.payouts n where n.id = any (p_payouts) and n.automatic offset 0
    ) p
    join oltp.balance_transactions b on b.account_id = p.account_id and b.currency = p.currency
        and b.available_on >= p.since and b.available_on < p_day::timestamp at time zone 'UTC'
        and b.reporting_category <> 'payout';
    get diagnostics named = row_count;
    select p.id into bad from unnest(p_payouts) as w (id)
    join oltp.payouts p on p.id = w.id and p.automatic
    left join oltp.payout_balance_transactions x on x.payout_id = p.id
    left join oltp.balance_transactions b on b.id = x.balance_transaction_id
    group by p.id, p.amount having p.amount <> coalesce(sum(b.net), 0) limit 1;
    if found then
        raise exception 'payout % is not the sum of its movements: nothing of % was written', bad, p_day
        using errcode = 'P0001', constraint = 'payout_is_its_movements', table = 'payouts';
    end if;
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net, currency,
        status, available_on, created, ledger_entry_id, available_entry_id)
    select 'txn_' || substr(p.id, 4), p.account_id, p.id, 'payout', 'payout', -p.amount, 0, -p.amount, p.currency,
        'available', p.created, p.created, e.id, e.id
    from unnest(p_payouts) as w (id)
    join oltp.payouts p on p.id = w.id
    cross join lateral ledger._day_entry(p.account_id, p.currency, 'payout', ends) as e (id);
    get diagnostics written = row_count;
    return written + named;
end $$;
comment on function ledger.pay_out_day is
'Movements of payouts made on a day: an automatic one pays out what moved from the merchant''s last one to the end of the day before';

create function ledger.settle_payouts_day(p_day date, p_payouts text[], p_at timestamptz[]) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    due record;
    written integer;
begin
    select array_agg(p.id order by p.id) as id, array_agg(p.account_id order by p.id) as account,
        array_agg(p.currency order by p.id) as currency, array_agg(p.amount order by p.id) as amount into due
    from unnest(p_payouts) as w (id) join oltp.payouts p on p.id = w.id and p.status = 'paid';
    written := ledger._events_of_day('payout_paid', ledger._end_of(p_day), due.id, due.account, due.currency, due.amount);
    select array_agg(p.id order by p.id) as id, array_agg(w.at order by p.id) as at, array_agg(true) as fee_too into due
    from unnest(p_payouts, p_at) as w (id, at) join oltp.payouts p on p.id = w.id and p.status in ('canceled', 'failed');
    written := written + ledger._return_movements(p_day, due.id, due.at, 'payout_failure', 'payout_reversal', due.fee_too);
    perform ledger.reverse(e.id, ledger._end_of(p_day)) from oltp.ledger_entries e
    where e.source_id = any (due.id) and e.kind = 'payout_paid';
    update oltp.payouts p
    set failure_balance_transaction_id = 'txn_' || ledger._id_named(w.at, w.id || 'payout_reversal')
    from unnest(due.id, due.at) as w (id, at) where p.id = w.id;
    return written + coalesce(cardinality(due.id), 0);
end $$;
comment on function ledger.settle_payouts_day is 'Payouts that arrived on the day leave the way, those that came back return';

-- What the networks owed when the day began, and what refunds took from them, is cash now.
create function ledger.settle_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := p_day::timestamp at time zone 'UTC';
    due record;
    settled integer := 0;
begin
    if at < (select c.open_from from ops.ledger_calendar c) then
        return 0;
    end if;
    for due in
        select r.category, array_agg('settlement:' || k.currency || ':' || to_char(p_day, 'YYYY-MM-DD')) as source,
            array_agg(null::text) as account, array_agg(k.currency) as currency,
            array_agg(k.balance) as amount
        from (
            select distinct on (b.ledger_account_id) b.balance, a.currency, a.kind
            from oltp.ledger_accounts a join oltp.ledger_balances b on b.ledger_account_id = a.id
            where a.kind in ('network_receivable', 'refund_clearing') and b.day < p_day
            order by b.ledger_account_id, b.day desc
        ) k
        join oltp.posting_rules r on r.kind = k.kind and r.net = -1 and r.category in ('network_settlement', 'refund_settlement')
        group by r.category
    loop
        settled := settled + ledger._events_of_day(due.category, at, due.source, due.account, due.currency, due.amount);
    end loop;
    return settled;
end $$;
comment on function ledger.settle_day is 'Network receivables and refunds on their way, as kept at the end of the day before';

-- What the day exchanged is traded when it ends. The trade brings the exact sum, each payment was rounded: the
-- difference is rounding, half a minor unit per payment at most.
create function ledger._trade_of_day(p_at timestamptz, p_sold text[], p_bought text[], p_given bigint[], p_promised bigint[],
    p_exact numeric[]) returns integer language plpgsql as $$
declare
    made integer;
begin
    insert into oltp.ledger_entries (id, kind, source_id, effective_at, created)
    select 'le_' || ledger._id_named(p_at, 'trade ' || t.sold || t.bought), 'fx_trade',
        'trade:' || least(t.sold, t.bought) || ':' || greatest(t.sold, t.bought), p_at, p_at
    from unnest(p_sold, p_bought, p_given, p_promised) as t (sold, bought, given, promised)
    where t.given <> 0 or t.promised <> 0;
    get diagnostics made = row_count;
    insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
    select l.entry, row_number() over (partition by l.entry), l.account, l.currency, l.amount
    from unnest(p_sold, p_bought, p_given, p_promised, p_exact) as t (sold, bought, given, promised, exact)
    cross join lateral (select 'le_' || ledger._id_named(p_at, 'trade ' || t.sold || t.bought) as entry,
        round(t.exact)::bigint as proceeds) n
    cross join lateral (values
        (n.entry, 'fx_clearing:' || t.sold || ':' || t.bought, t.sold, t.given),
        (n.entry, 'cash:' || t.sold, t.sold, -t.given),
        (n.entry, 'fx_clearing:' || t.bought || ':' || t.sold, t.bought, -t.promised),
        (n.entry, 'cash:' || t.bought, t.bought, n.proceeds),
        (n.entry, 'rounding:' || t.bought, t.bought, t.promised - n.proceeds)
    ) as l (entry, account, currency, amount)
    where l.amount <> 0;
    return made;
end $$;

-- The day's entries from its balance transactions, then the books of the day are closed, summed and sealed.
create function ledger.post_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._end_of(p_day);
    due record;
    traded record;
begin
    select array_agg(g.entry) as entry, array_agg(g.category) as category, array_agg(g.account) as account,
        array_agg(g.currency) as currency, array_agg(g.net) as net, array_agg(g.fee) as fee,
        array_agg(g.other) as other, array_agg(g.other_amount) as other_amount, array_agg(g.exact) as exact
    into due from (
        select b.ledger_entry_id as entry, b.reporting_category as category, b.account_id as account, b.currency,
            o.currency as other, sum(b.net)::bigint as net, sum(b.fee)::bigint as fee,
            sum(case when b.amount < 0 then -o.amount else o.amount end)::bigint as other_amount,
            sum(case when b.amount < 0 then -o.amount else o.amount end * b.exchange_rate
                * 10.0 ^ o.shift) as exact
        from oltp.balance_transactions b
        left join lateral (
            select x.currency, x.amount, s.stripe_exponent - c.stripe_exponent as shift
            from (
                select t.currency, t.amount_captured as amount from oltp.charges t
                where t.id = b.source_id and b.exchange_rate is not null
                union all
                select r.currency, r.amount from oltp.refunds r where r.id = b.source_id and b.exchange_rate is not null
                union all
                select d.currency, d.amount from oltp.disputes d where d.id = b.source_id and b.exchange_rate is not null
            ) x
            join oltp.currencies s on s.code = b.currency
            join oltp.currencies c on c.code = x.currency
        ) o on true
        where b.id >= ledger._day_of_ids('txn_', p_day) and b.id < ledger._day_of_ids('txn_', p_day + 1)
        and b.ledger_entry_id >= ledger._from_id(at) || 'a' and b.ledger_entry_id < ledger._from_id(at) || 'b'
        group by 1, 2, 3, 4, 5
    ) g;
    if due.entry is not null then
        perform ledger._open_of_day(due.account, due.currency, due.other);
        insert into oltp.ledger_entries (id, kind, account_id, effective_at, created)
        select t.entry, t.category, t.account, at, at from unnest(due.entry, due.category, due.account)
            as t (entry, category, account);
        perform ledger._post_of_day(due.entry, due.category, due.account, due.currency, due.net, due.fee, due.other,
            due.other_amount);
        select array_agg(t.other) as sold, array_agg(t.currency) as bought, array_agg(t.given) as given,
            array_agg(t.promised) as promised, array_agg(t.exact) as exact
        into traded from (
            select w.other, w.currency, sum(w.given)::bigint as given, sum(w.net + w.fee)::bigint as promised,
                sum(w.exact) as exact
            from unnest(due.currency, due.other, due.net, due.fee, due.other_amount, due.exact)
                as w (currency, other, net, fee, given, exact) where w.other is not null group by 1, 2
        ) t;
        perform ledger._trade_of_day(at, traded.sold, traded.bought, traded.given, traded.promised, traded.exact);
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
