-- Catalogue and billing: subscriptions, invoices, dunning, credit notes, payers' balances. An amount is rounded half up,
-- once, where it becomes a line; every total is a sum of lines. Imported subscriptions have no row in
-- `subscription_billing`: Stripe bills them, we never do.

alter table oltp.customers add column next_invoice_sequence integer not null default 1
    check (next_invoice_sequence > 0);
alter table oltp.invoices
    add column pre_payment_credit_notes_amount bigint not null default 0
    check (pre_payment_credit_notes_amount >= 0),
    add column post_payment_credit_notes_amount bigint not null default 0
    check (post_payment_credit_notes_amount >= 0);
alter table oltp.subscription_items
    add column billed_amount bigint not null default 0 check (billed_amount >= 0),
    add column billed_from timestamptz check (isfinite(billed_from));
comment on column oltp.subscription_items.billed_amount is 'What was billed, less discounts, from billed_from to the period''s end';
create index invoice_items_waiting on oltp.invoice_items (customer_id) where invoice_id is null and not deleted;

create table oltp.dunning_policies (
    id text collate "C" primary key check (id ~ '^[a-z_]{1,40}$'),
    final_status text not null check (final_status in ('canceled', 'past_due', 'unpaid')),
    description text not null
);
comment on column oltp.dunning_policies.final_status is 'What a subscription becomes when the last retry failed';
create table oltp.dunning_steps (
    policy_id text collate "C" not null references oltp.dunning_policies,
    attempt smallint not null check (attempt > 0),
    days_after smallint not null check (days_after between 1 and 90),
    primary key (policy_id, attempt),
    unique (policy_id, days_after)
);
comment on column oltp.dunning_steps.days_after is 'Days from the invoice''s finalisation to this retry';

create table oltp.subscription_billing (
    subscription_id text collate "C" primary key references oltp.subscriptions,
    recurring_interval text not null check (recurring_interval in ('day', 'month', 'week', 'year')),
    recurring_interval_count integer not null check (recurring_interval_count between 1 and 1095),
    dunning_policy_id text collate "C" not null references oltp.dunning_policies,
    trial_without_method text not null check (trial_without_method in ('cancel', 'create_invoice', 'pause')),
    due_at timestamptz check (isfinite(due_at))
);
comment on table oltp.subscription_billing is 'Subscriptions that we bill, and when the next step is due; null when none is';
create index subscription_billing_due on oltp.subscription_billing (due_at) where due_at is not null;

create table oltp.subscription_tax_rates (
    subscription_id text collate "C" not null references oltp.subscriptions,
    position smallint not null check (position >= 0),
    tax_rate_id text collate "C" not null references oltp.tax_rates,
    primary key (subscription_id, position)
);
create table oltp.subscription_cycles (
    subscription_id text collate "C" not null references oltp.subscriptions,
    period_start timestamptz not null check (isfinite(period_start)),
    period_end timestamptz not null check (isfinite(period_end)),
    invoice_id text collate "C" references oltp.invoices,
    primary key (subscription_id, period_start),
    constraint cycle_runs_forward check (period_end > period_start)
);
comment on table oltp.subscription_cycles is 'Which invoice billed a period: each is billed once, by key';
create table oltp.invoice_line_discounts (
    invoice_line_id text collate "C" not null references oltp.invoice_lines,
    discount_id text collate "C" not null references oltp.discounts,
    amount bigint not null check (amount > 0),
    primary key (invoice_line_id, discount_id)
);

-- What an invoice of ours says of itself must add up when its transaction ends. Imported ones are as Stripe sent them.
create function payments._invoice_adds_up() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    named text := case tg_table_name when 'invoices' then to_jsonb(new) ->> 'id' else to_jsonb(new) ->> 'invoice_id' end;
    i oltp.invoices;
    lines bigint;
    discounts bigint;
    taxes bigint;
    paid bigint;
    bad text;
begin
    if exists (select 1 from ingest.versions v where v.kind = 'invoice' and v.object_id = named) then
        return null;
    end if;
    select * into i from oltp.invoices v where v.id = named and v.subtotal is not null and v.total is not null
    and v.amount_due is not null and v.amount_paid is not null and v.amount_remaining is not null;
    if not found then
        return null;
    end if;
    select coalesce(sum(l.amount), 0) into lines from oltp.invoice_lines l where l.invoice_id = i.id;
    select coalesce(sum(d.amount), 0) into discounts from oltp.invoice_lines l
    join oltp.invoice_line_discounts d on d.invoice_line_id = l.id where l.invoice_id = i.id;
    select coalesce(sum(t.amount) filter (where not t.inclusive), 0) into taxes from oltp.invoice_taxes t
    where t.invoice_id = i.id;
    select coalesce(sum(p.amount_paid), 0) into paid from oltp.invoice_payments p
    where p.invoice_id = i.id and p.status = 'paid';
    bad := case
        when i.subtotal <> lines then 'its subtotal is not the sum of its lines'
        when i.total <> lines - discounts + taxes then 'its total is not its lines less discounts plus taxes'
        when i.amount_remaining <> i.amount_due - i.amount_paid or i.amount_remaining < 0
        then 'what remains is not what is due less what was paid'
        when i.amount_paid <> paid then 'what was paid is not the sum of its payments'
        when i.status = 'paid' and i.amount_remaining <> 0 then 'it is paid and something remains'
        when i.finalized_at is not null and i.status <> 'void' and i.amount_due + i.pre_payment_credit_notes_amount
            <> i.total + i.starting_balance - i.ending_balance
        then 'what is due is not its total with what the payer''s balance took or gave'
        when i.post_payment_credit_notes_amount + i.pre_payment_credit_notes_amount > greatest(i.total, 0)
        then 'more is credited than it bills' end;
    if bad is not null then
        raise exception 'invoice % does not add up: %; nothing was written', i.id, bad
        using errcode = 'P0001', constraint = 'invoice_adds_up', table = 'invoices';
    end if;
    return null;
end $$;
create constraint trigger invoice_adds_up after insert or update on oltp.invoices
deferrable initially deferred for each row execute function payments._invoice_adds_up();
create constraint trigger invoice_adds_up after insert or update on oltp.invoice_lines
deferrable initially deferred for each row execute function payments._invoice_adds_up();
create constraint trigger invoice_adds_up after insert or update on oltp.invoice_taxes
deferrable initially deferred for each row execute function payments._invoice_adds_up();
create constraint trigger invoice_adds_up after insert or update on oltp.invoice_payments
deferrable initially deferred for each row execute function payments._invoice_adds_up();

-- A payer's balance is the sum of its movements; below zero it is credit.
create function payments._payer_adds_up() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    payer text := case tg_table_name when 'customers' then to_jsonb(new) ->> 'id' else to_jsonb(new) ->> 'customer_id' end;
begin
    if exists (select 1 from oltp.customers c where c.id = payer and c.balance <> coalesce((
            select sum(t.amount) from oltp.customer_balance_transactions t where t.customer_id = payer), 0))
    and not exists (select 1 from ingest.versions v where v.kind = 'customer' and v.object_id = payer)
    and not exists (select 1 from oltp.customer_balance_transactions t join ingest.versions v
        on v.kind = 'customer_balance_transaction' and v.object_id = t.id where t.customer_id = payer) then
        raise exception 'balance of % is not the sum of its movements: move it by a balance transaction', payer
        using errcode = 'P0001', constraint = 'customer_balance_adds_up', table = 'customers';
    end if;
    return null;
end $$;
create constraint trigger customer_balance_adds_up after insert or update on oltp.customer_balance_transactions
deferrable initially deferred for each row execute function payments._payer_adds_up();
create constraint trigger customer_balance_adds_up after update of balance on oltp.customers
deferrable initially deferred for each row when (old.balance <> new.balance) execute function payments._payer_adds_up();

create function payments.seed_billing() returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    insert into oltp.dunning_policies (id, final_status, description) values
    ('default', 'canceled', 'Retries after 1, 3, 5 and 7 days, then the subscription ends'),
    ('keep_unpaid', 'unpaid', 'Retries after 1, 3, 5 and 7 days, then it goes on as unpaid'),
    ('patient', 'past_due', 'Retries after 7, 14 and 28 days, then it stays past due')
    on conflict do nothing;
    insert into oltp.dunning_steps (policy_id, attempt, days_after)
    select p.id, row_number() over (partition by p.id order by d), d from (values
        ('default', array[1, 3, 5, 7]), ('keep_unpaid', array[1, 3, 5, 7]), ('patient', array[7, 14, 28])
    ) as p (id, days) cross join unnest(p.days) as d
    on conflict do nothing;
end $$;

-- A call of several steps claims its key first and keeps its answer last; one transaction, so nobody sees the gap.
create function payments._begin(
    p_account text, p_key text, p_hash bytea, p_operation text, out answer text, out replayed boolean
) language plpgsql as $$
begin
    if p_key is not null and p_account is not null then
        answer := payments._claim(p_account, p_key, p_hash, p_operation, null, null);
    end if;
    replayed := answer is not null;
end $$;

create function payments._keep(p_account text, p_key text, p_object text, p_answer text) returns text
language plpgsql as $$
begin
    if p_key is not null and p_account is null and p_answer not like '{"error"%' then
        raise exception 'this object belongs to no account, and idempotency keys belong to one: repeat without a key'
        using errcode = 'P0001', constraint = 'idempotency_key_unusable', table = 'idempotency_keys';
    elsif p_key is not null and p_account is not null then
        update oltp.idempotency_keys k set answer = p_answer, object_id = p_object
        where k.account_id = p_account and k.key = p_key;
    end if;
    return p_answer;
end $$;

create function payments._invalid(p_code text, p_message text, p_param text default null) returns text
language sql immutable as $$
    select payments._refusal('invalid_request_error', p_code, p_message, p_param)
$$;

-- Catalogue.
create function payments._object_answer(p_kind text, p_id text) returns text language sql immutable as $$
    select json_build_object(p_kind, p_id)::text
$$;

create function payments._account_refusal(p_account text) returns text language sql stable as $$
    select payments._invalid('resource_missing', format('account %s does not exist: check the id', p_account), 'account')
    where not exists (select 1 from oltp.accounts a where a.id = p_account and not a.deleted)
$$;

create function payments.create_product(
    p_account text, p_name text, p_active boolean default true, p_tax_code text default null,
    p_unit_label text default null, p_category text default null, p_type text default 'service',
    p_id text default null, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    product text := coalesce(p_id, 'prod_' || ops.id_body(at));
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_product') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account),
        case when coalesce(p_name, '') = '' then payments._invalid('parameter_missing', 'a product has a name: give one', 'name')
        when exists (select 1 from oltp.products p where p.id = product) then payments._invalid('resource_already_exists',
            format('product %s exists: choose another id', product), 'id') end);
    if answer is null then
        insert into oltp.products (id, account_id, name, category, type, active, tax_code, unit_label, created)
        values (product, p_account, p_name, p_category, p_type, p_active, p_tax_code, p_unit_label, at);
        perform payments._event('product.created', p_account, 'product', product, p_key, at);
        answer := payments._object_answer('product', product);
    end if;
    answer := payments._keep(p_account, p_key, product, answer);
end $$;

create function payments._price_refusal(
    p_product oltp.products, p_currency text, p_type text, p_scheme text, p_unit_amount bigint, p_decimal numeric,
    p_interval text, p_count integer, p_tiers_mode text, p_tiers jsonb
) returns text language plpgsql stable as $$
begin
    return case
        when p_product.id is null or p_product.deleted then payments._invalid('resource_missing',
            'a price names an existing product: check the id', 'product')
        when not exists (select 1 from oltp.currencies c where c.code = p_currency) then payments._invalid('currency_invalid',
            format('currency %s is not known: use an ISO code in lower case', p_currency), 'currency')
        when p_type not in ('one_time', 'recurring') or (p_type = 'recurring') <> (p_interval is not null)
        then payments._invalid('parameter_invalid', 'a recurring price has an interval, a one-time price none', 'recurring')
        when p_interval not in ('day', 'week', 'month', 'year') or p_count < 1
            or p_count > case p_interval when 'day' then 1095 when 'week' then 156 when 'month' then 36 else 3 end
        then payments._invalid('parameter_invalid', 'an interval is day, week, month or year and at most three years long',
            'recurring')
        when p_scheme = 'per_unit' and ((p_unit_amount is null) = (p_decimal is null) or p_tiers is not null)
        then payments._invalid('parameter_invalid', 'a price per unit has unit_amount or unit_amount_decimal, and no tiers',
            'unit_amount')
        when p_scheme = 'per_unit' and (p_unit_amount < 0 or p_decimal < 0 or scale(p_decimal) > 12)
        then payments._invalid('parameter_invalid', 'a unit amount is not negative and has at most 12 decimals', 'unit_amount')
        when p_scheme = 'per_unit' and p_unit_amount % payments._unit(p_currency) <> 0
        then payments._invalid('amount_invalid', format('the last digit of a %s amount must be 0', p_currency), 'unit_amount')
        when p_scheme = 'tiered' and (p_tiers_mode not in ('graduated', 'volume') or p_tiers_mode is null
            or coalesce(jsonb_array_length(p_tiers), 0) = 0 or p_unit_amount is not null or p_decimal is not null)
        then payments._invalid('parameter_invalid', 'a tiered price has tiers, their mode (graduated, volume) and no unit'
            ' amount', 'tiers')
        when p_scheme not in ('per_unit', 'tiered')
        then payments._invalid('parameter_invalid', 'a billing scheme is per_unit or tiered', 'billing_scheme')
        when p_scheme = 'tiered' and exists (
            select 1 from (
                select (t.value ->> 'up_to')::bigint as up_to, t.ordinality as n, t.value,
                    lag((t.value ->> 'up_to')::bigint, 1, 0::bigint) over (order by t.ordinality) as before
                from jsonb_array_elements(p_tiers) with ordinality as t
            ) s
            where (s.up_to is null) <> (s.n = jsonb_array_length(p_tiers)) or s.up_to <= s.before
            or coalesce(s.value ->> 'unit_amount', s.value ->> 'unit_amount_decimal', s.value ->> 'flat_amount',
                s.value ->> 'flat_amount_decimal') is null
            or (s.value ->> 'unit_amount')::bigint < 0 or (s.value ->> 'flat_amount')::bigint < 0
            or (s.value ->> 'unit_amount_decimal')::numeric < 0 or (s.value ->> 'flat_amount_decimal')::numeric < 0)
        then payments._invalid('parameter_invalid', 'tiers rise, each has an amount, and only the last one has no up_to',
            'tiers') end;
end $$;

create function payments._unit(p_currency text) returns integer language sql stable as $$
    select case c.stripe_exponent when 3 then 10 else 1 end from oltp.currencies c where c.code = p_currency
$$;
comment on function payments._unit is 'Smallest amount of a currency: three-decimal ones end with 0';

create function payments._rounded(p_amount numeric, p_currency text) returns bigint language sql stable as $$
    select (round(p_amount / u.unit) * u.unit)::bigint from payments._unit(p_currency) as u (unit)
$$;
comment on function payments._rounded is 'Half away from zero, to the smallest amount of the currency';

create function payments.create_price(
    p_product text, p_currency text, p_type text default 'one_time', p_billing_scheme text default 'per_unit',
    p_unit_amount bigint default null, p_unit_amount_decimal numeric default null, p_interval text default null,
    p_interval_count integer default 1, p_usage_type text default 'licensed', p_tiers_mode text default null,
    p_tiers jsonb default null, p_tax_behavior text default 'unspecified', p_nickname text default null,
    p_lookup_key text default null, p_trial_period_days integer default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    price text := 'price_' || ops.id_body(at);
    product oltp.products;
begin
    select * into product from oltp.products p where p.id = p_product;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(product.account_id, p_key, p_hash, 'create_price') b;
    if replayed then
        return;
    end if;
    answer := payments._price_refusal(product, p_currency, p_type, p_billing_scheme, p_unit_amount, p_unit_amount_decimal,
        p_interval, p_interval_count, p_tiers_mode, p_tiers);
    if answer is null then
        insert into oltp.prices (id, product_id, active, currency, type, billing_scheme, unit_amount, unit_amount_decimal,
            recurring_interval, recurring_interval_count, usage_type, tiers_mode, tax_behavior, trial_period_days,
            nickname, lookup_key, created)
        values (price, p_product, true, p_currency, p_type, p_billing_scheme, p_unit_amount,
            coalesce(p_unit_amount_decimal, p_unit_amount), p_interval,
            case when p_interval is not null then p_interval_count end, case when p_interval is not null then p_usage_type end,
            p_tiers_mode, p_tax_behavior, p_trial_period_days, p_nickname, p_lookup_key, at);
        insert into oltp.price_tiers (price_id, position, up_to, unit_amount, flat_amount, unit_amount_decimal,
            flat_amount_decimal)
        select price, t.ordinality - 1, (t.value ->> 'up_to')::bigint, (t.value ->> 'unit_amount')::bigint,
            (t.value ->> 'flat_amount')::bigint,
            coalesce((t.value ->> 'unit_amount_decimal')::numeric, (t.value ->> 'unit_amount')::numeric),
            coalesce((t.value ->> 'flat_amount_decimal')::numeric, (t.value ->> 'flat_amount')::numeric)
        from jsonb_array_elements(coalesce(p_tiers, '[]')) with ordinality as t;
        perform payments._event('price.created', product.account_id, 'price', price, p_key, at);
        answer := payments._object_answer('price', price);
    end if;
    answer := payments._keep(product.account_id, p_key, price, answer);
end $$;

create function payments.create_coupon(
    p_account text, p_duration text, p_percent_off numeric default null, p_amount_off bigint default null,
    p_currency text default null, p_duration_in_months integer default null, p_max_redemptions integer default null,
    p_redeem_by timestamptz default null, p_name text default null, p_id text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    coupon text := coalesce(p_id, 'coupon_' || ops.id_body(at));
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_coupon') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when exists (select 1 from oltp.coupons c where c.id = coupon) then payments._invalid('resource_already_exists',
            format('coupon %s exists: choose another id', coupon), 'id')
        when p_duration not in ('forever', 'once', 'repeating') or (p_duration = 'repeating') <> (p_duration_in_months > 0)
            or (p_duration = 'repeating') <> (p_duration_in_months is not null)
        then payments._invalid('parameter_invalid', 'a coupon lasts forever, once, or repeating with duration_in_months',
            'duration')
        when (p_percent_off is null) = (p_amount_off is null) or p_percent_off <= 0 or p_percent_off > 100
            or p_amount_off <= 0 or (p_amount_off is null) <> (p_currency is null)
        then payments._invalid('parameter_invalid', 'a coupon has percent_off up to 100, or amount_off with a currency',
            'percent_off')
        when p_amount_off is not null and coalesce(p_amount_off % payments._unit(p_currency) <> 0, true)
        then payments._invalid('amount_invalid', 'amount_off is not an amount of its currency: check both', 'amount_off')
        end);
    if answer is null then
        insert into oltp.coupons (id, account_id, name, duration, duration_in_months, percent_off, amount_off, currency,
            max_redemptions, times_redeemed, redeem_by, valid, created)
        values (coupon, p_account, p_name, p_duration, p_duration_in_months, p_percent_off, p_amount_off, p_currency,
            p_max_redemptions, 0, p_redeem_by, true, at);
        perform payments._event('coupon.created', p_account, 'coupon', coupon, p_key, at);
        answer := payments._object_answer('coupon', coupon);
    end if;
    answer := payments._keep(p_account, p_key, coupon, answer);
end $$;

create function payments.create_tax_rate(
    p_account text, p_display_name text, p_percentage numeric, p_inclusive boolean, p_country text default null,
    p_state text default null, p_jurisdiction text default null, p_tax_type text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    rate text := 'txr_' || ops.id_body(at);
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_tax_rate') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when p_percentage not between 0 and 100 or scale(p_percentage) > 4 or p_percentage is null
        then payments._invalid('parameter_invalid', 'a tax rate is a percentage from 0 to 100 with at most four decimals',
            'percentage') end);
    if answer is null then
        insert into oltp.tax_rates (id, display_name, percentage, effective_percentage, inclusive, active, country, state,
            jurisdiction, tax_type, created)
        values (rate, p_display_name, p_percentage, p_percentage, p_inclusive, true, p_country, p_state, p_jurisdiction,
            p_tax_type, at);
        perform payments._event('tax_rate.created', p_account, 'tax_rate', rate, p_key, at);
        answer := payments._object_answer('tax_rate', rate);
    end if;
    answer := payments._keep(p_account, p_key, rate, answer);
end $$;

-- What a quantity costs, before discounts and taxes: rounded once, after tiers are added up.
create function payments._price_amount(p_price text, p_quantity bigint) returns bigint language sql stable as $$
    select case
        when p_quantity = 0 then 0
        when p.billing_scheme = 'tiered' and p.tiers_mode = 'volume' then (
            select payments._rounded(coalesce(t.unit_amount_decimal, 0) * p_quantity + coalesce(t.flat_amount_decimal, 0),
                p.currency)
            from oltp.price_tiers t where t.price_id = p.id and (t.up_to is null or t.up_to >= p_quantity)
            order by t.position limit 1)
        when p.billing_scheme = 'tiered' then (
            select payments._rounded(sum(coalesce(s.unit_amount_decimal, 0) * (least(s.top, p_quantity) - s.bottom)
                + coalesce(s.flat_amount_decimal, 0)), p.currency)
            from (
                select t.*, coalesce(t.up_to, p_quantity) as top, coalesce(lag(t.up_to) over (order by t.position), 0) as bottom
                from oltp.price_tiers t where t.price_id = p.id
            ) s where s.bottom < p_quantity)
        else payments._rounded(coalesce(p.unit_amount_decimal, p.unit_amount) * p_quantity, p.currency) end
    from oltp.prices p where p.id = p_price
$$;

-- Periods are counted from the anchor, not from the period before: 31 January, 28 February, 31 March.
create function payments._cycle(p_anchor timestamptz, p_interval text, p_count integer, p_n integer) returns timestamptz
language sql immutable as $$
    select (p_anchor at time zone 'UTC' + case p_interval
        when 'year' then make_interval(years => p_count * p_n) when 'month' then make_interval(months => p_count * p_n)
        when 'week' then make_interval(weeks => p_count * p_n) else make_interval(days => p_count * p_n) end)
        at time zone 'UTC'
$$;

create function payments._next_cycle(p_anchor timestamptz, p_interval text, p_count integer, p_after timestamptz)
returns timestamptz language plpgsql immutable as $$
declare
    longest numeric := p_count * case p_interval when 'year' then 366 when 'month' then 31 when 'week' then 7 else 1 end;
    n integer := greatest(floor(extract(epoch from p_after - p_anchor) / 86400 / longest)::integer - 1, 0);
    reached timestamptz;
begin
    loop
        reached := payments._cycle(p_anchor, p_interval, p_count, n);
        exit when reached > p_after;
        n := n + 1;
    end loop;
    return reached;
end $$;
comment on function payments._next_cycle is 'First end of a period after an instant';

-- Invoices.
create function payments._new_invoice(
    p_account text, p_customer text, p_subscription text, p_currency text, p_reason text, p_method text,
    p_start timestamptz, p_end timestamptz, p_at timestamptz, p_key text
) returns text language plpgsql as $$
declare
    invoice text := 'in_' || ops.id_body(p_at);
begin
    insert into oltp.invoices (id, account_id, customer_id, subscription_id, status, billing_reason, collection_method,
        currency, amount_due, amount_paid, amount_remaining, amount_overpaid, subtotal, tax, total, starting_balance,
        attempt_count, attempted, auto_advance, period_start, period_end, created)
    values (invoice, p_account, p_customer, p_subscription, 'draft', p_reason, p_method, p_currency, 0, 0, 0, 0, 0, 0, 0, 0,
        0, false, true, p_start, p_end, p_at);
    insert into oltp.invoice_taxes (invoice_id, position, tax_rate_id, amount, inclusive, taxable_amount)
    select invoice, r.position, r.tax_rate_id, 0, t.inclusive, 0 from oltp.subscription_tax_rates r
    join oltp.tax_rates t on t.id = r.tax_rate_id where r.subscription_id = p_subscription;
    if p_subscription is not null then
        update oltp.subscriptions set latest_invoice_id = invoice where id = p_subscription;
    end if;
    perform payments._event('invoice.created', p_account, 'invoice', invoice, p_key, p_at);
    return invoice;
end $$;

create function payments._add_line(
    p_invoice text, p_at timestamptz, p_type text, p_item text, p_invoice_item text, p_price text, p_amount bigint,
    p_currency text, p_quantity bigint, p_proration boolean, p_discountable boolean, p_start timestamptz, p_end timestamptz
) returns void language sql as $$
    insert into oltp.invoice_lines (id, invoice_id, subscription_item_id, invoice_item_id, price_id, type, amount, subtotal,
        currency, quantity, proration, discountable, period_start, period_end)
    values ('il_' || ops.id_body(p_at), p_invoice, p_item, p_invoice_item, p_price, p_type, p_amount, p_amount, p_currency,
        p_quantity, p_proration, p_discountable, p_start, p_end)
$$;

-- Pending items of a subscription (or, without one, of a payer) become lines of a draft.
create function payments._take_items(p_invoice text, p_customer text, p_subscription text, p_currency text, p_at timestamptz)
returns integer language plpgsql as $$
declare
    taken integer;
begin
    perform payments._add_line(p_invoice, p_at, 'invoiceitem', null, t.id, t.price_id, t.amount, t.currency, t.quantity,
        t.proration, not t.proration and t.amount > 0, t.period_start, t.period_end)
    from (
        select i.* from oltp.invoice_items i where i.customer_id = p_customer and i.invoice_id is null and not i.deleted
        and i.subscription_id is not distinct from p_subscription and i.currency = p_currency order by i.id for no key update
    ) t;
    update oltp.invoice_items i set invoice_id = p_invoice from oltp.invoice_lines l
    where l.invoice_id = p_invoice and l.invoice_item_id = i.id and i.invoice_id is null;
    get diagnostics taken = row_count;
    return taken;
end $$;

create function payments._discounts_at(p_subscription text, p_customer text, p_at timestamptz) returns setof oltp.discounts
language sql stable as $$
    select d.* from oltp.discounts d where d.subscription_id = p_subscription and not d.deleted
    and coalesce(d.start, p_at) <= p_at and coalesce(d.ends, 'infinity') > p_at
    union all
    select d.* from oltp.discounts d where d.customer_id = p_customer and d.subscription_id is null and d.invoice_id is null
    and not d.deleted and coalesce(d.start, p_at) <= p_at and coalesce(d.ends, 'infinity') > p_at
    and not exists (select 1 from oltp.discounts s where s.subscription_id = p_subscription and not s.deleted
        and coalesce(s.start, p_at) <= p_at and coalesce(s.ends, 'infinity') > p_at)
$$;
comment on function payments._discounts_at is 'Reductions in force: the subscription''s own, else the payer''s';

-- Discounts and taxes of a draft anew, then its totals. A discount is cut into lines by cumulative rounding: its parts
-- add up to it exactly.
create function payments._total(p_invoice text, p_at timestamptz) returns void language plpgsql as $$
declare
    i oltp.invoices;
    given record;
    base bigint;
    reduction bigint;
    lines bigint;
    discounted bigint;
    included numeric;
    taxable bigint;
    contained bigint;
    exempt boolean;
    taxes bigint;
    added bigint;
begin
    select * into i from oltp.invoices v where v.id = p_invoice;
    delete from oltp.invoice_line_discounts d using oltp.invoice_lines l
    where l.id = d.invoice_line_id and l.invoice_id = p_invoice;
    for given in
        select d.id, c.percent_off, c.amount_off, c.currency
        from payments._discounts_at(i.subscription_id, i.customer_id, p_at) d join oltp.coupons c on c.id = d.coupon_id
        order by d.start, d.id
    loop
        continue when given.currency is not null and given.currency <> i.currency;
        select sum(payments._left_of(l.id, l.amount)) into base from oltp.invoice_lines l
        where l.invoice_id = p_invoice and l.discountable and l.amount > 0;
        continue when coalesce(base, 0) = 0;
        reduction := least(coalesce(given.amount_off, payments._rounded(base * given.percent_off / 100, i.currency)), base);
        insert into oltp.invoice_line_discounts (invoice_line_id, discount_id, amount)
        select s.id, given.id, s.part from (
            select t.id, payments._rounded(reduction::numeric * t.upto / base, i.currency)
                - payments._rounded(reduction::numeric * (t.upto - t.left) / base, i.currency) as part
            from (
                select l.id, l.left, sum(l.left) over (order by l.id) as upto
                from (select n.id, payments._left_of(n.id, n.amount) as left from oltp.invoice_lines n
                    where n.invoice_id = p_invoice and n.discountable and n.amount > 0) l
            ) t
        ) s where s.part > 0;
    end loop;
    select coalesce(sum(l.amount), 0), coalesce(sum(payments._left_of(l.id, l.amount)), 0) into lines, discounted
    from oltp.invoice_lines l where l.invoice_id = p_invoice;
    select coalesce(c.tax_exempt in ('exempt', 'reverse'), false) into exempt from oltp.customers c where c.id = i.customer_id;
    select coalesce(sum(r.percentage), 0) into included from oltp.invoice_taxes t
    join oltp.tax_rates r on r.id = t.tax_rate_id where t.invoice_id = p_invoice and t.inclusive;
    if exempt then
        included := 0;
    end if;
    contained := discounted - payments._rounded(discounted * 100 / (100 + included), i.currency);
    taxable := discounted - contained;
    update oltp.invoice_taxes t set taxable_amount = taxable, amount = s.amount
    from (
        select x.position, case
            when exempt then 0
            when x.inclusive and included = 0 then 0
            when x.inclusive then payments._rounded(contained * r.upto / included, i.currency)
                - payments._rounded(contained * (r.upto - r.percentage) / included, i.currency)
            else payments._rounded(taxable * r.percentage / 100, i.currency) end as amount
        from oltp.invoice_taxes x
        join lateral (
            select p.percentage, (select sum(q.percentage) from oltp.invoice_taxes y join oltp.tax_rates q
                on q.id = y.tax_rate_id where y.invoice_id = p_invoice and y.inclusive and y.position <= x.position) as upto
            from oltp.tax_rates p where p.id = x.tax_rate_id
        ) r on true
        where x.invoice_id = p_invoice
    ) s where t.invoice_id = p_invoice and t.position = s.position;
    select coalesce(sum(t.amount), 0), coalesce(sum(t.amount) filter (where not t.inclusive), 0) into taxes, added
    from oltp.invoice_taxes t where t.invoice_id = p_invoice;
    update oltp.invoices v set subtotal = lines, tax = taxes, total = discounted + added,
        amount_due = greatest(discounted + added, 0), amount_remaining = greatest(discounted + added, 0)
    where v.id = p_invoice;
end $$;

create function payments._left_of(p_line text, p_amount bigint) returns bigint language sql stable as $$
    select p_amount - coalesce(sum(d.amount), 0)::bigint from oltp.invoice_line_discounts d where d.invoice_line_id = p_line
$$;
comment on function payments._left_of is 'A line''s amount less its discounts';

create function payments._move_payer(
    p_customer text, p_currency text, p_amount bigint, p_type text, p_invoice text, p_note text, p_at timestamptz, p_key text
) returns text language plpgsql as $$
declare
    movement text := 'cbtxn_' || ops.id_body(p_at);
    ends bigint;
begin
    if p_amount = 0 then
        return null;
    end if;
    update oltp.customers c set balance = c.balance + p_amount, currency = coalesce(c.currency, p_currency)
    where c.id = p_customer returning c.balance into ends;
    insert into oltp.customer_balance_transactions (id, customer_id, invoice_id, credit_note_id, type, amount,
        ending_balance, currency, created)
    values (movement, p_customer, p_invoice, p_note, p_type, p_amount, ends, p_currency, p_at);
    perform payments._event('customer_cash_balance_transaction.created', null, 'customer_balance_transaction', movement,
        p_key, p_at);
    return movement;
end $$;

create function payments._set_invoice(p_invoice text, p_status text, p_at timestamptz, p_key text) returns void
language plpgsql as $$
begin
    update oltp.invoices i set status = p_status,
        paid_at = case when p_status = 'paid' then p_at else i.paid_at end,
        voided_at = case when p_status = 'void' then p_at else i.voided_at end,
        marked_uncollectible_at = case when p_status = 'uncollectible' then p_at else i.marked_uncollectible_at end,
        next_payment_attempt = null, auto_advance = false
    where i.id = p_invoice;
    perform payments._event(case p_status when 'void' then 'invoice.voided' when 'uncollectible'
        then 'invoice.marked_uncollectible' else 'invoice.' || p_status end, i.account_id, 'invoice', p_invoice, p_key, p_at)
    from oltp.invoices i where i.id = p_invoice;
end $$;

-- From draft to open: a number, the payer's balance, what is due. Nothing due is paid at once.
create function payments._finalize(p_invoice text, p_days_until_due integer, p_at timestamptz, p_key text) returns void
language plpgsql as $$
declare
    i oltp.invoices;
    payer oltp.customers;
    net bigint;
    starts bigint;
begin
    perform payments._total(p_invoice, p_at);
    select * into i from oltp.invoices v where v.id = p_invoice;
    update oltp.customers c set next_invoice_sequence = c.next_invoice_sequence + 1,
        invoice_prefix = coalesce(c.invoice_prefix, upper(substr(md5(c.id), 1, 8)))
    where c.id = i.customer_id returning * into payer;
    starts := case when coalesce(payer.currency, i.currency) = i.currency then payer.balance else 0 end;
    net := i.total + starts;
    if i.total = 0 then
        net := 0;
        starts := 0;
    elsif i.total < 0 and payer.currency <> i.currency then
        raise exception 'invoice % gives credit in another currency than its payer''s balance: refund instead', p_invoice
        using errcode = 'P0001', constraint = 'currency_mismatch', table = 'invoices';
    end if;
    perform payments._move_payer(i.customer_id, i.currency, case when i.total = 0 then 0 else least(net, 0) - starts end,
        'applied_to_invoice', p_invoice, null, p_at, p_key);
    update oltp.invoices v set status = 'open', finalized_at = p_at, amount_due = greatest(net, 0),
        amount_remaining = greatest(net, 0), starting_balance = starts, ending_balance = least(net, 0),
        number = payer.invoice_prefix || '-' || lpad((payer.next_invoice_sequence - 1)::text, 4, '0'),
        due_date = case when v.collection_method = 'send_invoice'
            then p_at + make_interval(days => coalesce(p_days_until_due, 30)) end
    where v.id = p_invoice;
    -- A coupon for once is used up by the first invoice that it reduced.
    update oltp.discounts d set ends = p_at from oltp.coupons c
    where c.id = d.coupon_id and c.duration = 'once' and d.id in (select x.discount_id from oltp.invoice_lines l
        join oltp.invoice_line_discounts x on x.invoice_line_id = l.id where l.invoice_id = p_invoice);
    perform payments._event('invoice.finalized', i.account_id, 'invoice', p_invoice, p_key, p_at);
    if net <= 0 then
        perform payments._set_invoice(p_invoice, 'paid', p_at, p_key);
    end if;
end $$;

-- One attempt to collect what remains, off session. The intent stays the same over retries while its amount does.
create function payments._collect(
    p_invoice text, p_method text, p_declined text, p_at timestamptz, p_key text, out charge text, out failure text
) language plpgsql as $$
declare
    i oltp.invoices;
    payment oltp.invoice_payments;
    intent oltp.payment_intents;
    method text;
    given json;
begin
    select * into i from oltp.invoices v where v.id = p_invoice;
    select coalesce(p_method, s.default_payment_method_id, c.default_payment_method_id) into method
    from oltp.customers c left join oltp.subscriptions s on s.id = i.subscription_id where c.id = i.customer_id;
    update oltp.invoices v set attempt_count = v.attempt_count + 1, attempted = true where v.id = p_invoice;
    if method is null then
        failure := 'missing_payment_method';
    else
        select * into payment from oltp.invoice_payments p where p.invoice_id = p_invoice and p.status = 'open' limit 1;
        select * into intent from oltp.payment_intents t where t.id = payment.payment_intent_id;
        if intent.id is not null and (intent.amount <> i.amount_remaining
            or intent.status not in ('requires_payment_method', 'requires_confirmation', 'requires_action')) then
            perform payments._drop_payment(payment.id, p_at, p_key);
            payment := null;
        end if;
        if payment.id is null then
            select c.answer::json into given from payments.create_payment(i.account_id, i.customer_id, method,
                i.amount_remaining, i.currency, p_declined => p_declined, p_device => null, p_created => p_at) c;
        else
            select c.answer::json into given from payments.confirm_intent(payment.payment_intent_id, method,
                p_declined => p_declined, p_device => null, p_created => p_at) c;
        end if;
        if given ->> 'error' is not null then
            raise exception '%', given -> 'error' ->> 'message'
            using errcode = 'P0001', constraint = given -> 'error' ->> 'code', table = 'invoices';
        end if;
        charge := given ->> 'charge';
        failure := given ->> 'failure_code';
        if payment.id is null then
            payment.id := 'inpay_' || ops.id_body(p_at);
            insert into oltp.invoice_payments (id, invoice_id, payment_intent_id, type, amount_requested, amount_paid,
                currency, is_default, status, created)
            values (payment.id, p_invoice, given ->> 'payment_intent', 'payment_intent', i.amount_remaining, 0, i.currency,
                true, 'open', p_at);
            insert into oltp.payment_intent_details (payment_intent_id, setup_future_usage, invoice_id)
            values (given ->> 'payment_intent', 'off_session', p_invoice);
        end if;
        update oltp.payment_intent_details d set latest_charge_id = given ->> 'charge',
            last_payment_error_code = case when given ->> 'failure_code' is not null then 'card_declined' end,
            last_payment_error_decline_code = given ->> 'failure_code'
        where d.payment_intent_id = given ->> 'payment_intent';
    end if;
    if failure is null then
        update oltp.invoice_payments p set status = 'paid', amount_paid = i.amount_remaining, charge_id = charge, paid_at = p_at
        where p.id = payment.id;
        update oltp.invoices v set amount_paid = v.amount_paid + i.amount_remaining, amount_remaining = 0 where v.id = p_invoice;
        perform payments._set_invoice(p_invoice, 'paid', p_at, p_key);
    else
        perform payments._event('invoice.payment_failed', i.account_id, 'invoice', p_invoice, p_key, p_at);
    end if;
end $$;

create function payments._drop_payment(p_payment text, p_at timestamptz, p_key text) returns void language plpgsql as $$
begin
    perform payments.cancel_intent(i.id, 'void_invoice', p_created => p_at) from oltp.invoice_payments p
    join oltp.payment_intents i on i.id = p.payment_intent_id
    where p.id = p_payment and payments._may_move('payment_intent', i.status, 'canceled');
    update oltp.invoice_payments p set status = 'canceled', canceled_at = p_at where p.id = p_payment;
end $$;

-- Void: what the payer's balance had taken or given for it goes back.
create function payments._void(p_invoice text, p_at timestamptz, p_key text) returns void language plpgsql as $$
declare
    i oltp.invoices;
begin
    select * into i from oltp.invoices v where v.id = p_invoice;
    perform payments._drop_payment(p.id, p_at, p_key) from oltp.invoice_payments p
    where p.invoice_id = p_invoice and p.status = 'open';
    perform payments._move_payer(i.customer_id, i.currency, coalesce(i.starting_balance - i.ending_balance, 0),
        'unapplied_from_invoice', p_invoice, null, p_at, p_key);
    perform payments._set_invoice(p_invoice, 'void', p_at, p_key);
end $$;

-- Subscriptions.
create function payments._set_subscription(p_subscription text, p_status text, p_reason text, p_at timestamptz, p_key text)
returns void language plpgsql as $$
begin
    update oltp.subscriptions s set status = p_status,
        canceled_at = case when p_status = 'canceled' then coalesce(s.canceled_at, p_at) else s.canceled_at end,
        ended_at = case when p_status in ('canceled', 'incomplete_expired') then p_at end,
        cancellation_reason = case when p_status = 'canceled' then coalesce(p_reason, s.cancellation_reason)
            else s.cancellation_reason end
    where s.id = p_subscription and s.status <> p_status;
    if found then
        perform payments._event(case p_status when 'canceled' then 'customer.subscription.deleted'
            when 'paused' then 'customer.subscription.paused' else 'customer.subscription.updated' end, s.account_id,
            'subscription', p_subscription, p_key, p_at)
        from oltp.subscriptions s where s.id = p_subscription;
    end if;
end $$;

create function payments._end_subscription(p_subscription text, p_reason text, p_at timestamptz, p_key text) returns void
language plpgsql as $$
begin
    perform payments._set_subscription(p_subscription, 'canceled', p_reason, p_at, p_key);
    update oltp.invoices i set auto_advance = false, next_payment_attempt = null
    where i.subscription_id = p_subscription and i.status in ('draft', 'open');
    update oltp.invoice_items i set deleted = true
    where i.subscription_id = p_subscription and i.invoice_id is null and not i.deleted;
    update oltp.subscription_billing b set due_at = null where b.subscription_id = p_subscription;
end $$;

-- What an attempt's end means for its subscription and its payer.
create function payments._after_attempt(p_invoice text, p_paid boolean, p_at timestamptz, p_key text) returns void
language plpgsql as $$
declare
    i oltp.invoices;
    s oltp.subscriptions;
    policy record;
    failing boolean;
begin
    select * into i from oltp.invoices v where v.id = p_invoice;
    select * into s from oltp.subscriptions v where v.id = i.subscription_id;
    failing := exists (select 1 from oltp.invoices o where o.customer_id = i.customer_id
        and o.subscription_id is not distinct from i.subscription_id and o.status = 'open'
        and (o.attempt_count > 0 or o.due_date <= p_at));
    update oltp.customers c set delinquent = d.owes
    from (select exists (select 1 from oltp.invoices o where o.customer_id = i.customer_id and o.status = 'open'
        and (o.attempt_count > 0 or o.due_date <= p_at)) as owes) d
    where c.id = i.customer_id and c.delinquent <> d.owes;
    if s.id is null or s.status in ('canceled', 'incomplete_expired') then
        return;
    end if;
    if p_paid then
        if s.status = 'incomplete' or (s.status in ('past_due', 'unpaid') and not failing) then
            perform payments._set_subscription(s.id, 'active', null, p_at, p_key);
        end if;
        return;
    end if;
    if s.status = 'incomplete' then
        return;
    end if;
    select p.final_status, min(t.days_after) as days_after into policy from oltp.subscription_billing b
    join oltp.dunning_policies p on p.id = b.dunning_policy_id
    left join oltp.dunning_steps t on t.policy_id = p.id and i.finalized_at + make_interval(days => t.days_after) > p_at
    where b.subscription_id = s.id group by p.final_status;
    update oltp.invoices v set next_payment_attempt = i.finalized_at + make_interval(days => policy.days_after)
    where v.id = p_invoice;
    if s.status in ('active', 'trialing') then
        perform payments._set_subscription(s.id, 'past_due', null, p_at, p_key);
    end if;
    if policy.days_after is null and policy.final_status = 'canceled' then
        perform payments._end_subscription(s.id, 'payment_failed', p_at, p_key);
    elsif policy.days_after is null and policy.final_status = 'unpaid' then
        perform payments._set_subscription(s.id, 'unpaid', null, p_at, p_key);
    end if;
end $$;

-- When the next step of a subscription is due, and which one it is.
create function payments._next_step(p_subscription text, out due_at timestamptz, out step text, out invoice text)
language sql stable as $$
    select c.at, c.step, c.invoice
    from oltp.subscriptions s
    cross join lateral (
        select s.created + interval '23 hours' as at, 'expire' as step, s.latest_invoice_id as invoice, 1 as n
        where s.status = 'incomplete'
        union all
        select s.resumes_at, 'resume', null, 2 where s.pause_behavior is not null and s.resumes_at is not null
        union all
        select s.cancel_at, 'cancel', null, 3 where s.cancel_at is not null
        union all
        (select i.next_payment_attempt, 'retry', i.id, 4 from oltp.invoices i
        where i.subscription_id = s.id and i.status = 'open' and i.auto_advance and i.next_payment_attempt is not null
        order by i.next_payment_attempt, i.id limit 1)
        union all
        (select i.due_date, 'overdue', i.id, 5 from oltp.invoices i
        where i.subscription_id = s.id and i.status = 'open' and i.due_date is not null and s.status = 'active'
        order by i.due_date, i.id limit 1)
        union all
        select min(t.current_period_end), 'renew', null, 6 from oltp.subscription_items t
        where t.subscription_id = s.id and not t.deleted
    ) c
    where s.id = p_subscription and c.at is not null
    and (s.status not in ('incomplete', 'paused') or c.step in ('expire', 'cancel'))
    and s.status not in ('canceled', 'incomplete_expired')
    order by c.at, c.n limit 1
$$;

create function payments._schedule(p_subscription text) returns void language sql as $$
    update oltp.subscription_billing b set due_at = (select n.due_at from payments._next_step(p_subscription) n)
    where b.subscription_id = p_subscription
$$;

create function payments._reduced(p_amount bigint, p_currency text, p_subscription text, p_customer text, p_at timestamptz)
returns bigint language plpgsql stable as $$
declare
    given record;
    rest bigint := p_amount;
begin
    for given in select c.percent_off from payments._discounts_at(p_subscription, p_customer, p_at) d
        join oltp.coupons c on c.id = d.coupon_id where c.percent_off is not null order by d.start, d.id loop
        rest := rest - payments._rounded(rest * given.percent_off / 100, p_currency);
    end loop;
    return rest;
end $$;
comment on function payments._reduced is 'An amount less the percentages in force; amounts off count per invoice, not here';

-- Bill the period that begins at `p_start` for every item, once, and collect. What was billed is kept on the items: a
-- later proration gives back a part of that and never more.
create function payments._bill_period(
    p_subscription text, p_start timestamptz, p_reason text, p_method text, p_declined text, p_at timestamptz, p_key text,
    out invoice text, out charge text, out failure text
) language plpgsql as $$
declare
    s oltp.subscriptions;
    b oltp.subscription_billing;
    ends timestamptz;
    made oltp.invoices;
begin
    select * into s from oltp.subscriptions v where v.id = p_subscription;
    select * into b from oltp.subscription_billing v where v.subscription_id = p_subscription;
    ends := case when s.status = 'trialing' then s.trial_end
        else payments._next_cycle(s.billing_cycle_anchor, b.recurring_interval, b.recurring_interval_count, p_start) end;
    invoice := payments._new_invoice(s.account_id, s.customer_id, s.id, s.currency, p_reason, s.collection_method,
        case when p_reason = 'subscription_cycle' then coalesce((select min(t.current_period_start)
            from oltp.subscription_items t where t.subscription_id = s.id and not t.deleted), p_start) else p_start end,
        p_start, p_at, p_key);
    insert into oltp.subscription_cycles (subscription_id, period_start, period_end, invoice_id)
    values (s.id, p_start, ends, invoice);
    perform payments._take_items(invoice, s.customer_id, s.id, s.currency, p_at);
    perform payments._add_line(invoice, p_at, 'subscription', t.id, null, t.price_id,
        case when s.status = 'trialing' then 0 else payments._price_amount(t.price_id, t.quantity) end, s.currency,
        t.quantity, false, true, p_start, ends)
    from (select v.* from oltp.subscription_items v where v.subscription_id = s.id and not v.deleted order by v.id) t;
    perform payments._total(invoice, p_at);
    update oltp.subscription_items t set current_period_start = p_start, current_period_end = ends, billed_from = p_start,
        billed_amount = (select coalesce(sum(payments._left_of(l.id, l.amount)), 0) from oltp.invoice_lines l
            where l.invoice_id = _bill_period.invoice and l.subscription_item_id = t.id and l.type = 'subscription')
    where t.subscription_id = s.id and not t.deleted;
    if s.status = 'unpaid' or s.pause_behavior = 'keep_as_draft' then
        update oltp.invoices v set auto_advance = false where v.id = invoice;
        return;
    end if;
    perform payments._finalize(invoice, s.days_until_due, p_at, p_key);
    select * into made from oltp.invoices v where v.id = invoice;
    if made.status = 'paid' then
        return;
    elsif s.pause_behavior = 'void' then
        perform payments._void(invoice, p_at, p_key);
    elsif s.pause_behavior = 'mark_uncollectible' then
        perform payments._set_invoice(invoice, 'uncollectible', p_at, p_key);
    elsif s.collection_method = 'charge_automatically' then
        select c.charge, c.failure into charge, failure
        from payments._collect(invoice, p_method, p_declined, p_at, p_key) c;
        perform payments._after_attempt(invoice, failure is null, p_at, p_key);
    end if;
end $$;

create function payments._subscription_answer(p_subscription text, p_invoice text, p_charge text, p_failure text)
returns text language sql stable as $$
    select json_build_object('subscription', s.id, 'status', s.status, 'invoice', coalesce(p_invoice, s.latest_invoice_id),
        'invoice_status', i.status, 'payment_intent', (select p.payment_intent_id from oltp.invoice_payments p
            where p.invoice_id = i.id order by p.created desc limit 1),
        'charge', p_charge, 'failure_code', p_failure, 'cancel_at_period_end', s.cancel_at_period_end)::text
    from oltp.subscriptions s left join oltp.invoices i on i.id = coalesce(p_invoice, s.latest_invoice_id)
    where s.id = p_subscription
$$;

create function payments._items_refusal(p_items jsonb, p_currency text) returns text language plpgsql stable as $$
begin
    return case
        when coalesce(jsonb_array_length(p_items), 0) not between 1 and 20
        then payments._invalid('parameter_missing', 'a subscription has one to twenty items: name their prices', 'items')
        when exists (select 1 from jsonb_array_elements(p_items) t left join oltp.prices p on p.id = t ->> 'price'
            left join oltp.products r on r.id = p.product_id where p.id is null or p.deleted or not p.active
            or not r.active or r.deleted)
        then payments._invalid('resource_missing', 'an item names no active price: check the ids', 'items')
        when exists (select 1 from jsonb_array_elements(p_items) t join oltp.prices p on p.id = t ->> 'price'
            where p.type <> 'recurring' or p.usage_type = 'metered')
        then payments._invalid('price_invalid', 'an item''s price is recurring and licensed: one-time prices are invoice'
            ' items, metered ones are not billed here', 'items')
        when (select count(distinct (p.currency, p.recurring_interval, p.recurring_interval_count))
            from jsonb_array_elements(p_items) t join oltp.prices p on p.id = t ->> 'price') > 1
            or exists (select 1 from jsonb_array_elements(p_items) t join oltp.prices p on p.id = t ->> 'price'
                where p.currency <> p_currency)
        then payments._invalid('price_invalid', 'items of one subscription share currency and interval: subscribe twice',
            'items')
        when (select count(distinct t ->> 'price') from jsonb_array_elements(p_items) t) <> jsonb_array_length(p_items)
        then payments._invalid('parameter_invalid', 'two items name the same price: give one of them the whole quantity',
            'items')
        when exists (select 1 from jsonb_array_elements(p_items) t where coalesce((t ->> 'quantity')::bigint, 1)
            not between 0 and 1000000000)
        then payments._invalid('parameter_invalid', 'a quantity lies between zero and a thousand million', 'items') end;
end $$;

-- A coupon is redeemed under a lock of its row: racing callers never exceed its redemptions.
create function payments._redeem(
    p_coupon text, p_customer text, p_subscription text, p_at timestamptz, p_key text
) returns text language plpgsql as $$
declare
    c oltp.coupons;
    discount text := 'di_' || ops.id_body(p_at);
begin
    update oltp.coupons v set times_redeemed = coalesce(v.times_redeemed, 0) + 1 where v.id = p_coupon returning * into c;
    insert into oltp.discounts (id, coupon_id, customer_id, subscription_id, start, ends)
    values (discount, p_coupon, p_customer, p_subscription, p_at, case when c.duration = 'repeating'
        then (p_at at time zone 'UTC' + make_interval(months => c.duration_in_months)) at time zone 'UTC' end);
    return discount;
end $$;

create function payments._coupon_refusal(p_coupon text, p_account text, p_currency text, p_at timestamptz) returns text
language plpgsql as $$
declare
    c oltp.coupons;
begin
    if p_coupon is null then
        return null;
    end if;
    select * into c from oltp.coupons v where v.id = p_coupon for no key update;
    return case
        when c.id is null or c.deleted or c.account_id <> p_account then payments._missing('coupon', p_coupon)
        when not coalesce(c.valid, true) or c.redeem_by < p_at or c.times_redeemed >= c.max_redemptions
        then payments._invalid('coupon_expired', format('coupon %s is used up or over: choose another', p_coupon), 'coupon')
        when c.currency <> p_currency then payments._invalid('currency_mismatch', format(
            'coupon %s is in another currency than what it reduces: choose another', p_coupon), 'coupon') end;
end $$;

create function payments.subscribe(
    p_account text, p_customer text, p_items jsonb, p_method text default null,
    p_collection_method text default 'charge_automatically', p_days_until_due integer default null,
    p_trial_end timestamptz default null, p_trial_days integer default null, p_coupon text default null,
    p_tax_rates text[] default '{}', p_dunning_policy text default 'default',
    p_trial_without_method text default 'create_invoice', p_cancel_at timestamptz default null,
    p_declined text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    subscription text := 'sub_' || ops.id_body(at);
    payer oltp.customers;
    first oltp.prices;
    trial timestamptz := coalesce(p_trial_end, at + make_interval(days => p_trial_days));
    done record;
begin
    select * into payer from oltp.customers c where c.id = p_customer for no key update;
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'subscribe') b;
    if replayed then
        return;
    end if;
    select p.* into first from oltp.prices p where p.id = p_items -> 0 ->> 'price';
    answer := coalesce(payments._merchant_refusal(p_account), case
        when payer.id is null or payer.deleted or payer.account_id <> p_account then payments._missing('customer', p_customer)
        end, payments._items_refusal(p_items, first.currency), case
        when exists (select 1 from jsonb_array_elements(p_items) t join oltp.prices p on p.id = t ->> 'price'
            join oltp.products r on r.id = p.product_id where r.account_id <> p_account)
        then payments._invalid('resource_missing', 'an item names another merchant''s price: check the ids', 'items')
        when p_collection_method not in ('charge_automatically', 'send_invoice')
            or (p_collection_method = 'send_invoice') <> (p_days_until_due is not null)
        then payments._invalid('parameter_invalid', 'collection is charge_automatically, or send_invoice with'
            ' days_until_due', 'collection_method')
        when p_method is not null and not exists (select 1 from oltp.payment_methods m where m.id = p_method
            and m.customer_id = p_customer and not m.detached)
        then payments._missing('payment method', p_method)
        when p_collection_method = 'charge_automatically' and trial is null
            and coalesce(p_method, payer.default_payment_method_id) is null
        then payments._invalid('resource_missing', format('customer %s has no payment method to charge: attach one',
            p_customer), 'default_payment_method')
        when trial <= at or trial > at + interval '730 days' then payments._invalid('parameter_invalid',
            'a trial ends later than it begins and within two years', 'trial_end')
        when p_cancel_at <= at then payments._invalid('parameter_invalid', 'cancel_at lies ahead: cancel at once instead',
            'cancel_at')
        when not exists (select 1 from oltp.dunning_policies d where d.id = p_dunning_policy)
        then payments._missing('dunning policy', p_dunning_policy)
        when p_trial_without_method not in ('cancel', 'create_invoice', 'pause')
        then payments._invalid('parameter_invalid', 'a trial without payment method ends in cancel, create_invoice or'
            ' pause', 'trial_settings')
        when exists (select 1 from unnest(p_tax_rates) t left join oltp.tax_rates r on r.id = t where r.active is not true)
        then payments._invalid('resource_missing', 'a tax rate is unknown or inactive: check the ids', 'default_tax_rates')
        end, payments._coupon_refusal(p_coupon, p_account, first.currency, at));
    if answer is null then
        insert into oltp.subscriptions (id, account_id, customer_id, default_payment_method_id, status, collection_method,
            currency, billing_cycle_anchor, start_date, trial_start, trial_end, cancel_at, days_until_due, created)
        values (subscription, p_account, p_customer, p_method, case when trial is not null then 'trialing'
            when p_collection_method = 'send_invoice' then 'active' else 'incomplete' end, p_collection_method,
            first.currency, coalesce(trial, at), at, case when trial is not null then at end, trial, p_cancel_at,
            p_days_until_due, at);
        insert into oltp.subscription_items (id, subscription_id, price_id, quantity, current_period_start, created)
        select 'si_' || ops.id_body(at), subscription, t ->> 'price', coalesce((t ->> 'quantity')::bigint, 1), at, at
        from jsonb_array_elements(p_items) t;
        insert into oltp.subscription_billing (subscription_id, recurring_interval, recurring_interval_count,
            dunning_policy_id, trial_without_method)
        values (subscription, first.recurring_interval, first.recurring_interval_count, p_dunning_policy,
            p_trial_without_method);
        insert into oltp.subscription_tax_rates (subscription_id, position, tax_rate_id)
        select subscription, t.n - 1, t.rate from unnest(p_tax_rates) with ordinality as t (rate, n);
        if p_coupon is not null then
            perform payments._redeem(p_coupon, p_customer, subscription, at, p_key);
        end if;
        perform payments._event('customer.subscription.created', p_account, 'subscription', subscription, p_key, at);
        select * into done from payments._bill_period(subscription, at, 'subscription_create', null, p_declined, at, p_key);
        if trial is null and p_collection_method = 'charge_automatically' and done.failure is null then
            perform payments._set_subscription(subscription, 'active', null, at, p_key);
        end if;
        perform payments._schedule(subscription);
        answer := payments._subscription_answer(subscription, done.invoice, done.charge, done.failure);
    end if;
    answer := payments._keep(p_account, p_key, subscription, answer);
end $$;

-- The part of a period's price that lies after an instant, half up.
create function payments._unused(p_amount bigint, p_currency text, p_from timestamptz, p_to timestamptz, p_at timestamptz)
returns bigint language sql stable as $$
    select case when p_at >= p_to then 0 when p_at <= p_from then p_amount
        else payments._rounded(p_amount * extract(epoch from p_to - p_at) / extract(epoch from p_to - p_from), p_currency) end
$$;

create function payments._pend(
    p_s oltp.subscriptions, p_price text, p_quantity bigint, p_amount bigint, p_from timestamptz, p_to timestamptz,
    p_at timestamptz
) returns void language sql as $$
    insert into oltp.invoice_items (id, customer_id, subscription_id, price_id, amount, currency, quantity, proration,
        period_start, period_end, created)
    select 'ii_' || ops.id_body(p_at), p_s.customer_id, p_s.id, p_price, p_amount, p_s.currency, p_quantity, true, p_from,
        p_to, p_at where p_amount <> 0
$$;

-- Gives back what is left of what an item was billed, as an item that waits for the next invoice.
create function payments._credit_item(p_s oltp.subscriptions, p_item oltp.subscription_items, p_at timestamptz) returns void
language sql as $$
    select payments._pend(p_s, p_item.price_id, p_item.quantity, -payments._unused(p_item.billed_amount, p_s.currency,
        p_item.billed_from, p_item.current_period_end, p_at), p_at, p_item.current_period_end, p_at)
$$;

-- Waiting items billed at once.
create function payments._bill_items(
    p_subscription text, p_declined text, p_at timestamptz, p_key text, out invoice text, out charge text, out failure text
) language plpgsql as $$
declare
    s oltp.subscriptions;
begin
    select * into s from oltp.subscriptions v where v.id = p_subscription;
    if not exists (select 1 from oltp.invoice_items i where i.subscription_id = s.id and i.invoice_id is null
        and not i.deleted and i.currency = s.currency) then
        return;
    end if;
    invoice := payments._new_invoice(s.account_id, s.customer_id, s.id, s.currency, 'subscription_update',
        s.collection_method, p_at, p_at, p_at, p_key);
    perform payments._take_items(invoice, s.customer_id, s.id, s.currency, p_at);
    perform payments._finalize(invoice, s.days_until_due, p_at, p_key);
    if s.collection_method = 'charge_automatically'
        and (select v.status from oltp.invoices v where v.id = _bill_items.invoice) = 'open' then
        select c.charge, c.failure into charge, failure from payments._collect(invoice, null, p_declined, p_at, p_key) c;
        perform payments._after_attempt(invoice, failure is null, p_at, p_key);
    end if;
end $$;

create function payments.cancel_subscription(
    p_subscription text, p_at_period_end boolean default false, p_prorate boolean default false,
    p_reason text default 'cancellation_requested', p_feedback text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    s oltp.subscriptions;
    ends timestamptz;
    done record;
begin
    s := payments._lock_subscription(p_subscription);
    select b.answer, b.replayed into answer, replayed
    from payments._begin(s.account_id, p_key, p_hash, 'cancel_subscription') b;
    if replayed then
        return;
    end if;
    answer := payments._foreign_refusal(s, p_subscription);
    if answer is null and not payments._may_move('subscription', s.status, 'canceled') then
        answer := payments._wrong_state('subscription', p_subscription, s.status, 'be canceled');
    end if;
    if answer is null then
        select min(t.current_period_end) into ends from oltp.subscription_items t
        where t.subscription_id = s.id and not t.deleted;
        update oltp.subscriptions v set cancellation_feedback = coalesce(p_feedback, v.cancellation_feedback)
        where v.id = s.id;
        if p_at_period_end then
            update oltp.subscriptions v set cancel_at_period_end = true, cancel_at = ends, canceled_at = at,
                cancellation_reason = p_reason where v.id = s.id;
            perform payments._event('customer.subscription.updated', s.account_id, 'subscription', s.id, p_key, at);
        else
            if s.status = 'incomplete' then
                perform payments._void(i.id, at, p_key) from oltp.invoices i
                where i.subscription_id = s.id and i.status = 'open';
            elsif p_prorate and s.status = 'active' then
                perform payments._credit_item(s, t, at) from oltp.subscription_items t
                where t.subscription_id = s.id and not t.deleted;
                select * into done from payments._bill_items(s.id, null, at, p_key);
            end if;
            perform payments._end_subscription(s.id, p_reason, at, p_key);
        end if;
        perform payments._schedule(s.id);
        answer := payments._subscription_answer(s.id, null, null, null);
    end if;
    answer := payments._keep(s.account_id, p_key, s.id, answer);
end $$;

-- Locks are taken in one order: billing row, subscription, invoice, payer.
create function payments._lock_subscription(p_subscription text) returns oltp.subscriptions language plpgsql as $$
declare
    s oltp.subscriptions;
begin
    perform 1 from oltp.subscription_billing b where b.subscription_id = p_subscription for no key update;
    select * into s from oltp.subscriptions v where v.id = p_subscription for no key update;
    return s;
end $$;

create function payments._foreign_refusal(p_s oltp.subscriptions, p_subscription text) returns text
language sql stable as $$
    select case when p_s.id is null then payments._missing('subscription', p_subscription)
        when not exists (select 1 from oltp.subscription_billing b where b.subscription_id = p_s.id)
        then payments._invalid('resource_imported', format('subscription %s is billed by Stripe: change it there',
            p_subscription), 'subscription') end
$$;

create function payments.give_discount(
    p_coupon text, p_customer text, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    owner text;
    payer oltp.customers;
    discount text;
begin
    select c.account_id into owner from oltp.coupons c where c.id = p_coupon;
    select * into payer from oltp.customers c where c.id = p_customer;
    select b.answer, b.replayed into answer, replayed from payments._begin(owner, p_key, p_hash, 'give_discount') b;
    if replayed then
        return;
    end if;
    answer := coalesce(case when payer.id is null or payer.deleted or payer.account_id <> owner
        then payments._missing('customer', p_customer) end, payments._coupon_refusal(p_coupon, owner, payer.currency, at));
    if answer is null then
        update oltp.discounts d set deleted = true where d.customer_id = p_customer and d.subscription_id is null
        and d.invoice_id is null and not d.deleted;
        discount := payments._redeem(p_coupon, p_customer, null, at, p_key);
        perform payments._event('customer.discount.created', owner, 'discount', discount, p_key, at);
        answer := payments._object_answer('discount', discount);
    end if;
    answer := payments._keep(owner, p_key, discount, answer);
end $$;

-- A change of items: a list of {id, price, quantity, deleted}; without id an item is new. What is left of the old goes back
-- and what is left of the period under the new is charged, both half up on the same span: a change and its undoing are zero.
create function payments.update_subscription(
    p_subscription text, p_items jsonb default '[]', p_proration text default 'create_prorations',
    p_anchor_now boolean default false, p_method text default null, p_keep boolean default null,
    p_declined text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    s oltp.subscriptions;
    after jsonb;
    first oltp.prices;
    b oltp.subscription_billing;
    rhythm boolean;
    change record;
    done record;
    item oltp.subscription_items;
begin
    s := payments._lock_subscription(p_subscription);
    select b_.answer, b_.replayed into answer, replayed
    from payments._begin(s.account_id, p_key, p_hash, 'update_subscription') b_;
    if replayed then
        return;
    end if;
    select * into b from oltp.subscription_billing v where v.subscription_id = s.id;
    select coalesce(jsonb_agg(x.item), '[]') into after from (
        select jsonb_build_object('price', coalesce(c.change ->> 'price', t.price_id),
            'quantity', coalesce((c.change ->> 'quantity')::bigint, t.quantity, 1)) as item
        from (select * from oltp.subscription_items v where v.subscription_id = s.id and not v.deleted) t
        full join (select e.change from jsonb_array_elements(p_items) as e (change)) c on c.change ->> 'id' = t.id
        where not coalesce((c.change ->> 'deleted')::boolean, false)
    ) x;
    select p.* into first from oltp.prices p where p.id = after -> 0 ->> 'price';
    answer := coalesce(payments._foreign_refusal(s, p_subscription), case
        when s.status not in ('active', 'trialing') and (jsonb_array_length(p_items) > 0 or p_anchor_now)
        then payments._wrong_state('subscription', p_subscription, s.status, 'change its items')
        when s.status in ('canceled', 'incomplete_expired')
        then payments._wrong_state('subscription', p_subscription, s.status, 'be changed')
        when exists (select 1 from jsonb_array_elements(p_items) e where e ->> 'id' is not null and not exists (
            select 1 from oltp.subscription_items t where t.id = e ->> 'id' and t.subscription_id = s.id and not t.deleted))
            or (select count(*) <> count(distinct e ->> 'id') from jsonb_array_elements(p_items) e where e ->> 'id' is not null)
        then payments._invalid('resource_missing', 'a change names an item that the subscription has not, or names it'
            ' twice: check the ids', 'items')
        when p_proration not in ('always_invoice', 'create_prorations', 'none')
        then payments._invalid('parameter_invalid', 'proration is always_invoice, create_prorations or none',
            'proration_behavior')
        when p_method is not null and not exists (select 1 from oltp.payment_methods m where m.id = p_method
            and m.customer_id = s.customer_id and not m.detached)
        then payments._missing('payment method', p_method)
        when exists (select 1 from oltp.subscription_items t where t.subscription_id = s.id
            and (at < t.current_period_start or at >= t.current_period_end) and not t.deleted)
            and (jsonb_array_length(p_items) > 0 or p_anchor_now) and s.status = 'active'
        then payments._invalid('subscription_behind', format('subscription %s has a period to bill first: run the billing',
            p_subscription), 'subscription') end,
        case when jsonb_array_length(p_items) > 0 then payments._items_refusal(after, s.currency) end);
    if answer is null then
        update oltp.subscriptions v set default_payment_method_id = coalesce(p_method, v.default_payment_method_id),
            cancel_at_period_end = v.cancel_at_period_end and not coalesce(p_keep, false),
            cancel_at = case when not coalesce(p_keep, false) then v.cancel_at end,
            canceled_at = case when not coalesce(p_keep, false) then v.canceled_at end,
            cancellation_reason = case when not coalesce(p_keep, false) then v.cancellation_reason end
        where v.id = s.id;
        rhythm := s.status = 'active' and jsonb_array_length(p_items) > 0 and (b.recurring_interval, b.recurring_interval_count)
            <> (first.recurring_interval, first.recurring_interval_count) or s.status = 'active' and p_anchor_now;
        if jsonb_array_length(p_items) > 0 then
            update oltp.subscription_billing v set recurring_interval = first.recurring_interval,
                recurring_interval_count = first.recurring_interval_count where v.subscription_id = s.id;
        end if;
        if rhythm then
            perform payments._credit_item(s, t, at) from oltp.subscription_items t
            where t.subscription_id = s.id and not t.deleted and p_proration <> 'none';
        end if;
        for change in
            select e.change ->> 'id' as id, e.change ->> 'price' as price, (e.change ->> 'quantity')::bigint as quantity,
                coalesce((e.change ->> 'deleted')::boolean, false) as deleted
            from jsonb_array_elements(p_items) with ordinality as e (change, n) order by e.n
        loop
            if change.id is null then
                item := null;
                item.id := 'si_' || ops.id_body(at);
                insert into oltp.subscription_items (id, subscription_id, price_id, quantity, current_period_start,
                    current_period_end, billed_amount, billed_from, created)
                select item.id, s.id, change.price, coalesce(change.quantity, 1), at, min(t.current_period_end), 0, at, at
                from oltp.subscription_items t where t.subscription_id = s.id and not t.deleted;
                select * into item from oltp.subscription_items t where t.id = item.id;
            else
                select * into item from oltp.subscription_items t where t.id = change.id;
                if s.status = 'active' and p_proration <> 'none' and not rhythm then
                    perform payments._credit_item(s, item, at);
                end if;
                update oltp.subscription_items t set price_id = coalesce(change.price, t.price_id),
                    quantity = coalesce(change.quantity, t.quantity), deleted = change.deleted
                where t.id = change.id returning * into item;
            end if;
            if s.status = 'active' and p_proration <> 'none' and not rhythm then
                update oltp.subscription_items t set billed_from = at, billed_amount = case when item.deleted then 0
                    else payments._charge_item(s, item, at) end
                where t.id = item.id;
            end if;
        end loop;
        perform payments._event('customer.subscription.updated', s.account_id, 'subscription', s.id, p_key, at);
        if rhythm then
            update oltp.subscriptions v set billing_cycle_anchor = at where v.id = s.id;
            select * into done from payments._bill_period(s.id, at, 'subscription_update', null, p_declined, at, p_key);
        elsif s.status = 'active' and p_proration = 'always_invoice' then
            select * into done from payments._bill_items(s.id, p_declined, at, p_key);
        else
            select null::text as invoice, null::text as charge, null::text as failure into done;
        end if;
        perform payments._schedule(s.id);
        answer := payments._subscription_answer(s.id, done.invoice, done.charge, done.failure);
    end if;
    answer := payments._keep(s.account_id, p_key, s.id, answer);
end $$;

-- Charges what is left of the period at an item's new price, as a waiting item; how much.
create function payments._charge_item(p_s oltp.subscriptions, p_item oltp.subscription_items, p_at timestamptz)
returns bigint language plpgsql as $$
declare
    starts timestamptz;
    charged bigint;
begin
    select max(c.period_start) into starts from oltp.subscription_cycles c
    where c.subscription_id = p_s.id and c.period_start <= p_at;
    charged := payments._unused(payments._reduced(payments._price_amount(p_item.price_id, p_item.quantity), p_s.currency,
        p_s.id, p_s.customer_id, p_at), p_s.currency, starts, p_item.current_period_end, p_at);
    perform payments._pend(p_s, p_item.price_id, p_item.quantity, charged, p_at, p_item.current_period_end, p_at);
    return charged;
end $$;

-- Collection rests, the periods go on: their invoices are kept as drafts, voided or given up.
create function payments.pause_subscription(
    p_subscription text, p_behavior text default 'keep_as_draft', p_resumes_at timestamptz default null,
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    s oltp.subscriptions;
begin
    s := payments._lock_subscription(p_subscription);
    select b.answer, b.replayed into answer, replayed
    from payments._begin(s.account_id, p_key, p_hash, 'pause_subscription') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._foreign_refusal(s, p_subscription), case
        when s.status not in ('active', 'trialing', 'past_due')
        then payments._wrong_state('subscription', p_subscription, s.status, 'be paused')
        when p_behavior not in ('keep_as_draft', 'mark_uncollectible', 'void') or p_resumes_at <= at
        then payments._invalid('parameter_invalid', 'a pause is keep_as_draft, mark_uncollectible or void, and ends later'
            ' than it begins', 'pause_collection') end);
    if answer is null then
        update oltp.subscriptions v set pause_behavior = p_behavior, resumes_at = p_resumes_at where v.id = s.id;
        perform payments._event('customer.subscription.updated', s.account_id, 'subscription', s.id, p_key, at);
        perform payments._schedule(s.id);
        answer := payments._subscription_answer(s.id, null, null, null);
    end if;
    answer := payments._keep(s.account_id, p_key, s.id, answer);
end $$;

-- A paused collection goes on with the next invoice; a paused subscription begins a new period now.
create function payments.resume_subscription(
    p_subscription text, p_method text default null, p_declined text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    s oltp.subscriptions;
    done record;
begin
    s := payments._lock_subscription(p_subscription);
    select b.answer, b.replayed into answer, replayed
    from payments._begin(s.account_id, p_key, p_hash, 'resume_subscription') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._foreign_refusal(s, p_subscription), case
        when s.status <> 'paused' and (s.pause_behavior is null or s.status in ('canceled', 'incomplete_expired'))
        then payments._wrong_state('subscription', p_subscription, s.status, 'be resumed')
        when p_method is not null and not exists (select 1 from oltp.payment_methods m where m.id = p_method
            and m.customer_id = s.customer_id and not m.detached)
        then payments._missing('payment method', p_method) end);
    if answer is null then
        update oltp.subscriptions v set pause_behavior = null, resumes_at = null,
            default_payment_method_id = coalesce(p_method, v.default_payment_method_id),
            billing_cycle_anchor = case when s.status = 'paused' then at else v.billing_cycle_anchor end
        where v.id = s.id;
        if s.status = 'paused' then
            perform payments._set_subscription(s.id, 'active', null, at, p_key);
            perform payments._event('customer.subscription.resumed', s.account_id, 'subscription', s.id, p_key, at);
            select * into done from payments._bill_period(s.id, at, 'subscription_cycle', null, p_declined, at, p_key);
        else
            perform payments._event('customer.subscription.updated', s.account_id, 'subscription', s.id, p_key, at);
            select null::text as invoice, null::text as charge, null::text as failure into done;
        end if;
        perform payments._schedule(s.id);
        answer := payments._subscription_answer(s.id, done.invoice, done.charge, done.failure);
    end if;
    answer := payments._keep(s.account_id, p_key, s.id, answer);
end $$;

-- The next subscription with something due, locked for this transaction; others' locked ones are passed over.
create function payments.next_billing(
    p_until timestamptz, p_skip text[] default '{}', out subscription_id text, out due_at timestamptz, out step text,
    out invoice_id text, out customer_id text, out payment_method_id text, out attempt integer
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    select b.subscription_id into subscription_id from oltp.subscription_billing b
    where b.due_at <= p_until and b.subscription_id <> all (p_skip)
    order by b.due_at, b.subscription_id limit 1 for no key update skip locked;
    if not found then
        return;
    end if;
    select n.due_at, n.step, n.invoice, s.customer_id, coalesce(s.default_payment_method_id, c.default_payment_method_id),
        coalesce(i.attempt_count, 0) + 1
    into due_at, step, invoice_id, customer_id, payment_method_id, attempt
    from oltp.subscriptions s
    cross join lateral payments._next_step(s.id) n
    left join oltp.customers c on c.id = s.customer_id
    left join oltp.invoices i on i.id = n.invoice and n.step = 'retry'
    where s.id = next_billing.subscription_id;
end $$;

-- One step of one subscription, dated when it was due. Nothing due by then is an answer too: asked twice, it acts once.
create function payments.bill_subscription(
    p_subscription text, p_until timestamptz, p_declined text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    s oltp.subscriptions;
    b oltp.subscription_billing;
    due record;
    done record;
    at timestamptz;
begin
    s := payments._lock_subscription(p_subscription);
    select v.answer, v.replayed into answer, replayed
    from payments._begin(s.account_id, p_key, p_hash, 'bill_subscription') v;
    if replayed then
        return;
    end if;
    answer := payments._foreign_refusal(s, p_subscription);
    select null::text as invoice, null::text as charge, null::text as failure into done;
    if answer is null then
        select * into b from oltp.subscription_billing v where v.subscription_id = s.id;
        select * into due from payments._next_step(s.id);
        at := due.due_at;
        if at <= p_until then
            if due.step = 'expire' then
                perform payments._set_subscription(s.id, 'incomplete_expired', null, at, p_key);
                perform payments._void(i.id, at, p_key) from oltp.invoices i
                where i.subscription_id = s.id and i.status = 'open';
            elsif due.step = 'resume' then
                update oltp.subscriptions v set pause_behavior = null, resumes_at = null where v.id = s.id;
                perform payments._event('customer.subscription.updated', s.account_id, 'subscription', s.id, p_key, at);
            elsif due.step = 'cancel' then
                perform payments._end_subscription(s.id, s.cancellation_reason, at, p_key);
            elsif due.step = 'retry' then
                select due.invoice as invoice, c.charge, c.failure into done
                from payments._collect(due.invoice, null, p_declined, at, p_key) c;
                perform payments._after_attempt(due.invoice, done.failure is null, at, p_key);
            elsif due.step = 'overdue' then
                perform payments._set_subscription(s.id, 'past_due', null, at, p_key);
                perform payments._event('invoice.overdue', s.account_id, 'invoice', due.invoice, p_key, at);
            elsif s.status = 'trialing' and b.trial_without_method <> 'create_invoice'
                and s.collection_method = 'charge_automatically' and not exists (select 1 from oltp.customers c
                    where c.id = s.customer_id and coalesce(s.default_payment_method_id, c.default_payment_method_id)
                    is not null) then
                if b.trial_without_method = 'pause' then
                    perform payments._set_subscription(s.id, 'paused', null, at, p_key);
                else
                    perform payments._end_subscription(s.id, 'cancellation_requested', at, p_key);
                end if;
            else
                if s.status = 'trialing' then
                    perform payments._set_subscription(s.id, 'active', null, at, p_key);
                end if;
                select * into done
                from payments._bill_period(s.id, at, 'subscription_cycle', null, p_declined, at, p_key);
            end if;
            perform payments._schedule(s.id);
        else
            due.step := null;
        end if;
        answer := (payments._subscription_answer(s.id, done.invoice, done.charge, done.failure)::jsonb
            || jsonb_build_object('step', due.step))::text;
    end if;
    answer := payments._keep(s.account_id, p_key, s.id, answer);
end $$;

-- Invoices by hand.
create function payments._invoice_answer(p_invoice text, p_charge text, p_failure text) returns text language sql stable as $$
    select json_build_object('invoice', i.id, 'status', i.status, 'number', i.number, 'subscription', i.subscription_id,
        'payment_intent', (select p.payment_intent_id from oltp.invoice_payments p where p.invoice_id = i.id
            order by p.created desc limit 1), 'charge', p_charge, 'failure_code', p_failure)::text
    from oltp.invoices i where i.id = p_invoice
$$;

create function payments.add_invoice_item(
    p_customer text, p_account text, p_amount bigint default null, p_currency text default null,
    p_price text default null, p_quantity bigint default 1, p_subscription text default null,
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    item text := 'ii_' || ops.id_body(at);
    payer oltp.customers;
    price oltp.prices;
begin
    select * into payer from oltp.customers c where c.id = p_customer;
    select * into price from oltp.prices p where p.id = p_price;
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'add_invoice_item') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when payer.id is null or payer.deleted or payer.account_id <> p_account then payments._missing('customer', p_customer)
        when (p_price is null) = (p_amount is null) or (p_amount is null) <> (p_currency is null)
        then payments._invalid('parameter_invalid', 'an invoice item has a price, or an amount with its currency', 'price')
        when p_price is not null and (price.id is null or not price.active or price.deleted or price.type = 'recurring')
        then payments._invalid('price_invalid', 'an invoice item''s price is active and one-time: check the id', 'price')
        when p_quantity not between 0 and 1000000000 then payments._invalid('parameter_invalid',
            'a quantity lies between zero and a thousand million', 'quantity')
        when coalesce(p_amount % payments._unit(p_currency) <> 0, p_amount is not null) then payments._invalid('amount_invalid',
            'the amount is not one of its currency: check both', 'amount')
        when p_subscription is not null and not exists (select 1 from oltp.subscriptions s where s.id = p_subscription
            and s.customer_id = p_customer and s.account_id = p_account) then payments._missing('subscription', p_subscription)
        end);
    if answer is null then
        insert into oltp.invoice_items (id, customer_id, subscription_id, price_id, amount, currency, quantity, proration,
            period_start, period_end, created)
        values (item, p_customer, p_subscription, p_price,
            coalesce(p_amount, payments._price_amount(p_price, p_quantity)), coalesce(p_currency, price.currency),
            p_quantity, false, at, at, at);
        perform payments._event('invoiceitem.created', p_account, 'invoiceitem', item, p_key, at);
        answer := payments._object_answer('invoice_item', item);
    end if;
    answer := payments._keep(p_account, p_key, item, answer);
end $$;

create function payments.create_invoice(
    p_account text, p_customer text, p_currency text, p_collection_method text default 'charge_automatically',
    p_tax_rates text[] default '{}', p_subscription text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    invoice text;
    payer oltp.customers;
begin
    perform payments._lock_subscription(p_subscription);
    select * into payer from oltp.customers c where c.id = p_customer for no key update;
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_invoice') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._merchant_refusal(p_account), case
        when payer.id is null or payer.deleted or payer.account_id <> p_account then payments._missing('customer', p_customer)
        when p_subscription is not null and not exists (select 1 from oltp.subscriptions s where s.id = p_subscription
            and s.customer_id = p_customer and s.account_id = p_account) then payments._missing('subscription', p_subscription)
        when not exists (select 1 from oltp.currencies c where c.code = p_currency)
        then payments._invalid('currency_invalid', 'the currency is not known: use an ISO code in lower case', 'currency')
        when p_collection_method not in ('charge_automatically', 'send_invoice')
        then payments._invalid('parameter_invalid', 'collection is charge_automatically or send_invoice', 'collection_method')
        when exists (select 1 from unnest(p_tax_rates) t left join oltp.tax_rates r on r.id = t where r.active is not true)
        then payments._invalid('resource_missing', 'a tax rate is unknown or inactive: check the ids', 'default_tax_rates')
        end);
    if answer is null then
        invoice := payments._new_invoice(p_account, p_customer, p_subscription, p_currency, 'manual', p_collection_method,
            at, at, at, p_key);
        insert into oltp.invoice_taxes (invoice_id, position, tax_rate_id, amount, inclusive, taxable_amount)
        select invoice, 100 + t.n - 1, t.rate, 0, r.inclusive, 0 from unnest(p_tax_rates) with ordinality as t (rate, n)
        join oltp.tax_rates r on r.id = t.rate;
        perform payments._take_items(invoice, p_customer, p_subscription, p_currency, at);
        perform payments._total(invoice, at);
        answer := payments._invoice_answer(invoice, null, null);
    end if;
    answer := payments._keep(p_account, p_key, invoice, answer);
end $$;

-- The invoice locked after its subscription; null where it is missing or Stripe's own.
create function payments._lock_invoice(p_invoice text) returns oltp.invoices language plpgsql as $$
declare
    i oltp.invoices;
begin
    perform payments._lock_subscription(v.subscription_id) from oltp.invoices v
    where v.id = p_invoice and v.subscription_id is not null;
    select * into i from oltp.invoices v where v.id = p_invoice and not v.deleted for no key update;
    return i;
end $$;

create function payments._invoice_refusal(p_i oltp.invoices, p_invoice text, p_from text[], p_wish text) returns text
language sql stable as $$
    select case when p_i.id is null then payments._missing('invoice', p_invoice)
        when exists (select 1 from ingest.versions v where v.kind = 'invoice' and v.object_id = p_i.id)
        then payments._invalid('resource_imported', format('invoice %s is Stripe''s: change it there', p_invoice), 'invoice')
        when p_i.status <> all (p_from) then payments._wrong_state('invoice', p_invoice, p_i.status, p_wish) end
$$;

create function payments.finalize_invoice(
    p_invoice text, p_days_until_due integer default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    i oltp.invoices := payments._lock_invoice(p_invoice);
begin
    select b.answer, b.replayed into answer, replayed
    from payments._begin(i.account_id, p_key, p_hash, 'finalize_invoice') b;
    if replayed then
        return;
    end if;
    answer := payments._invoice_refusal(i, p_invoice, array['draft'], 'be finalised');
    if answer is null then
        perform payments._finalize(i.id, p_days_until_due, at, p_key);
        perform payments._schedule(i.subscription_id);
        answer := payments._invoice_answer(i.id, null, null);
    end if;
    answer := payments._keep(i.account_id, p_key, i.id, answer);
end $$;

-- Collect an open invoice now, or note that it was paid elsewhere. A draft is finalised first.
create function payments.pay_invoice(
    p_invoice text, p_method text default null, p_declined text default null, p_out_of_band boolean default false,
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    i oltp.invoices := payments._lock_invoice(p_invoice);
    done record;
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(i.account_id, p_key, p_hash, 'pay_invoice') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._invoice_refusal(i, p_invoice, array['draft', 'open', 'uncollectible'], 'be paid'), case
        when p_method is not null and not exists (select 1 from oltp.payment_methods m where m.id = p_method
            and m.customer_id = i.customer_id and not m.detached) then payments._missing('payment method', p_method) end);
    if answer is null then
        select null::text as charge, null::text as failure into done;
        if i.status = 'draft' then
            perform payments._finalize(i.id, null, at, p_key);
            select * into i from oltp.invoices v where v.id = i.id;
        end if;
        if i.status <> 'paid' and p_out_of_band then
            perform payments._drop_payment(p.id, at, p_key) from oltp.invoice_payments p
            where p.invoice_id = i.id and p.status = 'open';
            insert into oltp.invoice_payments (id, invoice_id, type, amount_requested, amount_paid, currency, is_default,
                status, paid_at, created)
            values ('inpay_' || ops.id_body(at), i.id, 'out_of_band', i.amount_remaining, i.amount_remaining, i.currency,
                true, 'paid', at, at);
            update oltp.invoices v set amount_paid = v.amount_paid + v.amount_remaining, amount_remaining = 0 where v.id = i.id;
            perform payments._set_invoice(i.id, 'paid', at, p_key);
        elsif i.status <> 'paid' then
            select * into done from payments._collect(i.id, p_method, p_declined, at, p_key);
        end if;
        if done.failure is null or i.attempt_count = 0 then -- a failure by hand leaves the schedule of retries alone
            perform payments._after_attempt(i.id, done.failure is null, at, p_key);
        end if;
        perform payments._schedule(i.subscription_id);
        answer := payments._invoice_answer(i.id, done.charge, done.failure);
    end if;
    answer := payments._keep(i.account_id, p_key, i.id, answer);
end $$;

create function payments.void_invoice(
    p_invoice text, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    i oltp.invoices := payments._lock_invoice(p_invoice);
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(i.account_id, p_key, p_hash, 'void_invoice') b;
    if replayed then
        return;
    end if;
    answer := payments._invoice_refusal(i, p_invoice, array['open', 'uncollectible'], 'be voided');
    if answer is null then
        perform payments._void(i.id, at, p_key);
        perform payments._after_attempt(i.id, true, at, p_key);
        perform payments._schedule(i.subscription_id);
        answer := payments._invoice_answer(i.id, null, null);
    end if;
    answer := payments._keep(i.account_id, p_key, i.id, answer);
end $$;

create function payments.mark_uncollectible(
    p_invoice text, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    i oltp.invoices := payments._lock_invoice(p_invoice);
begin
    select b.answer, b.replayed into answer, replayed
    from payments._begin(i.account_id, p_key, p_hash, 'mark_uncollectible') b;
    if replayed then
        return;
    end if;
    answer := payments._invoice_refusal(i, p_invoice, array['open'], 'be given up');
    if answer is null then
        perform payments._drop_payment(p.id, at, p_key) from oltp.invoice_payments p
        where p.invoice_id = i.id and p.status = 'open';
        perform payments._set_invoice(i.id, 'uncollectible', at, p_key);
        perform payments._after_attempt(i.id, true, at, p_key);
        perform payments._schedule(i.subscription_id);
        answer := payments._invoice_answer(i.id, null, null);
    end if;
    answer := payments._keep(i.account_id, p_key, i.id, answer);
end $$;

-- A draft goes, and what waited waits again.
create function payments.delete_invoice(
    p_invoice text, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    i oltp.invoices := payments._lock_invoice(p_invoice);
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(i.account_id, p_key, p_hash, 'delete_invoice') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._invoice_refusal(i, p_invoice, array['draft'], 'be deleted'), case
        when exists (select 1 from oltp.subscription_cycles c where c.invoice_id = i.id)
        then payments._invalid('invoice_bills_a_period', format('invoice %s bills a period: void it instead', p_invoice),
            'invoice') end);
    if answer is null then
        update oltp.invoice_items t set invoice_id = null where t.invoice_id = i.id;
        update oltp.invoices v set deleted = true, auto_advance = false where v.id = i.id;
        update oltp.subscriptions s set latest_invoice_id = (select v.id from oltp.invoices v
            where v.subscription_id = s.id and not v.deleted order by v.created desc, v.id desc limit 1)
        where s.latest_invoice_id = i.id;
        answer := payments._object_answer('invoice', i.id);
    end if;
    answer := payments._keep(i.account_id, p_key, i.id, answer);
end $$;

-- A payer's balance by hand: below zero is credit for invoices to come.
create function payments.adjust_customer_balance(
    p_customer text, p_account text, p_amount bigint, p_currency text, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    payer oltp.customers;
    movement text;
begin
    select * into payer from oltp.customers c where c.id = p_customer for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(p_account, p_key, p_hash, 'adjust_customer_balance') b;
    if replayed then
        return;
    end if;
    answer := case
        when payer.id is null or payer.deleted or payer.account_id <> p_account then payments._missing('customer', p_customer)
        when payer.currency <> p_currency then payments._invalid('currency_mismatch', format(
            'the balance of %s is in %s: use that currency', p_customer, payer.currency), 'currency')
        when p_amount = 0 or coalesce(p_amount % payments._unit(p_currency) <> 0, true)
        then payments._invalid('amount_invalid', 'the amount is zero or not one of its currency: check both', 'amount') end;
    if answer is null then
        movement := payments._move_payer(p_customer, p_currency, p_amount, 'adjustment', null, null, at, p_key);
        answer := payments._object_answer('customer_balance_transaction', movement);
    end if;
    answer := payments._keep(p_account, p_key, movement, answer);
end $$;

-- Credit notes. On an open invoice they lower what is due; on a paid one the money goes back to the card, to the payer's
-- balance, or has gone elsewhere, and these parts add up to the note.
create function payments._credit_note_refusal(
    p_i oltp.invoices, p_invoice text, p_amount bigint, p_lines jsonb, p_refund bigint, p_credit bigint, p_outside bigint,
    p_reason text
) returns text language plpgsql stable as $$
begin
    return coalesce(payments._invoice_refusal(p_i, p_invoice, array['open', 'paid'], 'be credited'), case
        when p_amount is null or p_amount <= 0 or p_amount % payments._unit(p_i.currency) <> 0
            or least(p_refund, p_credit, p_outside) < 0
        then payments._invalid('amount_invalid', 'a credit note has an amount above zero, and no part below', 'amount')
        when p_reason not in ('duplicate', 'fraudulent', 'order_change', 'product_unsatisfactory')
        then payments._invalid('parameter_invalid', 'a reason is duplicate, fraudulent, order_change or'
            ' product_unsatisfactory', 'reason')
        when exists (select 1 from jsonb_array_elements(p_lines) e
            left join oltp.invoice_lines l on l.id = e ->> 'line' and l.invoice_id = p_i.id
            where l.id is null or coalesce((e ->> 'amount')::bigint, 0) <= 0
            or (e ->> 'amount')::bigint + coalesce((select sum(n.amount) from oltp.credit_note_lines n
                join oltp.credit_notes c on c.id = n.credit_note_id and c.status = 'issued'
                where n.invoice_line_id = l.id), 0) > payments._gross_of(l.id))
        then payments._invalid('amount_too_large', format('a line is not of invoice %s, or is credited beyond what it'
            ' billed: credit less', p_invoice), 'lines')
        when p_amount + p_i.pre_payment_credit_notes_amount + p_i.post_payment_credit_notes_amount > p_i.total
            or (p_i.status = 'open' and p_amount > p_i.amount_remaining)
        then payments._invalid('amount_too_large', format('a credit note on invoice %s exceeds what is left to credit:'
            ' credit less', p_invoice), 'amount')
        when p_i.status = 'open' and p_refund + p_credit + p_outside > 0
        then payments._invalid('parameter_invalid', format('invoice %s is not paid: a credit note lowers what is due, and'
            ' gives nothing back', p_invoice), 'refund_amount')
        when p_i.status = 'paid' and p_refund + p_credit + p_outside <> p_amount
        then payments._invalid('parameter_invalid', 'refund, credit and out-of-band parts add up to the credit note''s'
            ' amount: name them', 'refund_amount')
        when p_refund > coalesce((select c.amount_captured - c.amount_refunded from oltp.invoice_payments p
            join oltp.charges c on c.id = p.charge_id where p.invoice_id = p_i.id and p.status = 'paid' limit 1), 0)
        then payments._invalid('amount_too_large', format('the charge of invoice %s has less left to refund: credit the'
            ' balance instead', p_invoice), 'refund_amount') end);
end $$;

-- A line with its part of the taxes that were added: parts of an invoice's lines add up to its total.
create function payments._gross_of(p_line text) returns bigint language sql stable as $$
    select case when s.net = 0 then 0 else payments._rounded(i.total::numeric * s.upto / s.net, i.currency)
        - payments._rounded(i.total::numeric * (s.upto - s.own) / s.net, i.currency) end
    from (
        select l.invoice_id, l.id, payments._left_of(l.id, l.amount) as own,
            sum(payments._left_of(l.id, l.amount)) over (order by l.id) as upto,
            sum(payments._left_of(l.id, l.amount)) over () as net
        from oltp.invoice_lines l
        where l.invoice_id = (select o.invoice_id from oltp.invoice_lines o where o.id = p_line)
    ) s join oltp.invoices i on i.id = s.invoice_id where s.id = p_line
$$;

create function payments.create_credit_note(
    p_invoice text, p_amount bigint default null, p_lines jsonb default '[]', p_refund_amount bigint default 0,
    p_credit_amount bigint default 0, p_out_of_band_amount bigint default 0, p_reason text default null,
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    note text := 'cn_' || ops.id_body(at);
    i oltp.invoices := payments._lock_invoice(p_invoice);
    given bigint;
    taxes bigint;
    before bigint;
    paid_with text;
    refund json;
begin
    select b.answer, b.replayed into answer, replayed
    from payments._begin(i.account_id, p_key, p_hash, 'create_credit_note') b;
    if replayed then
        return;
    end if;
    select case when jsonb_array_length(p_lines) > 0 then sum((e ->> 'amount')::bigint) else p_amount end into given
    from jsonb_array_elements(p_lines) e;
    answer := payments._credit_note_refusal(i, p_invoice, given, p_lines, p_refund_amount, p_credit_amount,
        p_out_of_band_amount, p_reason);
    if answer is null then
        select coalesce(sum(t.amount) filter (where not t.inclusive), 0) into taxes from oltp.invoice_taxes t
        where t.invoice_id = i.id;
        before := i.pre_payment_credit_notes_amount + i.post_payment_credit_notes_amount;
        if p_refund_amount > 0 then
            select p.charge_id into paid_with from oltp.invoice_payments p
            where p.invoice_id = i.id and p.status = 'paid' and p.charge_id is not null limit 1;
            select r.answer::json into refund from payments.refund_charge(paid_with, p_refund_amount, i.currency,
                p_created => at) r;
            if refund ->> 'error' is not null then
                raise exception '%', refund -> 'error' ->> 'message'
                using errcode = 'P0001', constraint = refund -> 'error' ->> 'code', table = 'credit_notes';
            end if;
        end if;
        insert into oltp.credit_notes (id, invoice_id, customer_id, refund_id, number, type, reason, status, amount,
            subtotal, total, discount_amount, out_of_band_amount, currency, created)
        select note, i.id, i.customer_id, refund ->> 'refund', i.number || '-CN-' || lpad((count(*) + 1)::text, 2, '0'),
            case i.status when 'open' then 'pre_payment' else 'post_payment' end, p_reason, 'issued', given,
            given - payments._rounded(taxes::numeric * (before + given) / i.total, i.currency)
                + payments._rounded(taxes::numeric * before / i.total, i.currency),
            given, 0, p_out_of_band_amount, i.currency, at
        from oltp.credit_notes n where n.invoice_id = i.id;
        insert into oltp.credit_note_lines (id, credit_note_id, invoice_line_id, type, amount)
        select 'cnli_' || ops.id_body(at), note, e ->> 'line', 'invoice_line_item', (e ->> 'amount')::bigint
        from jsonb_array_elements(p_lines) e
        union all
        select 'cnli_' || ops.id_body(at), note, null, 'custom_line_item', given where jsonb_array_length(p_lines) = 0;
        perform payments._event('credit_note.created', i.account_id, 'credit_note', note, p_key, at);
        if i.status = 'open' then
            update oltp.invoices v set amount_due = v.amount_due - given, amount_remaining = v.amount_remaining - given,
                pre_payment_credit_notes_amount = v.pre_payment_credit_notes_amount + given where v.id = i.id;
            perform payments._drop_payment(p.id, at, p_key) from oltp.invoice_payments p
            where p.invoice_id = i.id and p.status = 'open';
            if i.amount_remaining = given then
                perform payments._set_invoice(i.id, 'paid', at, p_key);
                perform payments._after_attempt(i.id, true, at, p_key);
                perform payments._schedule(i.subscription_id);
            end if;
        else
            update oltp.invoices v set post_payment_credit_notes_amount = v.post_payment_credit_notes_amount + given
            where v.id = i.id;
            perform payments._move_payer(i.customer_id, i.currency, -p_credit_amount, 'credit_note', i.id, note, at, p_key);
        end if;
        answer := json_build_object('credit_note', note, 'status', 'issued', 'type', case i.status when 'open'
            then 'pre_payment' else 'post_payment' end, 'invoice', i.id, 'refund', refund ->> 'refund')::text;
    end if;
    answer := payments._keep(i.account_id, p_key, note, answer);
end $$;

-- Only a note whose money went nowhere can be taken back: on an invoice that is still open.
create function payments.void_credit_note(
    p_credit_note text, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    note oltp.credit_notes;
    i oltp.invoices;
begin
    i := payments._lock_invoice((select n.invoice_id from oltp.credit_notes n where n.id = p_credit_note));
    select * into note from oltp.credit_notes n where n.id = p_credit_note for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(i.account_id, p_key, p_hash, 'void_credit_note') b;
    if replayed then
        return;
    end if;
    answer := case
        when note.id is null then payments._missing('credit note', p_credit_note)
        when not payments._may_move('credit_note', note.status, 'void') or i.status <> 'open'
        then payments._wrong_state('credit note', p_credit_note, note.status || ' on an invoice that is ' || i.status,
            'be voided') end;
    if answer is null then
        update oltp.credit_notes n set status = 'void', voided_at = at where n.id = p_credit_note;
        update oltp.invoices v set amount_due = v.amount_due + note.amount,
            amount_remaining = v.amount_remaining + note.amount,
            pre_payment_credit_notes_amount = v.pre_payment_credit_notes_amount - note.amount where v.id = i.id;
        perform payments._event('credit_note.voided', i.account_id, 'credit_note', p_credit_note, p_key, at);
        answer := json_build_object('credit_note', p_credit_note, 'status', 'void', 'type', note.type, 'invoice', i.id,
            'refund', null)::text;
    end if;
    answer := payments._keep(i.account_id, p_key, p_credit_note, answer);
end $$;
