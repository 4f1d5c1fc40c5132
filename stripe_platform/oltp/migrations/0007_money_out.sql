-- Money that leaves or changes hands: payouts and their bank lines, transfers, application fees, top-ups, reserves.
-- Every movement is a balance transaction with its entry. What a merchant must have is checked under the lock of its
-- ledger account, before anything is written.

create table oltp.payout_schedules (
    account_id text collate "C" not null references oltp.accounts,
    currency text not null references oltp.currencies,
    recurrence text not null check (recurrence in ('daily', 'manual', 'monthly', 'weekly')),
    weekly_anchor smallint check (weekly_anchor between 1 and 7),
    monthly_anchor smallint check (monthly_anchor between 1 and 31),
    minimum bigint not null default 1 check (minimum > 0),
    bank_account_id text collate "C" references oltp.bank_accounts,
    paid_through date check (isfinite(paid_through)),
    primary key (account_id, currency),
    constraint week_has_its_day check ((recurrence = 'weekly') = (weekly_anchor is not null)),
    constraint month_has_its_day check ((recurrence = 'monthly') = (monthly_anchor is not null))
);
comment on column oltp.payout_schedules.minimum is 'Minor units; less stays until there is more';
comment on column oltp.payout_schedules.weekly_anchor is 'ISO day of the week: 1 is Monday';
comment on column oltp.payout_schedules.paid_through is 'Last day on which the schedule ran: each day runs once';

create table oltp.bank_statement_lines (
    id text collate "C" primary key check (id like 'bsl\_%'),
    account text collate "C" not null,
    booked_on date not null check (isfinite(booked_on)),
    amount bigint not null check (amount <> 0),
    currency text not null references oltp.currencies,
    reference text collate "C",
    payout_id text collate "C" references oltp.payouts
);
comment on table oltp.bank_statement_lines is 'What the platform''s banks booked; who was paid stays with the bank';
comment on column oltp.bank_statement_lines.amount is 'Minor units as the currency''s are; out below zero';
create index bank_statement_lines_open on oltp.bank_statement_lines (booked_on) where payout_id is null;
create unique index bank_statement_lines_payout on oltp.bank_statement_lines (payout_id, (amount < 0))
where payout_id is not null;
create index payouts_open on oltp.payouts (created) where status in ('in_transit', 'pending');
create index transfers_account_id on oltp.transfers (account_id, created);
create index transfers_source_charge_id on oltp.transfers (source_charge_id) where source_charge_id is not null;
create index transfer_reversals_transfer_id on oltp.transfer_reversals (transfer_id);
create index application_fees_charge_id on oltp.application_fees (charge_id);
create index reserve_holds_due on oltp.reserve_holds (release_after) where release_after is not null;
create index reserve_releases_reserve_hold_id on oltp.reserve_releases (reserve_hold_id);

create function payments._open_from() returns timestamptz language sql stable as $$
    select c.open_from from ops.ledger_calendar c
$$;

-- The merchant's available balance, locked: racing movements that need it queue here.
create function payments._available(p_account text, p_currency text, out amount bigint, out unlimited boolean)
language plpgsql as $$
declare
    account text := 'merchant_available:' || p_currency || ':' || p_account;
begin
    select a.allows_negative into unlimited from oltp.ledger_accounts a where a.id = account for no key update;
    unlimited := coalesce(unlimited, false);
    amount := ledger.balance(account);
end $$;

create function payments._not_covered(p_account text, p_currency text) returns text language sql immutable as $$
    select payments._invalid('balance_insufficient', format('the available balance of %s in %s does not cover it: wait for'
        ' releases, or ask for less', p_account, p_currency), 'amount')
$$;

-- Payouts.
create function payments._payable(p_account text, p_currency text, out ids text[], out net bigint) language sql stable as $$
    select array_agg(b.id), coalesce(sum(b.net), 0)::bigint from oltp.balance_transactions b
    where b.account_id = p_account and b.currency = p_currency and b.ledger_entry_id is not null
    and b.available_entry_id is not null
    and not exists (select 1 from oltp.payout_balance_transactions p where p.balance_transaction_id = b.id)
    and not (b.reporting_category in ('payout', 'payout_reversal')
        and exists (select 1 from oltp.payouts p where p.id = b.source_id and p.automatic))
$$;
comment on function payments._payable is 'Available movements that no payout has paid out; payouts by hand count as such';

create function payments.create_payout(
    p_account text, p_currency text, p_amount bigint default null, p_bank_account text default null,
    p_payout_currency text default null, p_method text default 'standard', p_minimum bigint default 1,
    p_arrival timestamptz default null, p_day date default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    payout text := 'po_' || body;
    automatic boolean := p_amount is null;
    enabled boolean;
    bank oltp.bank_accounts;
    paid_in text;
    multiple integer;
    available record;
    moved text[];
    taken bigint;
    given bigint;
    rest bigint;
    rate numeric;
    back numeric;
begin
    select * into available from payments._available(p_account, p_currency);
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_payout') b;
    if replayed then
        return;
    end if;
    select a.payouts_enabled into enabled from oltp.accounts a where a.id = p_account and not a.deleted;
    select * into bank from oltp.bank_accounts b where b.id = p_bank_account and b.account_id = p_account and not b.deleted;
    paid_in := coalesce(p_payout_currency, bank.currency, p_currency);
    select c.payout_multiple into multiple from oltp.currencies c where c.code = paid_in;
    answer := coalesce(payments._account_refusal(p_account), case
        when not enabled then payments._invalid('payouts_not_allowed', format('account %s may not be paid out: complete its'
            ' requirements', p_account), 'account')
        when p_bank_account is not null and bank.id is null then payments._missing('bank account', p_bank_account)
        when multiple is null then payments._invalid('currency_invalid', 'the currency is not known: use an ISO code in'
            ' lower case', 'currency')
        when p_method not in ('instant', 'standard') then payments._invalid('parameter_invalid',
            'a payout is standard or instant', 'method')
        when p_amount <= 0 or (paid_in = p_currency and p_amount % multiple <> 0)
        then payments._invalid('amount_invalid', format('payouts in %s are above zero and in whole multiples of what banks'
            ' there pay: round down', paid_in), 'amount') end);
    if answer is not null then
        answer := payments._keep(p_account, p_key, null, answer);
        return;
    end if;
    if p_day is not null then
        update oltp.payout_schedules s set paid_through = p_day
        where s.account_id = p_account and s.currency = p_currency and coalesce(s.paid_through, '-infinity') < p_day;
        if not found then
            automatic := null; -- its day has run
        end if;
    end if;
    taken := p_amount;
    if automatic then
        select p.ids, p.net into moved, taken from payments._payable(p_account, p_currency) p;
    end if;
    given := taken;
    if paid_in <> p_currency then
        rate := payments._rate(p_currency, paid_in, (at at time zone 'UTC')::date);
        back := payments._rate(paid_in, p_currency, (at at time zone 'UTC')::date);
        given := payments._exchange(taken, rate, p_currency, paid_in);
        if rate is null then
            answer := payments._keep(p_account, p_key, null, payments._invalid('currencies_have_a_rate', format(
                'no rate from %s to %s: add a row to exchange_rates', p_currency, paid_in), 'currency'));
            return;
        end if;
    end if;
    rest := 0;
    if given % multiple <> 0 then
        given := given - given % multiple;
        rest := taken - case when paid_in = p_currency then given
            else least(payments._exchange(given, back, paid_in, p_currency), taken) end;
        if not automatic then
            taken := taken - rest;
            rest := 0;
        end if;
    end if;
    if not automatic and given < 1 then
        answer := payments._keep(p_account, p_key, null, payments._invalid('amount_too_small', format(
            'a payout of that little is nothing in %s: pay out more', paid_in), 'amount'));
        return;
    end if;
    if automatic is null or given < 1 or (automatic and taken < p_minimum) then
        answer := payments._keep(p_account, p_key, null, json_build_object('payout', null, 'status', 'nothing_to_pay',
            'balance_transaction', null, 'movements', 0)::text);
        return;
    end if;
    if available.amount < taken - rest and not available.unlimited then
        answer := payments._keep(p_account, p_key, null, payments._not_covered(p_account, p_currency));
        return;
    end if;
    perform ledger.open_accounts(p_account, p_currency, nullif(paid_in, p_currency));
    insert into oltp.payouts (id, account_id, bank_account_id, amount, currency, status, automatic, method, type,
        source_type, reconciliation_status, arrival_date, balance_transaction_id, created)
    values (payout, p_account, p_bank_account, given, paid_in, 'pending', automatic, p_method,
        coalesce(bank.kind, 'bank_account'), 'card', case when automatic then 'in_progress' else 'not_applicable' end,
        coalesce(p_arrival, date_trunc('day', at at time zone 'UTC') at time zone 'UTC' + interval '2 days'), 'txn_' || body,
        at);
    if automatic then
        insert into oltp.payout_balance_transactions (balance_transaction_id, payout_id)
        select t, payout from unnest(moved) t;
        if rest <> 0 then -- what banks cannot pay stays: held out of this payout, released to the next
            insert into oltp.payout_balance_transactions (balance_transaction_id, payout_id)
            select payments._move(ops.id_body(at), at, p_account, payout, 'payout_minimum_balance_hold', 'other_adjustment',
                -rest, 0, p_currency, at, payments._open_from()), payout;
            perform payments._move(ops.id_body(at), at, p_account, payout, 'payout_minimum_balance_release',
                'other_adjustment', rest, 0, p_currency, at, payments._open_from());
        end if;
    end if;
    perform payments._move(body, at, p_account, payout, 'payout', 'payout', -(taken - rest), 0, p_currency, at,
        payments._open_from(), back, case when paid_in <> p_currency then paid_in end,
        case when paid_in <> p_currency then -given end);
    perform payments._event('payout.created', p_account, 'payout', payout, p_key, at);
    answer := payments._keep(p_account, p_key, payout, json_build_object('payout', payout, 'status', 'pending',
        'balance_transaction', 'txn_' || body, 'movements', coalesce(cardinality(moved), 0))::text);
end $$;

-- A payout that failed or was canceled gives back exactly what it took, after it was paid too, and its movements are
-- payable again.
create function payments.set_payout_status(
    p_payout text, p_status text, p_failure_code text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    payout oltp.payouts;
    undone boolean := p_status in ('canceled', 'failed');
    paid text;
    movement text;
begin
    select * into payout from oltp.payouts p where p.id = p_payout for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(payout.account_id, p_key, p_hash, 'set_payout_status') b;
    if replayed then
        return;
    end if;
    answer := case
        when payout.id is null then payments._missing('payout', p_payout)
        when exists (select 1 from ingest.versions v where v.kind = 'payout' and v.object_id = payout.id)
        then payments._invalid('resource_imported', format('payout %s is Stripe''s: change it there', p_payout), 'payout')
        when not payments._may_move('payout', payout.status, p_status)
        then payments._wrong_state('payout', p_payout, payout.status, 'become ' || coalesce(p_status, 'nothing')) end;
    if answer is null then
        if p_status = 'paid' then
            perform ledger.book_event('payout_paid', p_payout, payout.account_id, payout.currency, payout.amount, at);
        elsif undone then
            select e.id into paid from oltp.ledger_entries e where e.source_id = p_payout and e.kind = 'payout_paid'
            and not exists (select 1 from oltp.ledger_reversals r where r.entry_id = e.id or r.reversal_id = e.id);
            if found then
                perform ledger.reverse(paid, at);
            end if;
            movement := payments._return(body, at, payout.balance_transaction_id, p_payout,
                case p_status when 'failed' then 'payout_failure' else 'payout_cancel' end, 'payout_reversal', true);
            delete from oltp.payout_balance_transactions b where b.payout_id = p_payout;
        end if;
        update oltp.payouts p set status = p_status, failure_code = case when p_status = 'failed'
            then coalesce(p_failure_code, 'could_not_process') end, failure_balance_transaction_id = movement
        where p.id = p_payout;
        perform payments._event('payout.' || case p_status when 'in_transit' then 'updated' else p_status end,
            payout.account_id, 'payout', p_payout, p_key, at);
        answer := json_build_object('payout', p_payout, 'status', p_status, 'balance_transaction',
            coalesce(movement, payout.balance_transaction_id), 'movements', 0)::text;
    end if;
    answer := payments._keep(payout.account_id, p_key, p_payout, answer);
end $$;

create function payments.due_payouts(p_day date) returns table (account_id text, currency text, minimum bigint,
    bank_account_id text) language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select s.account_id, s.currency, s.minimum, s.bank_account_id from oltp.payout_schedules s
    where coalesce(s.paid_through, '-infinity') < p_day and (s.recurrence = 'daily'
        or (s.recurrence = 'weekly' and s.weekly_anchor = extract(isodow from p_day))
        or (s.recurrence = 'monthly' and extract(day from p_day) = least(s.monthly_anchor,
            extract(day from date_trunc('month', p_day::timestamp) + interval '1 month - 1 day'))))
    order by 1, 2
$$;

-- Bank lines find their payouts by reference, amount and currency. What left is paid; what came back has failed.
create function payments.match_bank_lines(p_day date, out matched integer, out paid integer, out returned integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    line record;
    at timestamptz;
begin
    matched := 0;
    paid := 0;
    returned := 0;
    perform pg_advisory_xact_lock(hashtextextended('payments.match_bank_lines', 0));
    for line in
        select l.id, l.amount, l.booked_on, p.id as payout, p.status, p.created
        from oltp.bank_statement_lines l
        join oltp.payouts p on p.id = l.reference and p.currency = l.currency and p.amount = abs(l.amount)
        where l.payout_id is null and l.booked_on <= p_day and p.status in ('pending', 'in_transit', 'paid')
        and not exists (select 1 from ingest.versions v where v.kind = 'payout' and v.object_id = p.id)
        order by l.booked_on, l.amount, l.id
    loop
        continue when exists (select 1 from oltp.bank_statement_lines o
            where o.payout_id = line.payout and (o.amount < 0) = (line.amount < 0));
        continue when line.amount > 0 and not exists (select 1 from oltp.bank_statement_lines o
            where o.payout_id = line.payout and o.amount < 0);
        update oltp.bank_statement_lines l set payout_id = line.payout where l.id = line.id;
        at := greatest(line.booked_on::timestamp at time zone 'UTC', line.created);
        matched := matched + 1;
        if line.amount > 0 then
            perform payments.set_payout_status(line.payout, 'failed', 'could_not_process', p_created => at);
            returned := returned + 1;
        elsif line.status <> 'paid' then
            perform payments.set_payout_status(line.payout, 'paid', p_created => at);
            paid := paid + 1;
        end if;
    end loop;
    update oltp.payouts p set reconciliation_status = 'completed'
    where p.automatic and p.status = 'paid' and p.reconciliation_status = 'in_progress'
    and exists (select 1 from oltp.bank_statement_lines l where l.payout_id = p.id and l.amount < 0)
    and payments._payout_adds_up(p);
end $$;

create function payments._payout_adds_up(p_payout oltp.payouts) returns boolean language sql stable as $$
    select coalesce((select sum(b.net) from oltp.payout_balance_transactions m
            join oltp.balance_transactions b on b.id = m.balance_transaction_id where m.payout_id = p_payout.id), 0)
        = coalesce((select -b.amount from oltp.balance_transactions b where b.id = p_payout.balance_transaction_id), 0)
$$;
comment on function payments._payout_adds_up is 'Whether an automatic payout is the sum of its movements';

create function payments.unreconciled(p_day date) returns table (id text, problem text) language sql stable
security definer set search_path = pg_catalog, pg_temp as $$
    select p.id, 'no bank line' from oltp.payouts p
    where p.status in ('in_transit', 'paid', 'pending') and p.arrival_date < (p_day + 1)::timestamp at time zone 'UTC'
    and not exists (select 1 from oltp.bank_statement_lines l where l.payout_id = p.id and l.amount < 0)
    and not exists (select 1 from ingest.versions v where v.kind = 'payout' and v.object_id = p.id)
    union all
    select p.id, 'not the sum of its movements' from oltp.payouts p
    where p.automatic and p.status in ('in_transit', 'paid', 'pending') and not payments._payout_adds_up(p)
    and not exists (select 1 from ingest.versions v where v.kind = 'payout' and v.object_id = p.id)
    union all
    select l.id, 'no payout' from oltp.bank_statement_lines l
    where l.payout_id is null and l.booked_on <= p_day and l.reference like 'po\_%'
    order by 1, 2
$$;
comment on function payments.unreconciled is 'Payouts due by a day without bank line or sum, and bank lines without payout';

-- Transfers.
create function payments._transfer_answer(p_kind text, p_id text, p_movement text, p_other text) returns text
language sql immutable as $$
    select json_build_object(p_kind, p_id, 'balance_transaction', p_movement, 'other_balance_transaction', p_other)::text
$$;

create function payments.create_transfer(
    p_account text, p_destination text, p_amount bigint, p_currency text, p_source_charge text default null,
    p_group text default null, p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    other text := ops.id_body(at);
    transfer text := 'tr_' || body;
    charge oltp.charges;
    earned oltp.balance_transactions;
    usable timestamptz := at;
    available record;
begin
    select * into charge from oltp.charges c where c.id = p_source_charge for no key update;
    select * into available from payments._available(p_account, p_currency);
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_transfer') b;
    if replayed then
        return;
    end if;
    if p_source_charge is not null then
        select * into earned from oltp.balance_transactions b where b.source_id = p_source_charge
        and b.reporting_category = 'charge' order by b.created limit 1;
        if earned.available_entry_id is null then
            usable := greatest(earned.available_on, at);
        end if;
    end if;
    answer := coalesce(payments._account_refusal(p_account), payments._account_refusal(p_destination), case
        when p_account = p_destination then payments._invalid('parameter_invalid',
            'a transfer goes to another account: name that one', 'destination')
        when coalesce(p_amount <= 0 or p_amount % payments._unit(p_currency) <> 0, true) then payments._invalid(
            'amount_invalid', 'a transfer''s amount is above zero and one of its currency: check both', 'amount')
        when p_source_charge is not null and (charge.account_id is distinct from p_account or earned.id is null
            or earned.currency <> p_currency)
        then payments._invalid('resource_missing', format('charge %s brought no money of that currency to %s: check the id',
            p_source_charge, p_account), 'source_transaction')
        when p_source_charge is not null and p_amount + coalesce((select sum(t.amount - t.amount_reversed)
            from oltp.transfers t where t.source_charge_id = p_source_charge), 0) > earned.amount
        then payments._invalid('amount_too_large', format('transfers of charge %s exceed what it brought: transfer less',
            p_source_charge), 'amount')
        when usable <= at and available.amount < p_amount and not available.unlimited
        then payments._not_covered(p_account, p_currency) end);
    if answer is null then
        perform ledger.open_accounts(p_account, p_currency);
        perform ledger.open_accounts(p_destination, p_currency);
        insert into oltp.transfers (id, account_id, destination_id, source_charge_id, amount, currency,
            balance_transaction_id, source_type, transfer_group, created)
        values (transfer, p_account, p_destination, p_source_charge, p_amount, p_currency, 'txn_' || body, 'card', p_group, at);
        perform payments._move(body, at, p_account, transfer, 'transfer', 'transfer', -p_amount, 0, p_currency, usable,
            payments._open_from());
        perform payments._move(other, at, p_destination, transfer, 'payment', 'transfer', p_amount, 0, p_currency, usable,
            payments._open_from());
        perform payments._event('transfer.created', p_account, 'transfer', transfer, p_key, at);
        answer := payments._transfer_answer('transfer', transfer, 'txn_' || body, 'txn_' || other);
    end if;
    answer := payments._keep(p_account, p_key, transfer, answer);
end $$;

create function payments.reverse_transfer(
    p_transfer text, p_amount bigint default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    other text := ops.id_body(at);
    reversal text := 'trr_' || body;
    transfer oltp.transfers;
    taken oltp.balance_transactions;
    given bigint;
    usable timestamptz := at;
    available record;
begin
    select * into transfer from oltp.transfers t where t.id = p_transfer for no key update;
    select * into available from payments._available(transfer.destination_id, transfer.currency);
    select b.answer, b.replayed into answer, replayed
    from payments._begin(transfer.account_id, p_key, p_hash, 'reverse_transfer') b;
    if replayed then
        return;
    end if;
    given := coalesce(p_amount, transfer.amount - transfer.amount_reversed);
    select * into taken from oltp.balance_transactions b where b.id = transfer.balance_transaction_id;
    if taken.available_entry_id is null then
        usable := greatest(taken.available_on, at);
    end if;
    answer := case
        when transfer.id is null then payments._missing('transfer', p_transfer)
        when exists (select 1 from ingest.versions v where v.kind = 'transfer' and v.object_id = transfer.id)
        then payments._invalid('resource_imported', format('transfer %s is Stripe''s: change it there', p_transfer), 'transfer')
        when transfer.amount_reversed = transfer.amount
        then payments._invalid('transfer_already_reversed', format('transfer %s is reversed in full already', p_transfer))
        when given <= 0 or given % payments._unit(transfer.currency) <> 0
            or given > transfer.amount - transfer.amount_reversed
        then payments._invalid('amount_too_large', format('a reversal of %s is above zero and within what is left of it:'
            ' reverse less', p_transfer), 'amount')
        when usable <= at and available.amount < given and not available.unlimited
        then payments._not_covered(transfer.destination_id, transfer.currency) end;
    if answer is null then
        update oltp.transfers t set amount_reversed = t.amount_reversed + given where t.id = p_transfer;
        insert into oltp.transfer_reversals (id, transfer_id, amount, currency, balance_transaction_id, created)
        values (reversal, p_transfer, given, transfer.currency, 'txn_' || body, at);
        perform payments._move(body, at, transfer.account_id, reversal, 'transfer_refund', 'transfer_reversal', given, 0,
            transfer.currency, usable, payments._open_from());
        perform payments._move(other, at, transfer.destination_id, reversal, 'payment_refund', 'transfer_reversal', -given, 0,
            transfer.currency, usable, payments._open_from());
        perform payments._event('transfer.reversed', transfer.account_id, 'transfer', p_transfer, p_key, at);
        answer := payments._transfer_answer('transfer_reversal', reversal, 'txn_' || body, 'txn_' || other);
    end if;
    answer := payments._keep(transfer.account_id, p_key, reversal, answer);
end $$;

-- A merchant pays an application fee as a fee of nothing: no amount moves, its net does.
create function payments._pay_fee(
    p_body text, p_at timestamptz, p_account text, p_source text, p_type text, p_fee bigint, p_currency text,
    p_available_on timestamptz
) returns text language plpgsql as $$
declare
    effective timestamptz := greatest(p_at, payments._open_from());
    entry text := 'le_' || case when effective = p_at then p_body else ops.id_body(effective) end;
    waits boolean := p_available_on > effective and (p_available_on > clock_timestamp()
        or not ledger._released(p_available_on));
begin
    insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net, currency,
        status, available_on, created, ledger_entry_id, available_entry_id)
    values ('txn_' || p_body, p_account, p_source, p_type, 'fee', 0, p_fee, -p_fee, p_currency,
        case when waits then 'pending' else 'available' end, p_available_on, p_at, entry, case when not waits then entry end);
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    values ('txn_' || p_body, 0, 'application_fee', p_fee, p_currency);
    insert into oltp.ledger_entries (id, kind, account_id, effective_at) values (entry, 'fee', p_account, effective);
    perform ledger._post(array[entry], array['fee'], array[p_account], array[p_currency], array[waits], array[-p_fee],
        array[0::bigint], array[p_fee], array[0::bigint], array[0::bigint], array[null::text], array[null::bigint]);
    return 'txn_' || p_body;
end $$;

create function payments.create_application_fee(
    p_charge text, p_account text, p_amount bigint, p_application text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    other text := ops.id_body(at);
    fee text := 'fee_' || body;
    charge oltp.charges;
    earned oltp.balance_transactions;
    usable timestamptz := at;
begin
    select * into charge from oltp.charges c where c.id = p_charge for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(p_account, p_key, p_hash, 'create_application_fee') b;
    if replayed then
        return;
    end if;
    select * into earned from oltp.balance_transactions b where b.source_id = p_charge
    and b.reporting_category = 'charge' order by b.created limit 1;
    if earned.available_entry_id is null then
        usable := greatest(earned.available_on, at);
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when charge.id is null or earned.id is null then payments._missing('charge', p_charge)
        when charge.account_id = p_account then payments._invalid('parameter_invalid',
            'an application fee goes to another account than the charge''s: name that one', 'account')
        when exists (select 1 from oltp.application_fees f where f.charge_id = p_charge)
        then payments._invalid('application_fee_exists', format('charge %s has its application fee: refund that one first',
            p_charge), 'charge')
        when coalesce(p_amount <= 0 or p_amount > earned.amount or p_amount % payments._unit(earned.currency) <> 0, true)
        then payments._invalid('amount_too_large', format('the application fee of %s is above zero and within what it'
            ' brought: take less', p_charge), 'application_fee_amount') end);
    if answer is null then
        perform ledger.open_accounts(p_account, earned.currency);
        insert into oltp.application_fees (id, account_id, charge_id, application, amount, currency, balance_transaction_id,
            created)
        values (fee, p_account, p_charge, p_application, p_amount, earned.currency, 'txn_' || body, at);
        insert into oltp.charge_details (charge_id, application_fee_id, application_fee_amount)
        values (p_charge, fee, p_amount)
        on conflict (charge_id) do update set application_fee_id = excluded.application_fee_id,
            application_fee_amount = excluded.application_fee_amount;
        perform payments._move(body, at, p_account, fee, 'application_fee', 'platform_earning', p_amount, 0, earned.currency,
            usable, payments._open_from());
        perform payments._pay_fee(other, at, charge.account_id, fee, 'application_fee', p_amount, earned.currency, usable);
        perform payments._event('application_fee.created', p_account, 'application_fee', fee, p_key, at);
        answer := payments._transfer_answer('application_fee', fee, 'txn_' || body, 'txn_' || other);
    end if;
    answer := payments._keep(p_account, p_key, fee, answer);
end $$;

create function payments.refund_application_fee(
    p_fee text, p_amount bigint default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    other text := ops.id_body(at);
    refund text := 'fr_' || body;
    fee oltp.application_fees;
    taken oltp.balance_transactions;
    merchant text;
    given bigint;
    usable timestamptz := at;
begin
    select * into fee from oltp.application_fees f where f.id = p_fee for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(fee.account_id, p_key, p_hash, 'refund_application_fee') b;
    if replayed then
        return;
    end if;
    given := coalesce(p_amount, fee.amount - fee.amount_refunded);
    select * into taken from oltp.balance_transactions b where b.id = fee.balance_transaction_id;
    if taken.available_entry_id is null then
        usable := greatest(taken.available_on, at);
    end if;
    select c.account_id into merchant from oltp.charges c where c.id = fee.charge_id;
    answer := case
        when fee.id is null then payments._missing('application fee', p_fee)
        when exists (select 1 from ingest.versions v where v.kind = 'application_fee' and v.object_id = fee.id)
        then payments._invalid('resource_imported', format('application fee %s is Stripe''s: change it there', p_fee))
        when given <= 0 or given > fee.amount - fee.amount_refunded or given % payments._unit(fee.currency) <> 0
        then payments._invalid('amount_too_large', format('a refund of application fee %s is above zero and within what is'
            ' left of it: refund less', p_fee), 'amount') end;
    if answer is null then
        update oltp.application_fees f set amount_refunded = f.amount_refunded + given where f.id = p_fee;
        insert into oltp.fee_refunds (id, application_fee_id, amount, currency, balance_transaction_id, created)
        values (refund, p_fee, given, fee.currency, 'txn_' || body, at);
        perform payments._move(body, at, fee.account_id, refund, 'application_fee_refund', 'platform_earning_refund', -given,
            0, fee.currency, usable, payments._open_from());
        perform payments._pay_fee(other, at, merchant, refund, 'application_fee_refund', -given, fee.currency, usable);
        perform payments._event('application_fee.refunded', fee.account_id, 'application_fee', p_fee, p_key, at);
        answer := payments._transfer_answer('fee_refund', refund, 'txn_' || body, 'txn_' || other);
    end if;
    answer := payments._keep(fee.account_id, p_key, refund, answer);
end $$;

-- Top-ups: money that a merchant adds.
create function payments.create_topup(
    p_account text, p_amount bigint, p_currency text, p_expected timestamptz default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    topup text := 'tu_' || ops.id_body(at);
begin
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'create_topup') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when coalesce(p_amount <= 0 or p_amount % payments._unit(p_currency) <> 0, true) then payments._invalid(
            'amount_invalid', 'a top-up''s amount is above zero and one of its currency: check both', 'amount') end);
    if answer is null then
        insert into oltp.topups (id, account_id, amount, currency, status, expected_availability_date, created)
        values (topup, p_account, p_amount, p_currency, 'pending', p_expected, at);
        perform payments._event('topup.created', p_account, 'topup', topup, p_key, at);
        answer := json_build_object('topup', topup, 'status', 'pending', 'balance_transaction', null)::text;
    end if;
    answer := payments._keep(p_account, p_key, topup, answer);
end $$;

create function payments.set_topup_status(
    p_topup text, p_status text, p_failure_code text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    topup oltp.topups;
    available record;
    movement text;
begin
    select * into topup from oltp.topups t where t.id = p_topup for no key update;
    select * into available from payments._available(topup.account_id, topup.currency);
    select b.answer, b.replayed into answer, replayed
    from payments._begin(topup.account_id, p_key, p_hash, 'set_topup_status') b;
    if replayed then
        return;
    end if;
    answer := case
        when topup.id is null then payments._missing('topup', p_topup)
        when exists (select 1 from ingest.versions v where v.kind = 'topup' and v.object_id = topup.id)
        then payments._invalid('resource_imported', format('topup %s is Stripe''s: change it there', p_topup), 'topup')
        when not payments._may_move('topup', topup.status, p_status)
        then payments._wrong_state('topup', p_topup, topup.status, 'become ' || coalesce(p_status, 'nothing'))
        when p_status = 'reversed' and available.amount < topup.amount and not available.unlimited
        then payments._not_covered(topup.account_id, topup.currency) end;
    if answer is null then
        if p_status = 'succeeded' then
            perform ledger.open_accounts(topup.account_id, topup.currency);
            movement := payments._move(body, at, topup.account_id, p_topup, 'topup', 'topup', topup.amount, 0, topup.currency,
                at, payments._open_from());
        elsif p_status = 'reversed' then
            perform payments._return(body, at, topup.balance_transaction_id, p_topup, 'topup_reversal', 'topup_reversal', true);
        end if;
        update oltp.topups t set status = p_status, failure_code = p_failure_code,
            balance_transaction_id = coalesce(movement, t.balance_transaction_id) where t.id = p_topup;
        perform payments._event('topup.' || p_status, topup.account_id, 'topup', p_topup, p_key, at);
        answer := json_build_object('topup', p_topup, 'status', p_status, 'balance_transaction',
            coalesce(movement, topup.balance_transaction_id))::text;
    end if;
    answer := payments._keep(topup.account_id, p_key, p_topup, answer);
end $$;

-- Reserves: available money held back, and let go in parts.
create function payments.hold_reserve(
    p_account text, p_amount bigint, p_currency text, p_reason text default null, p_release_after timestamptz default null,
    p_plan text default null, p_source_charge text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    hold text := 'rsvhld_' || body;
    available record;
begin
    select * into available from payments._available(p_account, p_currency);
    select b.answer, b.replayed into answer, replayed from payments._begin(p_account, p_key, p_hash, 'hold_reserve') b;
    if replayed then
        return;
    end if;
    answer := coalesce(payments._account_refusal(p_account), case
        when coalesce(p_amount <= 0 or p_amount % payments._unit(p_currency) <> 0, true) then payments._invalid(
            'amount_invalid', 'a reserve''s amount is above zero and one of its currency: check both', 'amount')
        when available.amount < p_amount and not available.unlimited then payments._not_covered(p_account, p_currency) end);
    if answer is null then
        perform ledger.open_accounts(p_account, p_currency);
        insert into oltp.reserve_holds (id, account_id, reserve_plan_id, source_charge_id, amount, currency, reason,
            source_type, created_by, release_after, created)
        values (hold, p_account, p_plan, p_source_charge, p_amount, p_currency, p_reason, 'card', 'stripe', p_release_after,
            at);
        perform payments._move(body, at, p_account, hold, 'reserve_hold', 'risk_reserved_funds', -p_amount, 0, p_currency, at,
            payments._open_from());
        perform payments._event('reserve.hold.created', p_account, 'reserve_hold', hold, p_key, at);
        answer := payments._transfer_answer('reserve_hold', hold, 'txn_' || body, null);
    end if;
    answer := payments._keep(p_account, p_key, hold, answer);
end $$;

create function payments.release_reserve(
    p_hold text, p_amount bigint default null, p_reason text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    release text := 'rsvrls_' || body;
    hold oltp.reserve_holds;
    rest bigint;
    given bigint;
begin
    select * into hold from oltp.reserve_holds h where h.id = p_hold for no key update;
    select b.answer, b.replayed into answer, replayed
    from payments._begin(hold.account_id, p_key, p_hash, 'release_reserve') b;
    if replayed then
        return;
    end if;
    select hold.amount - coalesce(sum(r.amount), 0) into rest from oltp.reserve_releases r where r.reserve_hold_id = p_hold;
    given := coalesce(p_amount, rest);
    answer := case
        when hold.id is null then payments._missing('reserve hold', p_hold)
        when exists (select 1 from ingest.versions v where v.kind = 'reserve.hold' and v.object_id = hold.id)
        then payments._invalid('resource_imported', format('reserve hold %s is Stripe''s: change it there', p_hold))
        when rest = 0 then payments._invalid('reserve_already_released', format('reserve hold %s is released in full already',
            p_hold))
        when given <= 0 or given > rest or given % payments._unit(hold.currency) <> 0
        then payments._invalid('amount_too_large', format('a release of %s is above zero and within what is left of it:'
            ' release less', p_hold), 'amount') end;
    if answer is null then
        insert into oltp.reserve_releases (id, account_id, reserve_plan_id, reserve_hold_id, amount, currency, reason,
            created_by, released_at, created)
        values (release, hold.account_id, hold.reserve_plan_id, p_hold, given, hold.currency, p_reason, 'stripe', at, at);
        perform payments._move(body, at, hold.account_id, release, 'reserve_release', 'risk_reserved_funds', given, 0,
            hold.currency, at, payments._open_from());
        perform payments._event('reserve.release.created', hold.account_id, 'reserve_release', release, p_key, at);
        answer := payments._transfer_answer('reserve_release', release, 'txn_' || body, null);
    end if;
    answer := payments._keep(hold.account_id, p_key, release, answer);
end $$;

create function payments.release_due_reserves(p_until timestamptz) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    hold record;
    released integer := 0;
begin
    for hold in
        select h.id, h.release_after from oltp.reserve_holds h where h.release_after <= p_until
        and h.amount > coalesce((select sum(r.amount) from oltp.reserve_releases r where r.reserve_hold_id = h.id), 0)
        and not exists (select 1 from ingest.versions v where v.kind = 'reserve.hold' and v.object_id = h.id)
        order by h.release_after, h.id for no key update skip locked
    loop
        perform payments.release_reserve(hold.id, p_created => hold.release_after);
        released := released + 1;
    end loop;
    return released;
end $$;
