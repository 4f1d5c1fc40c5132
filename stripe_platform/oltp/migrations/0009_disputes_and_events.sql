-- What stands in dispute, what listeners hear of a payment made in one call, and one way less to book a day.

-- Summed bookings of a day are the day loads' own (0004); this one did not know of releases that had passed the day.
drop function ledger.book_day(date);

-- Several disputes may question one charge, never more than was captured of it. Won or withdrawn ones question nothing.
create or replace function payments.open_dispute(
    p_charge text, p_amount bigint, p_currency text, p_reason text, p_status text default 'needs_response',
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    dispute text := 'dp_' || body;
    charge oltp.charges;
    takes boolean := p_status = 'needs_response' and p_amount > 0;
    questioned bigint;
    refused text;
begin
    select * into charge from oltp.charges c where c.id = p_charge for no key update;
    select coalesce(sum(d.amount), 0) into questioned from oltp.disputes d
    where d.charge_id = p_charge and d.status not in ('won', 'prevented', 'warning_closed', 'charge_refunded');
    refused := case
        when charge.id is null then payments._refusal('invalid_request_error', 'resource_missing', format(
            'dispute of %s: no such charge; check the id', p_charge), 'charge')
        when p_currency <> charge.currency then payments._refusal('invalid_request_error', 'currency_mismatch', format(
            'dispute of %s is in %s, the charge in %s: use the charge''s currency', p_charge, p_currency, charge.currency),
            'currency')
        when p_status not in ('needs_response', 'warning_needs_response', 'prevented')
        then payments._wrong_state('dispute of', p_charge, 'new', 'begin as ' || p_status)
        when p_amount > charge.amount_captured then payments._refusal('invalid_request_error', 'amount_too_large', format(
            'dispute of %s exceeds its captured amount: dispute less', p_charge), 'amount')
        when p_amount > charge.amount_captured - questioned then payments._refusal('invalid_request_error',
            'amount_too_large', format('disputes of %s that stand leave %s of its captured amount: dispute less, or end'
            ' one of them first', p_charge, charge.amount_captured - questioned), 'amount') end;
    answer := coalesce(refused, payments._dispute_answer(dispute, p_status, p_charge,
        case when takes then 'txn_' || body end));
    select c.answer, c.replayed into answer, replayed
    from payments._first(charge.account_id, p_key, p_hash, 'open_dispute', dispute, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    update oltp.charges set disputed = true where id = p_charge and not disputed;
    insert into oltp.disputes (id, charge_id, payment_intent_id, amount, currency, status, reason, created)
    values (dispute, p_charge, charge.payment_intent_id, p_amount, charge.currency, p_status, p_reason, at);
    if takes then
        perform payments._withdraw(body, at, charge, dispute, p_amount);
        perform payments._event('charge.dispute.funds_withdrawn', charge.account_id, 'dispute', dispute, p_key, at);
    end if;
    perform payments._event('charge.dispute.created', charge.account_id, 'dispute', dispute, p_key, at);
end $$;

-- A payment made in one call creates its intent too: intent and charge then share the body of their ids.
create or replace function payments._payment_events(p_account text, p_intent text, p_charge text, p_status text,
    p_key text, p_at timestamptz) returns text language plpgsql as $$
begin
    insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)
    select 'evt_' || ops.id_body(p_at), e.type, p_account, e.kind, e.object, p_key, p_at
    from (values
        (case when substr(p_intent, 4) = substr(p_charge, 4) then 'payment_intent.created' end,
            'payment_intent', p_intent),
        (case p_status when 'succeeded' then 'payment_intent.succeeded'
            when 'requires_capture' then 'payment_intent.amount_capturable_updated'
            else 'payment_intent.payment_failed' end, 'payment_intent', p_intent),
        (case p_status when 'requires_payment_method' then 'charge.failed' else 'charge.succeeded' end,
            'charge', p_charge)
    ) as e (type, kind, object)
    where e.type is not null;
    return null;
end $$;

-- A movement booked anew may be released again: its entry, not its id alone, says which release this is.
create or replace function ledger.release(p_until timestamptz) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    floor_at timestamptz;
    due record;
    entry text;
    released integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.release', 0));
    select c.released_until - interval '1 day' into floor_at from ops.ledger_calendar c;
    for due in
        select b.account_id, b.currency, array_agg(b.id) as ids, min(b.ledger_entry_id) as first_entry, sum(b.net)::bigint as net
        from (
            select t.* from oltp.accounts a
            join lateral (
                select b.* from oltp.balance_transactions b where b.account_id = a.id
                and b.available_on > floor_at and b.available_on <= p_until
            ) t on true
            union all
            select b.* from oltp.balance_transactions b where b.account_id is null
            and b.available_on > floor_at and b.available_on <= p_until
        ) b
        where b.available_entry_id is null and b.ledger_entry_id is not null
        group by b.account_id, b.currency order by 1, 2
    loop
        entry := ledger.book_event('balance_release', 'release:' || due.ids[1] || ':' || due.first_entry, due.account_id, due.currency, due.net,
            p_until);
        update oltp.balance_transactions b
        set status = 'available', available_entry_id = coalesce(entry, b.ledger_entry_id) where b.id = any (due.ids);
        released := released + cardinality(due.ids);
    end loop;
    update ops.ledger_calendar set released_until = greatest(released_until, p_until);
    return released;
end $$;
