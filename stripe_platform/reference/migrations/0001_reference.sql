-- What the whole company looks up: regions and countries, currencies and their rates, merchants, the product catalogue.
-- Source of truth for these: the payments database holds copies, fed by the change log. Checks are the copies' checks,
-- so that what stands here can be copied. Keys and tokens never change; `deleted` retires a row that others may name.

create schema reference;

create table reference.regions (
    code text collate "C" primary key check (code ~ '^[^ \t\n].{0,39}$'),
    name text not null,
    deleted boolean not null default false
);

create table reference.currencies (
    code text primary key check (code ~ '^[a-z]{3}$'),
    name text not null,
    stripe_exponent smallint not null check (stripe_exponent in (0, 2, 3)),
    iso_exponent smallint not null check (iso_exponent between 0 and 4),
    payout_multiple integer not null default 1 check (payout_multiple > 0),
    deleted boolean not null default false
);
comment on column reference.currencies.stripe_exponent is 'Decimal digits of the minor unit as Stripe sends it';

create table reference.countries (
    code text primary key check (code ~ '^[A-Z]{2}$'),
    name text not null,
    region text collate "C" not null references reference.regions,
    currency text not null references reference.currencies,
    deleted boolean not null default false
);
create index countries_region on reference.countries (region);
create index countries_currency on reference.countries (currency);

create table reference.exchange_rates (
    day date not null check (isfinite(day)),
    from_currency text not null references reference.currencies,
    to_currency text not null references reference.currencies,
    rate numeric(20, 10) not null check (rate > 0 and rate < 'Infinity'),
    primary key (day, from_currency, to_currency)
);
comment on column reference.exchange_rates.rate is 'Major units of to_currency for one major unit of from_currency';

create table reference.merchants (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    type text check (type in ('custom', 'express', 'none', 'standard')),
    country text references reference.countries,
    default_currency text references reference.currencies,
    business_type text check (business_type in ('company', 'government_entity', 'individual', 'non_profit')),
    mcc text check (mcc ~ '^[0-9]{4}$'),
    name text,
    url text,
    token text not null unique,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
comment on table reference.merchants is 'Who a merchant is; whether it may charge and pay out is the payments database''s';
comment on column reference.merchants.token is 'Random name under which the merchant is known outside';

create table reference.products (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    merchant_id text collate "C" references reference.merchants,
    name text,
    category text,
    type text,
    active boolean not null default true,
    tax_code text,
    unit_label text,
    shippable boolean,
    url text,
    statement_descriptor text,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create index products_merchant_id on reference.products (merchant_id);

create function reference.name_stays() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the key of %.% never changes: retire the row and add another', tg_table_schema, tg_table_name;
end $$;
create function reference.rows_go_one_by_one() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '%.% is not truncated: its rows are retired one by one', tg_table_schema, tg_table_name;
end $$;
create trigger name_stays before update of code on reference.regions for each row
when (old.code is distinct from new.code) execute function reference.name_stays();
create trigger name_stays before update of code on reference.currencies for each row
when (old.code is distinct from new.code) execute function reference.name_stays();
create trigger name_stays before update of code on reference.countries for each row
when (old.code is distinct from new.code) execute function reference.name_stays();
create trigger name_stays before update of day, from_currency, to_currency on reference.exchange_rates for each row
when ((old.day, old.from_currency, old.to_currency) is distinct from (new.day, new.from_currency, new.to_currency))
execute function reference.name_stays();
create trigger name_stays before update of id, token on reference.merchants for each row
when ((old.id, old.token) is distinct from (new.id, new.token)) execute function reference.name_stays();
create trigger name_stays before update of id on reference.products for each row
when (old.id is distinct from new.id) execute function reference.name_stays();
do $$
declare
    tbl text;
begin
    foreach tbl in array array['regions', 'currencies', 'countries', 'exchange_rates', 'merchants', 'products'] loop
        execute format('create trigger rows_go_one_by_one before truncate on reference.%I'
            ' execute function reference.rows_go_one_by_one()', tbl);
    end loop;
end $$;

-- Taken over from a payments database that held these rows before: once.
create table ops.filled (
    source text primary key,
    rows bigint not null,
    filled_at timestamptz not null default clock_timestamp()
);

-- Work that began here and goes on in the payments database: written with the rows it belongs to, done later, once.
create table ops.outbox (
    id uuid primary key default gen_random_uuid(),
    position bigint generated always as identity unique,
    kind text not null,
    payload jsonb not null,
    created timestamptz not null default clock_timestamp(),
    done_at timestamptz
);
create index outbox_waiting on ops.outbox (position) where done_at is null;
