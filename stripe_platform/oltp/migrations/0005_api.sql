-- What the HTTP front stands on: keys of merchants, the card vault, kept answers, webhooks going out, and the notices by
-- which caches of reference rows learn that they are old.

create table ops.api_keys (
    id text collate "C" primary key check (id like 'key\_%'),
    account_id text collate "C" not null references oltp.accounts,
    secret_mac bytea not null unique check (octet_length(secret_mac) = 32),
    prefix text not null check (prefix in ('sk_live_', 'sk_test_')),
    last4 text not null check (length(last4) = 4),
    scopes text[] not null check (cardinality(scopes) > 0),
    livemode boolean not null,
    created timestamptz not null default clock_timestamp() check (isfinite(created)),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint mode_stands_in_the_prefix check (livemode = (prefix = 'sk_live_'))
);
comment on column ops.api_keys.secret_mac is 'Keyed hash of the secret, which is shown once and kept nowhere';
comment on column ops.api_keys.last_used_at is 'To the hour: a write per request would cost more than it tells';

-- One row per card number: its keyed hash says whether two cards are one, its random name says so outside the vault.
create table vault.card_numbers (
    number_mac bytea primary key check (octet_length(number_mac) = 32),
    fingerprint text not null unique check (fingerprint like 'fpr\_%'),
    created timestamptz not null default clock_timestamp()
);
-- The number itself, under the key of the payer (or of the method, while nobody owns it). The front may write it and
-- not read it. What a card checks besides its number is never stored.
create table vault.cards (
    payment_method_id text collate "C" primary key references oltp.payment_methods,
    account_id text collate "C" not null references oltp.accounts,
    number_mac bytea not null references vault.card_numbers,
    number_ciphertext bytea not null,
    created timestamptz not null default clock_timestamp()
);
comment on column vault.cards.account_id is 'Merchant that brought the card: the only owner a method without payer has';
create index cards_number_mac on vault.cards (number_mac);

-- Lists of the front go by merchant and time.
drop index oltp.customers_account_id;
create index customers_account_id on oltp.customers (account_id, created, id);
create index payment_intents_account_id on oltp.payment_intents (account_id, created, id);
create index charges_account_id on oltp.charges (account_id, created, id);
create index events_account_id on oltp.events (account_id, created, id);
create index products_account_id on oltp.products (account_id);
create index subscriptions_account_id on oltp.subscriptions (account_id);
create index invoices_account_id on oltp.invoices (account_id);
create index webhook_endpoints_account_id on oltp.webhook_endpoints (account_id);
create index webhook_deliveries_due on oltp.webhook_deliveries (next_attempt_at) where status = 'pending';

-- A request's id reaches the events it makes without passing through every function in between.
alter table oltp.events alter column request_id set default nullif(current_setting('api.request_id', true), '');

-- First statement of a request: who else uses the key is told at once, and the lock falls with the connection.
create function payments.open_request(
    p_account text, p_key text, p_hash bytea, p_request text, out state text, out status smallint, out body bytea
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    kept oltp.idempotency_keys;
begin
    perform set_config('api.request_id', p_request, true);
    state := 'new';
    if p_key is null then
        return;
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended(p_account || ' ' || p_key, 7220005)) then
        state := 'busy';
        return;
    end if;
    select * into kept from oltp.idempotency_keys k
    where k.account_id = p_account and k.key = p_key and k.expires_at >= clock_timestamp();
    if kept.params_hash <> p_hash then
        state := 'other';
    elsif kept.response_ciphertext is not null then
        state := 'kept';
        status := kept.response_code;
        body := kept.response_ciphertext;
    end if;
end $$;
comment on function payments.open_request is 'new, busy, other (same key, other parameters) or kept with the first answer';

-- Last statement of a request, in the transaction of what it did: both stand or neither.
create function payments.keep_answer(
    p_account text, p_key text, p_hash bytea, p_operation text, p_status smallint, p_body bytea
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into oltp.idempotency_keys as k (account_id, key, params_hash, operation, response_code, response_ciphertext)
    values (p_account, p_key, p_hash, p_operation, p_status, p_body)
    on conflict (account_id, key) do update set params_hash = excluded.params_hash,
        response_code = excluded.response_code, response_ciphertext = excluded.response_ciphertext,
        operation = case when k.params_hash = excluded.params_hash then k.operation else excluded.operation end,
        answer = case when k.params_hash = excluded.params_hash then k.answer end,
        created = case when k.expires_at < clock_timestamp() then excluded.created else k.created end,
        expires_at = case when k.expires_at < clock_timestamp() then excluded.expires_at else k.expires_at end;
end $$;

-- Events go out to whoever listens, noted in the transaction that made them. Events and endpoints that Stripe owns
-- (`api_version`, `ingest.versions`) were delivered by Stripe.
create function ops.fan_out_events() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from fresh e join oltp.webhook_endpoints w on w.account_id = e.account_id) then
        return null;  -- most merchants poll: the join below is three times this one
    end if;
    insert into oltp.webhook_deliveries (webhook_endpoint_id, event_id, event_type, attempt, status, next_attempt_at)
    select w.id, e.id, e.type, 1, 'pending', clock_timestamp()
    from fresh e join oltp.webhook_endpoints w on w.account_id = e.account_id
    where e.api_version is null and e.created > clock_timestamp() - interval '3 days'
    and w.status = 'enabled' and not w.deleted and w.secret_ciphertext is not null
    and ('*' = any (w.enabled_events) or e.type = any (w.enabled_events))
    and not exists (select 1 from ingest.versions v where v.kind = 'webhook_endpoint' and v.object_id = w.id);
    return null;
end $$;
create trigger fan_out after insert on oltp.events referencing new table as fresh
for each statement execute function ops.fan_out_events();

create function ops.lookup_changed() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('lookup_changed', tg_table_name);
    return null;
end $$;
comment on function ops.lookup_changed is 'Tells caches, after commit, which table they must read anew';
create trigger lookup_changed after insert or update or delete on oltp.currencies
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after insert or update or delete on oltp.countries
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after insert or update or delete on oltp.fee_policies
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after update or delete on oltp.accounts
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after update or delete on oltp.payment_methods
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after update of account_id, deleted or delete on oltp.customers
for each statement execute function ops.lookup_changed();
create trigger lookup_changed after update of expires_at, revoked_at, scopes or delete on ops.api_keys
for each statement execute function ops.lookup_changed();
