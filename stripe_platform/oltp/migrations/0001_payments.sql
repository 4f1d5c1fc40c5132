-- Payments core, third normal form, Stripe's field names. Money is bigint minor units + lowercase currency.
-- Ids are text: Stripe's prefix and a uuidv7, so that ids order by time and large tables are partitioned by id:
-- a primary key on the id alone stays possible, and foreign keys need no second column.

create schema oltp;

create table oltp.currencies (
    code text primary key check (code ~ '^[a-z]{3}$'),
    name text not null,
    stripe_exponent smallint not null check (stripe_exponent in (0, 2, 3)),
    iso_exponent smallint not null check (iso_exponent between 0 and 4),
    payout_multiple integer not null default 1 check (payout_multiple > 0)
);
comment on column oltp.currencies.stripe_exponent is 'Decimal digits of the minor unit as Stripe sends it';

create table oltp.countries (
    code text primary key check (code ~ '^[A-Z]{2}$'),
    name text not null,
    region text not null,
    currency text not null references oltp.currencies
);

create table oltp.exchange_rates (
    day date not null check (isfinite(day)),
    from_currency text not null references oltp.currencies,
    to_currency text not null references oltp.currencies,
    rate numeric(20, 10) not null check (rate > 0 and rate < 'Infinity'),
    primary key (day, from_currency, to_currency)
);
comment on column oltp.exchange_rates.rate is 'Major units of to_currency for one major unit of from_currency';

create table oltp.accounts (
    id text collate "C" primary key check (id like 'acct\_%'),
    type text not null check (type in ('custom', 'express', 'none', 'standard')),
    country text not null references oltp.countries,
    default_currency text not null references oltp.currencies,
    business_type text not null check (business_type in ('company', 'government_entity', 'individual', 'non_profit')),
    mcc text not null check (mcc ~ '^[0-9]{4}$'),
    name text not null,
    charges_enabled boolean not null default true,
    payouts_enabled boolean not null default true,
    token text not null unique,
    created timestamptz not null check (isfinite(created))
);
comment on column oltp.accounts.token is 'Random name under which the merchant is known outside the OLTP';

create table oltp.terminals (
    id text collate "C" primary key check (id like 'tmr\_%'),
    account_id text collate "C" not null references oltp.accounts,
    label text not null,
    device_type text not null check (device_type in ('pos', 'web', 'mobile_app')),
    country text not null references oltp.countries,
    latitude numeric(8, 5) not null check (latitude between -90 and 90),
    longitude numeric(8, 5) not null check (longitude between -180 and 180),
    created timestamptz not null check (isfinite(created)),
    unique (id, account_id)
);
create index terminals_account_id on oltp.terminals (account_id);

create table oltp.customers (
    id text collate "C" primary key check (id like 'cus\_%'),
    account_id text collate "C" references oltp.accounts,
    country text not null references oltp.countries,
    currency text not null references oltp.currencies,
    name_ciphertext bytea,
    email_ciphertext bytea,
    delinquent boolean not null default false,
    deleted boolean not null default false,
    token text not null unique,
    created timestamptz not null check (isfinite(created))
);
comment on column oltp.customers.token is 'Random name under which the payer is known outside the OLTP';
comment on column oltp.customers.account_id is 'Merchant that owns the record; null for payers known to the platform';
create index customers_account_id on oltp.customers (account_id);

create table oltp.payment_methods (
    id text collate "C" primary key check (id like 'pm\_%'),
    customer_id text collate "C" not null references oltp.customers,
    type text not null check (type in ('card')),
    card_brand text not null check (card_brand in ('amex', 'diners', 'discover', 'jcb', 'mastercard', 'unionpay', 'visa')),
    card_last4 text not null check (card_last4 ~ '^[0-9]{4}$'),
    card_exp_month smallint not null check (card_exp_month between 1 and 12),
    card_exp_year smallint not null check (card_exp_year between 2000 and 2100),
    card_funding text not null check (card_funding in ('credit', 'debit', 'prepaid', 'unknown')),
    card_country text not null references oltp.countries,
    card_fingerprint text not null unique,
    created timestamptz not null check (isfinite(created)),
    unique (id, customer_id)
);
comment on column oltp.payment_methods.card_fingerprint is 'Random token of the card; never a digest of its number';
create index payment_methods_customer_id on oltp.payment_methods (customer_id);

create table oltp.payment_intents (
    id text collate "C" primary key check (id like 'pi\_%'),
    account_id text collate "C" not null references oltp.accounts,
    customer_id text collate "C" not null references oltp.customers,
    payment_method_id text collate "C",
    amount bigint not null,
    amount_received bigint not null default 0,
    currency text not null references oltp.currencies,
    status text not null check (status in (
        'requires_payment_method', 'requires_confirmation', 'requires_action', 'processing', 'requires_capture',
        'canceled', 'succeeded')),
    capture_method text not null default 'automatic' check (capture_method in ('automatic', 'automatic_async', 'manual')),
    created timestamptz not null check (isfinite(created)),
    constraint received_within_amount check (amount_received between 0 and amount),
    constraint intents_card_is_the_payers foreign key (payment_method_id, customer_id)
    references oltp.payment_methods (id, customer_id),
    unique (id, account_id, customer_id, currency)
) partition by range (id);

-- The composite keys hold more than single ones, with fewer look-ups per row: a charge has its intent's merchant, payer and
-- currency, its card is the payer's and its terminal the merchant's.
create table oltp.charges (
    id text collate "C" primary key check (id like 'ch\_%'),
    payment_intent_id text collate "C" not null,
    account_id text collate "C" not null,
    customer_id text collate "C" not null,
    payment_method_id text collate "C" not null,
    terminal_id text collate "C",
    amount bigint not null,
    amount_captured bigint not null,
    amount_refunded bigint not null default 0,
    currency text not null,
    status text not null check (status in ('failed', 'pending', 'succeeded')),
    disputed boolean not null default false,
    failure_code text,
    device_type text not null check (device_type in ('desktop', 'mobile', 'pos', 'tablet')),
    ip_country text check (ip_country ~ '^[A-Z0-9]{2}$'),
    created timestamptz not null check (isfinite(created)),
    constraint captured_within_amount check (amount_captured between 0 and amount),
    constraint refunded_within_captured check (amount_refunded between 0 and amount_captured),
    constraint failed_has_failure_code check ((status = 'failed') = (failure_code is not null)),
    constraint only_succeeded_captures check (status = 'succeeded' or amount_captured = 0),
    constraint charge_matches_its_intent foreign key (payment_intent_id, account_id, customer_id, currency)
    references oltp.payment_intents (id, account_id, customer_id, currency),
    constraint card_is_the_payers foreign key (payment_method_id, customer_id)
    references oltp.payment_methods (id, customer_id),
    constraint terminal_is_the_merchants foreign key (terminal_id, account_id) references oltp.terminals (id, account_id)
) partition by range (id);
comment on column oltp.charges.ip_country is 'As the geolocation gave it; may name a territory that countries lacks';
create index charges_payment_intent_id on oltp.charges (payment_intent_id);
create index charges_customer_id on oltp.charges (customer_id, created);

create table oltp.charge_outcomes (
    charge_id text collate "C" primary key references oltp.charges,
    type text not null check (type in ('authorized', 'blocked', 'invalid', 'issuer_declined', 'manual_review')),
    network_status text not null check (network_status in (
        'approved_by_network', 'declined_by_network', 'not_sent_to_network', 'reversed_after_approval')),
    reason text,
    risk_level text not null check (risk_level in ('elevated', 'highest', 'normal', 'not_assessed', 'unknown')),
    risk_score smallint check (risk_score between 0 and 100)
) partition by range (charge_id);

create table oltp.refunds (
    id text collate "C" primary key check (id like 're\_%'),
    charge_id text collate "C" not null references oltp.charges,
    amount bigint not null check (amount > 0),
    currency text not null references oltp.currencies,
    status text not null check (status in ('canceled', 'failed', 'pending', 'requires_action', 'succeeded')),
    reason text check (reason in ('duplicate', 'expired_uncaptured_charge', 'fraudulent', 'requested_by_customer')),
    created timestamptz not null check (isfinite(created))
);
create index refunds_charge_id on oltp.refunds (charge_id);

create table oltp.disputes (
    id text collate "C" primary key check (id like 'dp\_%'),
    charge_id text collate "C" not null references oltp.charges,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    status text not null check (status in (
        'lost', 'needs_response', 'prevented', 'under_review', 'warning_closed', 'warning_needs_response',
        'warning_under_review', 'won')),
    reason text not null check (reason in (
        'bank_cannot_process', 'check_returned', 'credit_not_processed', 'customer_initiated', 'debit_not_authorized',
        'duplicate', 'fraudulent', 'general', 'incorrect_account_details', 'insufficient_funds',
        'noncompliant', 'product_not_received', 'product_unacceptable', 'subscription_canceled', 'unrecognized')),
    created timestamptz not null check (isfinite(created))
);
create index disputes_charge_id on oltp.disputes (charge_id);

create table oltp.early_fraud_warnings (
    id text collate "C" primary key check (id like 'issfr\_%'),
    charge_id text collate "C" not null references oltp.charges,
    fraud_type text not null check (fraud_type in (
        'card_never_received', 'fraudulent_card_application', 'made_with_counterfeit_card', 'made_with_lost_card',
        'made_with_stolen_card', 'misc', 'unauthorized_use_of_card')),
    actionable boolean not null,
    created timestamptz not null check (isfinite(created))
);
create index early_fraud_warnings_charge_id on oltp.early_fraud_warnings (charge_id);

create table oltp.fraud_assessments (
    charge_id text collate "C" not null references oltp.charges,
    model_version text not null,
    score double precision not null check (score between 0 and 1),
    decision text not null check (decision in ('allow', 'block', 'review')),
    assessed_at timestamptz not null check (isfinite(assessed_at)),
    primary key (charge_id, model_version)
);
comment on column oltp.fraud_assessments.assessed_at is 'Business time of the assessment, not the clock of the writer';

-- Not a table of the business: which calendar days are closed. In the publication, because its rows are the
-- boundaries that cut the change stream into ledger days.
create schema if not exists ops;

create table ops.day_ledger (
    source text not null,
    day date not null check (isfinite(day)),
    primary key (source, day)
);

create table ops.load_day (
    source_digest text not null,
    day date not null,
    rows bigint not null,
    quarantined bigint not null,
    loaded_at timestamptz not null default clock_timestamp(),
    primary key (source_digest, day)
);

create table ops.quarantine (
    id text collate "C" primary key,
    source text not null,
    record text not null,
    rule text not null,
    reason text not null,
    payload_ciphertext bytea,
    seen_at timestamptz not null default clock_timestamp()
);
comment on column ops.quarantine.record is 'Where the record stands: file and row, or message id; never its values';

create function ops.day_must_follow() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select 1 from ops.day_ledger l where l.source = new.source and l.day >= new.day) then
        raise exception 'day % of % does not follow the last closed day: days close once, in order', new.day, new.source;
    end if;
    return new;
end $$;
create trigger day_must_follow before insert on ops.day_ledger for each row execute function ops.day_must_follow();

-- One data key per subject, wrapped by the key ring; deleting the row makes the subject's ciphertext unreadable.
-- Never in the publication.
create schema vault;

create table vault.subject_keys (
    id bytea primary key check (octet_length(id) = 16),
    subject text not null,
    wrapped bytea not null,
    created timestamptz not null default clock_timestamp()
);
create index subject_keys_subject on vault.subject_keys (subject);

-- Partitions are made ahead of their month by whoever loads or closes days. The loader has no DDL: this function of the
-- owner is the one thing it may make. A month whose rows already stand in the default partition stays there.
create table oltp.payment_intents_default partition of oltp.payment_intents default;
create table oltp.charges_default partition of oltp.charges default;
create table oltp.charge_outcomes_default partition of oltp.charge_outcomes default;

create function ops.make_partitions(first_day date, last_day date) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    family record;
    month timestamp;
    lower_id text;
    upper_id text;
    taken boolean;
    made integer := 0;
begin
    if last_day < first_day or last_day > first_day + 3660 then
        raise exception 'partitions from % to %: the range must run forward and span at most ten years', first_day, last_day;
    end if;
    perform pg_advisory_xact_lock(hashtext('ops.make_partitions'));
    for family in select * from (values
        ('payment_intents', 'id', 'pi_'), ('charges', 'id', 'ch_'), ('charge_outcomes', 'charge_id', 'ch_')
    ) as f (tbl, col, prefix) loop
        for month in select generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, '1 month') loop
            continue when to_regclass(format('oltp.%I', family.tbl || to_char(month, '"_"YYYY"_"MM'))) is not null;
            lower_id := family.prefix || lpad(to_hex((extract(epoch from month) * 1000)::bigint), 12, '0');
            upper_id := family.prefix || lpad(to_hex((extract(epoch from month + interval '1 month') * 1000)::bigint), 12, '0');
            execute format('select exists (select 1 from oltp.%I where %I >= $1 and %I < $2)',
                family.tbl || '_default', family.col, family.col) into taken using lower_id, upper_id;
            continue when taken;
            execute format('create table oltp.%I partition of oltp.%I for values from (%L) to (%L)',
                family.tbl || to_char(month, '"_"YYYY"_"MM'), family.tbl, lower_id, upper_id);
            made := made + 1;
        end loop;
    end loop;
    return made;
end $$;
