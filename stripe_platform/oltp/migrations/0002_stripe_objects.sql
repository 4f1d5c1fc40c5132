-- Every object of Stripe's payments, billing, connect and risk surface has its table, with Stripe's own names; a relation
-- `x` is the column `x_id`. What arrives from Stripe may be older than nine years: facts that old versions lack are
-- nullable, states are closed lists (a state machine stands on them), descriptions are open text.
-- Personal data and free text are `*_ciphertext`. Hot tables stay narrow: rare facts of charges and intents have tables
-- of their own (`charge_details`, `charge_cards`, `payment_intent_details`), filled only where there is something to say.

-- What Stripe leaves out of its objects, we must accept: guests, charges older than intents, methods without a card.
alter table oltp.accounts
    drop constraint accounts_id_check, drop constraint accounts_type_check, drop constraint accounts_business_type_check,
    alter column type drop not null, alter column country drop not null, alter column default_currency drop not null,
    alter column business_type drop not null, alter column mcc drop not null, alter column name drop not null,
    alter column created drop not null,
    add column details_submitted boolean not null default true,
    add column url text,
    add column email_ciphertext bytea,
    add column metadata_ciphertext bytea,
    add column deleted boolean not null default false,
    add constraint accounts_type_check check (type in ('custom', 'express', 'none', 'standard')),
    add constraint accounts_business_type_check
    check (business_type in ('company', 'government_entity', 'individual', 'non_profit')),
    add constraint accounts_id_check check (id ~ '^[^ \t\n]{1,255}$');

create table oltp.capabilities (
    account_id text collate "C" not null references oltp.accounts,
    name text collate "C" not null,
    status text not null check (status in ('active', 'disabled', 'inactive', 'pending', 'unrequested')),
    requested boolean,
    requested_at timestamptz check (isfinite(requested_at)),
    primary key (account_id, name)
);

create table oltp.bank_accounts (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    customer_id text collate "C" references oltp.customers,
    kind text not null check (kind in ('bank_account', 'card')),
    bank_name text,
    brand text,
    country text references oltp.countries,
    currency text references oltp.currencies,
    funding text,
    last4 text check (last4 ~ '^[0-9A-Za-z]{1,4}$'),
    exp_month smallint check (exp_month between 1 and 12),
    exp_year smallint check (exp_year between 1970 and 2200),
    holder_type text,
    holder_name_ciphertext bytea,
    fingerprint text,
    status text,
    default_for_currency boolean,
    metadata_ciphertext bytea,
    deleted boolean not null default false
);
comment on table oltp.bank_accounts is 'External accounts and legacy sources: where payouts go and charges came from';
create index bank_accounts_account_id on oltp.bank_accounts (account_id);

alter table oltp.customers
    drop constraint customers_id_check,
    alter column country drop not null, alter column currency drop not null, alter column created drop not null,
    add constraint only_deleted_lack_created check (created is not null or deleted),
    add column phone_ciphertext bytea,
    add column address_ciphertext bytea,
    add column description_ciphertext bytea,
    add column metadata_ciphertext bytea,
    add column balance bigint not null default 0,
    add column tax_exempt text check (tax_exempt in ('exempt', 'none', 'reverse')),
    add column invoice_prefix text,
    add column default_payment_method_id text collate "C",
    add column livemode boolean not null default false,
    add constraint customers_id_check check (id ~ '^[^ \t\n]{1,255}$');

alter table oltp.payment_methods
    drop constraint payment_methods_id_check, drop constraint payment_methods_type_check,
    drop constraint payment_methods_card_brand_check, drop constraint payment_methods_card_fingerprint_key,
    drop constraint payment_methods_card_exp_year_check,
    alter column customer_id drop not null, alter column card_brand drop not null, alter column card_last4 drop not null,
    alter column card_exp_month drop not null, alter column card_exp_year drop not null,
    alter column card_funding drop not null, alter column card_country drop not null,
    alter column card_fingerprint drop not null,
    add column name_ciphertext bytea,
    add column email_ciphertext bytea,
    add column phone_ciphertext bytea,
    add column address_ciphertext bytea,
    add column metadata_ciphertext bytea,
    add column allow_redisplay text,
    add column livemode boolean not null default false,
    add column detached boolean not null default false,
    add constraint payment_methods_id_check check (id ~ '^[^ \t\n]{1,255}$'),
    add constraint payment_methods_card_exp_year_check check (card_exp_year between 1970 and 2200);
create index payment_methods_card_fingerprint on oltp.payment_methods (card_fingerprint);
alter table oltp.customers add constraint customers_default_payment_method
foreign key (default_payment_method_id) references oltp.payment_methods;

create table oltp.payment_method_cards (
    payment_method_id text collate "C" primary key references oltp.payment_methods,
    iin text check (iin ~ '^[0-9]{6,8}$'),
    issuer text,
    network_preferred text,
    wallet_type text,
    three_d_secure_supported boolean,
    cvc_check text,
    address_line1_check text,
    address_postal_code_check text
);

create table oltp.mandates (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    payment_method_id text collate "C" references oltp.payment_methods,
    type text,
    status text not null check (status in ('active', 'inactive', 'pending')),
    acceptance_type text,
    accepted_at timestamptz check (isfinite(accepted_at)),
    ip_ciphertext bytea,
    user_agent_ciphertext bytea,
    livemode boolean not null default false
);

-- Where and with what a payer acted. Addresses are personal data: what stays clear is the region.
create table oltp.locations (
    id text collate "C" primary key check (id like 'loc\_%'),
    ip_ciphertext bytea,
    country text references oltp.countries,
    region text,
    city text,
    postal_code text,
    latitude numeric(8, 5) check (latitude between -90 and 90),
    longitude numeric(8, 5) check (longitude between -180 and 180),
    created timestamptz not null check (isfinite(created))
);

create table oltp.devices (
    id text collate "C" primary key check (id like 'dev\_%'),
    customer_id text collate "C" references oltp.customers,
    type text not null check (type in ('desktop', 'mobile', 'pos', 'tablet', 'other')),
    platform text,
    browser text,
    token text not null unique,
    created timestamptz not null check (isfinite(created))
);
create index devices_customer_id on oltp.devices (customer_id);

create table oltp.setup_intents (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    customer_id text collate "C" references oltp.customers,
    payment_method_id text collate "C" references oltp.payment_methods,
    mandate_id text collate "C" references oltp.mandates,
    status text not null check (status in (
        'requires_payment_method', 'requires_confirmation', 'requires_action', 'processing', 'canceled', 'succeeded')),
    usage text,
    cancellation_reason text,
    last_setup_error_code text,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);

alter table oltp.payment_intents
    drop constraint payment_intents_id_check,
    alter column account_id drop not null, alter column customer_id drop not null,
    add constraint payment_intents_id_check check (id ~ '^[^ \t\n]{1,255}$');

create table oltp.payment_intent_details (
    payment_intent_id text collate "C" primary key references oltp.payment_intents,
    confirmation_method text,
    setup_future_usage text,
    cancellation_reason text,
    canceled_at timestamptz check (isfinite(canceled_at)),
    last_payment_error_type text,
    last_payment_error_code text,
    last_payment_error_decline_code text,
    next_action_type text,
    on_behalf_of_id text collate "C" references oltp.accounts,
    transfer_destination_id text collate "C" references oltp.accounts,
    transfer_group text,
    application_fee_amount bigint check (application_fee_amount >= 0),
    invoice_id text collate "C",
    review_id text collate "C",
    latest_charge_id text collate "C",
    receipt_email_ciphertext bytea,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false
);

-- A guest's charge names no payer, one older than intents no intent. The composite keys are silent where a column is
-- null (MATCH SIMPLE), so those rows alone pay for keys of their own.
alter table oltp.charges
    drop constraint charges_id_check,
    drop constraint failed_has_failure_code, drop constraint only_succeeded_captures,
    alter column payment_intent_id drop not null, alter column account_id drop not null,
    alter column customer_id drop not null, alter column payment_method_id drop not null,
    alter column device_type drop not null,
    add constraint charges_id_check check (id ~ '^[^ \t\n]{1,255}$'),
    add constraint failed_has_failure_code check (status <> 'failed' or failure_code is not null),
    add constraint failure_code_only_if_failed check (status <> 'succeeded' or failure_code is null),
    add constraint only_succeeded_captures check (status = 'succeeded' or amount_captured = 0);

create table oltp.charge_details (
    charge_id text collate "C" primary key references oltp.charges,
    balance_transaction_id text collate "C",
    failure_balance_transaction_id text collate "C",
    application_fee_id text collate "C",
    application_fee_amount bigint check (application_fee_amount >= 0),
    transfer_id text collate "C",
    transfer_group text,
    on_behalf_of_id text collate "C" references oltp.accounts,
    review_id text collate "C",
    invoice_id text collate "C",
    bank_account_id text collate "C" references oltp.bank_accounts,
    location_id text collate "C" references oltp.locations,
    device_id text collate "C" references oltp.devices,
    tax_amount bigint check (tax_amount >= 0),
    tax_currency text references oltp.currencies,
    captured boolean,
    paid boolean,
    failure_message text,
    statement_descriptor text,
    receipt_email_ciphertext bytea,
    billing_ciphertext bytea,
    shipping_ciphertext bytea,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    constraint tax_has_currency check ((tax_amount is null) = (tax_currency is null))
);
comment on column oltp.charge_details.tax_amount is 'Tax contained in the charge, minor units of tax_currency';

create table oltp.charge_cards (
    charge_id text collate "C" primary key references oltp.charges,
    brand text,
    country text,
    funding text,
    last4 text check (last4 ~ '^[0-9]{4}$'),
    exp_month smallint check (exp_month between 1 and 12),
    exp_year smallint check (exp_year between 1970 and 2200),
    fingerprint text,
    network text,
    authorization_code_ciphertext bytea,
    cvc_check text,
    address_line1_check text,
    address_postal_code_check text,
    three_d_secure_result text,
    three_d_secure_version text,
    three_d_secure_eci text,
    three_d_secure_exemption text,
    wallet_type text,
    amount_authorized bigint check (amount_authorized >= 0)
);

alter table oltp.charge_outcomes
    alter column network_status drop not null, alter column risk_level drop not null;
create table oltp.charge_outcome_details (
    charge_id text collate "C" primary key references oltp.charges,
    rule_id text,
    advice_code text,
    network_decline_code text,
    network_advice_code text
);
comment on table oltp.charge_outcome_details is 'What a network or rule added to an outcome; most charges have none';

alter table oltp.refunds
    drop constraint refunds_id_check,
    alter column charge_id drop not null,
    add column payment_intent_id text collate "C" references oltp.payment_intents,
    add column balance_transaction_id text collate "C",
    add column failure_balance_transaction_id text collate "C",
    add column failure_reason text,
    add column metadata_ciphertext bytea,
    add constraint refunds_id_check check (id ~ '^[^ \t\n]{1,255}$');

alter table oltp.disputes
    drop constraint disputes_id_check, drop constraint disputes_status_check,
    alter column charge_id drop not null, alter column reason drop not null,
    add column payment_intent_id text collate "C" references oltp.payment_intents,
    add column case_type text,
    add column network_reason_code text,
    add column evidence_due_by timestamptz check (isfinite(evidence_due_by)),
    add column evidence_has boolean,
    add column evidence_past_due boolean,
    add column evidence_submissions integer check (evidence_submissions >= 0),
    add column is_charge_refundable boolean,
    add column metadata_ciphertext bytea,
    add column livemode boolean not null default false,
    add constraint disputes_id_check check (id ~ '^[^ \t\n]{1,255}$'),
    add constraint disputes_status_check check (status in (
        'appeal_needs_response', 'appeal_under_review', 'charge_refunded', 'lost', 'needs_response', 'prevented',
        'under_review', 'warning_closed', 'warning_needs_response', 'warning_under_review', 'won'));

alter table oltp.early_fraud_warnings
    drop constraint early_fraud_warnings_id_check,
    alter column charge_id drop not null, alter column actionable drop not null,
    add column payment_intent_id text collate "C" references oltp.payment_intents,
    add column livemode boolean not null default false,
    add constraint early_fraud_warnings_id_check check (id ~ '^[^ \t\n]{1,255}$');

create table oltp.reviews (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    charge_id text collate "C" references oltp.charges,
    payment_intent_id text collate "C" references oltp.payment_intents,
    open boolean not null,
    opened_reason text,
    closed_reason text,
    reason text,
    ip_ciphertext bytea,
    ip_country text,
    ip_region text,
    ip_city text,
    session_browser text,
    session_device text,
    session_platform text,
    billing_zip_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create index reviews_charge_id on oltp.reviews (charge_id);

create table oltp.payment_evaluations (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    action text,
    outcome text,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.payment_evaluation_signals (
    payment_evaluation_id text collate "C" not null references oltp.payment_evaluations,
    name text collate "C" not null,
    score numeric check (score between 0 and 100),
    risk_level text,
    evaluated_at timestamptz check (isfinite(evaluated_at)),
    primary key (payment_evaluation_id, name)
);

create table oltp.value_lists (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    alias text,
    name text,
    item_type text,
    created_by_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create table oltp.value_list_items (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    value_list_id text collate "C" references oltp.value_lists,
    value_ciphertext bytea,
    created_by_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);

-- Money truth: one row per movement of a merchant's balance. The ledger books it.
create table oltp.balance_transactions (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    source_id text collate "C",
    type text not null,
    reporting_category text not null,
    amount bigint not null,
    fee bigint not null,
    net bigint not null,
    currency text not null references oltp.currencies,
    exchange_rate numeric(20, 10) check (exchange_rate > 0 and exchange_rate < 'Infinity'),
    status text not null check (status in ('available', 'pending')),
    balance_type text not null default 'payments',
    available_on timestamptz not null check (isfinite(available_on)),
    created timestamptz not null check (isfinite(created)),
    constraint net_is_amount_less_fee check (net = amount - fee)
) partition by range (id);
comment on column oltp.balance_transactions.source_id is 'The object that moved the money: charge, refund, dispute, payout ...';
comment on column oltp.balance_transactions.exchange_rate is 'Settlement per presentment currency, where they differ';
create index balance_transactions_source_id on oltp.balance_transactions (source_id);
create index balance_transactions_account_id on oltp.balance_transactions (account_id, available_on);

create table oltp.fee_details (
    balance_transaction_id text collate "C" not null references oltp.balance_transactions,
    position smallint not null check (position >= 0),
    type text not null,
    amount bigint not null,
    currency text not null references oltp.currencies,
    primary key (balance_transaction_id, position)
) partition by range (balance_transaction_id);

create table oltp.payouts (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    bank_account_id text collate "C" references oltp.bank_accounts,
    amount bigint not null,
    currency text not null references oltp.currencies,
    status text not null check (status in ('canceled', 'failed', 'in_transit', 'paid', 'pending')),
    automatic boolean not null default true,
    method text,
    type text,
    source_type text,
    reconciliation_status text,
    arrival_date timestamptz check (isfinite(arrival_date)),
    failure_code text,
    trace_id_ciphertext bytea,
    balance_transaction_id text collate "C",
    failure_balance_transaction_id text collate "C",
    original_payout_id text collate "C" references oltp.payouts,
    reversed_by_id text collate "C" references oltp.payouts,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create index payouts_account_id on oltp.payouts (account_id, created);
create table oltp.payout_balance_transactions (
    balance_transaction_id text collate "C" primary key references oltp.balance_transactions,
    payout_id text collate "C" not null references oltp.payouts
);
comment on table oltp.payout_balance_transactions is 'Which payout paid a movement out: at most one, by key';
create index payout_balance_transactions_payout_id on oltp.payout_balance_transactions (payout_id);

create table oltp.transfers (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    destination_id text collate "C" references oltp.accounts,
    source_charge_id text collate "C" references oltp.charges,
    amount bigint not null,
    amount_reversed bigint not null default 0,
    currency text not null references oltp.currencies,
    balance_transaction_id text collate "C",
    destination_payment_id text collate "C",
    source_type text,
    transfer_group text,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created)),
    constraint reversed_within_transfer check (amount_reversed between 0 and amount)
);
create table oltp.transfer_reversals (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    transfer_id text collate "C" references oltp.transfers,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    balance_transaction_id text collate "C",
    source_refund_id text collate "C" references oltp.refunds,
    metadata_ciphertext bytea,
    created timestamptz not null check (isfinite(created))
);
create table oltp.application_fees (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    charge_id text collate "C" references oltp.charges,
    application text,
    amount bigint not null,
    amount_refunded bigint not null default 0,
    currency text not null references oltp.currencies,
    balance_transaction_id text collate "C",
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created)),
    constraint fee_refunded_within_fee check (amount_refunded between 0 and amount)
);
create table oltp.fee_refunds (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    application_fee_id text collate "C" references oltp.application_fees,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    balance_transaction_id text collate "C",
    metadata_ciphertext bytea,
    created timestamptz not null check (isfinite(created))
);
create table oltp.topups (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    status text not null check (status in ('canceled', 'failed', 'pending', 'reversed', 'succeeded')),
    balance_transaction_id text collate "C",
    failure_code text,
    expected_availability_date timestamptz check (isfinite(expected_availability_date)),
    transfer_group text,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.reserve_plans (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    type text,
    status text,
    percent numeric check (percent between 0 and 100),
    currency text references oltp.currencies,
    created_by text,
    disabled_at timestamptz check (isfinite(disabled_at)),
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.reserve_holds (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    reserve_plan_id text collate "C" references oltp.reserve_plans,
    source_charge_id text collate "C" references oltp.charges,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    reason text,
    source_type text,
    created_by text,
    release_after timestamptz check (isfinite(release_after)),
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.reserve_releases (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    reserve_plan_id text collate "C" references oltp.reserve_plans,
    reserve_hold_id text collate "C" references oltp.reserve_holds,
    amount bigint not null check (amount >= 0),
    currency text not null references oltp.currencies,
    reason text,
    created_by text,
    released_at timestamptz check (isfinite(released_at)),
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);

-- Catalogue and billing.
create table oltp.products (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    name text,
    category text,
    type text,
    active boolean not null default true,
    tax_code text,
    unit_label text,
    shippable boolean,
    url text,
    statement_descriptor text,
    default_price_id text collate "C",
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create table oltp.prices (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    product_id text collate "C" references oltp.products,
    active boolean not null default true,
    currency text references oltp.currencies,
    type text check (type in ('one_time', 'recurring')),
    billing_scheme text check (billing_scheme in ('per_unit', 'tiered')),
    unit_amount bigint check (unit_amount >= 0),
    unit_amount_decimal numeric check (unit_amount_decimal >= 0 and unit_amount_decimal < 'Infinity'),
    recurring_interval text check (recurring_interval in ('day', 'month', 'week', 'year')),
    recurring_interval_count integer check (recurring_interval_count > 0),
    usage_type text check (usage_type in ('licensed', 'metered')),
    tiers_mode text check (tiers_mode in ('graduated', 'volume')),
    tax_behavior text,
    trial_period_days integer check (trial_period_days >= 0),
    nickname text,
    lookup_key text,
    legacy_plan boolean not null default false,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
comment on column oltp.prices.unit_amount_decimal is 'Minor units where a price has fractions of them; never summed';
comment on column oltp.prices.legacy_plan is 'Arrived as a plan, the kind that prices replaced';
create index prices_product_id on oltp.prices (product_id);
alter table oltp.products add constraint products_default_price
foreign key (default_price_id) references oltp.prices;
create table oltp.price_tiers (
    price_id text collate "C" not null references oltp.prices,
    position smallint not null check (position >= 0),
    up_to bigint check (up_to > 0),
    unit_amount bigint,
    flat_amount bigint,
    unit_amount_decimal numeric,
    flat_amount_decimal numeric,
    primary key (price_id, position)
);
create table oltp.price_currency_options (
    price_id text collate "C" not null references oltp.prices,
    currency text not null references oltp.currencies,
    unit_amount bigint check (unit_amount >= 0),
    unit_amount_decimal numeric,
    tax_behavior text,
    primary key (price_id, currency)
);
create table oltp.coupons (
    id text collate "C" primary key check (id ~ '^[^\t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    name text,
    duration text check (duration in ('forever', 'once', 'repeating', 'variable')),
    duration_in_months integer check (duration_in_months > 0),
    percent_off numeric check (percent_off between 0 and 100),
    amount_off bigint check (amount_off >= 0),
    currency text references oltp.currencies,
    max_redemptions integer,
    times_redeemed integer,
    redeem_by timestamptz check (isfinite(redeem_by)),
    valid boolean,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created)),
    constraint amount_off_has_currency check (amount_off is null or currency is not null)
);
create table oltp.promotion_codes (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    coupon_id text collate "C" references oltp.coupons,
    customer_id text collate "C" references oltp.customers,
    code text,
    active boolean,
    max_redemptions integer,
    times_redeemed integer,
    expires_at timestamptz check (isfinite(expires_at)),
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.subscriptions (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    customer_id text collate "C" references oltp.customers,
    default_payment_method_id text collate "C" references oltp.payment_methods,
    latest_invoice_id text collate "C",
    status text not null check (status in (
        'active', 'canceled', 'incomplete', 'incomplete_expired', 'past_due', 'paused', 'trialing', 'unpaid')),
    collection_method text,
    currency text references oltp.currencies,
    billing_cycle_anchor timestamptz check (isfinite(billing_cycle_anchor)),
    start_date timestamptz check (isfinite(start_date)),
    trial_start timestamptz check (isfinite(trial_start)),
    trial_end timestamptz check (isfinite(trial_end)),
    cancel_at timestamptz check (isfinite(cancel_at)),
    cancel_at_period_end boolean not null default false,
    canceled_at timestamptz check (isfinite(canceled_at)),
    ended_at timestamptz check (isfinite(ended_at)),
    cancellation_reason text,
    cancellation_feedback text,
    pause_behavior text,
    resumes_at timestamptz check (isfinite(resumes_at)),
    days_until_due integer,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create index subscriptions_customer_id on oltp.subscriptions (customer_id);
create table oltp.subscription_items (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    subscription_id text collate "C" references oltp.subscriptions,
    price_id text collate "C" references oltp.prices,
    quantity bigint check (quantity >= 0),
    current_period_start timestamptz check (isfinite(current_period_start)),
    current_period_end timestamptz check (isfinite(current_period_end)),
    metadata_ciphertext bytea,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create index subscription_items_subscription_id on oltp.subscription_items (subscription_id);
create table oltp.invoices (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    customer_id text collate "C" references oltp.customers,
    subscription_id text collate "C" references oltp.subscriptions,
    number text,
    status text check (status in ('draft', 'open', 'paid', 'uncollectible', 'void')),
    billing_reason text,
    collection_method text,
    currency text references oltp.currencies,
    amount_due bigint,
    amount_paid bigint,
    amount_remaining bigint,
    amount_overpaid bigint,
    subtotal bigint,
    tax bigint,
    total bigint,
    starting_balance bigint,
    ending_balance bigint,
    attempt_count integer check (attempt_count >= 0),
    attempted boolean,
    auto_advance boolean,
    next_payment_attempt timestamptz check (isfinite(next_payment_attempt)),
    due_date timestamptz check (isfinite(due_date)),
    period_start timestamptz check (isfinite(period_start)),
    period_end timestamptz check (isfinite(period_end)),
    finalized_at timestamptz check (isfinite(finalized_at)),
    paid_at timestamptz check (isfinite(paid_at)),
    voided_at timestamptz check (isfinite(voided_at)),
    marked_uncollectible_at timestamptz check (isfinite(marked_uncollectible_at)),
    customer_ciphertext bytea,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create index invoices_customer_id on oltp.invoices (customer_id, created);
create index invoices_subscription_id on oltp.invoices (subscription_id);
alter table oltp.subscriptions add constraint subscriptions_latest_invoice
foreign key (latest_invoice_id) references oltp.invoices;
create table oltp.invoice_previews (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    customer_id text collate "C" references oltp.customers,
    subscription_id text collate "C" references oltp.subscriptions,
    currency text references oltp.currencies,
    amount_due bigint,
    subtotal bigint,
    tax bigint,
    total bigint,
    starting_balance bigint,
    ending_balance bigint,
    next_payment_attempt timestamptz check (isfinite(next_payment_attempt)),
    period_start timestamptz check (isfinite(period_start)),
    period_end timestamptz check (isfinite(period_end)),
    livemode boolean not null default false,
    created timestamptz check (isfinite(created))
);
comment on table oltp.invoice_previews is
'Bills as Stripe foresees them: one a subscription or payer, the newest; never among invoices, for nobody owes them';
create table oltp.invoice_items (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    customer_id text collate "C" references oltp.customers,
    invoice_id text collate "C" references oltp.invoices,
    subscription_id text collate "C" references oltp.subscriptions,
    price_id text collate "C" references oltp.prices,
    amount bigint,
    currency text references oltp.currencies,
    quantity bigint,
    proration boolean,
    period_start timestamptz check (isfinite(period_start)),
    period_end timestamptz check (isfinite(period_end)),
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create table oltp.invoice_lines (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    invoice_id text collate "C" references oltp.invoices,
    subscription_item_id text collate "C" references oltp.subscription_items,
    invoice_item_id text collate "C" references oltp.invoice_items,
    price_id text collate "C" references oltp.prices,
    type text,
    amount bigint not null,
    subtotal bigint,
    currency text references oltp.currencies,
    quantity bigint,
    proration boolean,
    discountable boolean,
    period_start timestamptz check (isfinite(period_start)),
    period_end timestamptz check (isfinite(period_end)),
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false
);
create index invoice_lines_invoice_id on oltp.invoice_lines (invoice_id);
create table oltp.invoice_payments (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    invoice_id text collate "C" references oltp.invoices,
    payment_intent_id text collate "C" references oltp.payment_intents,
    charge_id text collate "C" references oltp.charges,
    payment_record text,
    type text,
    amount_requested bigint check (amount_requested >= 0),
    amount_paid bigint check (amount_paid >= 0),
    currency text references oltp.currencies,
    is_default boolean,
    status text,
    paid_at timestamptz check (isfinite(paid_at)),
    canceled_at timestamptz check (isfinite(canceled_at)),
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create index invoice_payments_invoice_id on oltp.invoice_payments (invoice_id);
create table oltp.tax_rates (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    display_name text,
    percentage numeric check (percentage between 0 and 100),
    effective_percentage numeric check (effective_percentage between 0 and 100),
    inclusive boolean,
    active boolean,
    country text,
    state text,
    jurisdiction text,
    tax_type text,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.invoice_taxes (
    invoice_id text collate "C" not null references oltp.invoices,
    position smallint not null check (position >= 0),
    tax_rate_id text collate "C" references oltp.tax_rates,
    amount bigint not null,
    inclusive boolean,
    taxable_amount bigint,
    primary key (invoice_id, position)
);
create table oltp.credit_notes (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    invoice_id text collate "C" references oltp.invoices,
    customer_id text collate "C" references oltp.customers,
    refund_id text collate "C" references oltp.refunds,
    number text,
    type text,
    reason text,
    status text not null check (status in ('issued', 'void')),
    amount bigint not null,
    subtotal bigint,
    total bigint,
    discount_amount bigint,
    out_of_band_amount bigint,
    currency text not null references oltp.currencies,
    voided_at timestamptz check (isfinite(voided_at)),
    memo_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);
create table oltp.credit_note_lines (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    credit_note_id text collate "C" references oltp.credit_notes,
    invoice_line_id text collate "C" references oltp.invoice_lines,
    type text,
    amount bigint not null,
    discount_amount bigint,
    quantity bigint,
    unit_amount bigint,
    description_ciphertext bytea,
    livemode boolean not null default false
);
create table oltp.discounts (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    coupon_id text collate "C" references oltp.coupons,
    promotion_code_id text collate "C" references oltp.promotion_codes,
    customer_id text collate "C" references oltp.customers,
    subscription_id text collate "C" references oltp.subscriptions,
    subscription_item_id text collate "C" references oltp.subscription_items,
    invoice_id text collate "C" references oltp.invoices,
    invoice_item_id text collate "C" references oltp.invoice_items,
    start timestamptz check (isfinite(start)),
    ends timestamptz check (isfinite(ends)),
    deleted boolean not null default false
);
comment on column oltp.discounts.ends is 'Stripe''s field end, which is a reserved word of SQL';
create table oltp.tax_ids (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    customer_id text collate "C" references oltp.customers,
    type text,
    country text,
    value_ciphertext bytea,
    verification_status text,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create table oltp.customer_balance_transactions (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    customer_id text collate "C" references oltp.customers,
    invoice_id text collate "C" references oltp.invoices,
    credit_note_id text collate "C" references oltp.credit_notes,
    type text not null,
    amount bigint not null,
    ending_balance bigint not null,
    currency text not null references oltp.currencies,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created))
);

-- Events and the ways in and out.
create table oltp.events (
    id text collate "C" not null check (id ~ '^[^ \t\n]{1,255}$'),
    type text collate "C" not null,
    account_id text collate "C" references oltp.accounts,
    api_version text,
    object_kind text,
    object_id text collate "C",
    request_id text,
    idempotency_key text,
    pending_webhooks integer,
    livemode boolean not null default false,
    created timestamptz not null check (isfinite(created)),
    primary key (id, type)
);
comment on table oltp.events is 'Append only. Some senders reuse an id for several types, so the key is both';
create index events_object_id on oltp.events (object_id);
create index events_created on oltp.events (created, id);

create table oltp.webhook_endpoints (
    id text collate "C" primary key check (id ~ '^[^ \t\n]{1,255}$'),
    account_id text collate "C" references oltp.accounts,
    url text,
    status text check (status in ('disabled', 'enabled')),
    enabled_events text[],
    api_version text,
    secret_ciphertext bytea,
    description_ciphertext bytea,
    metadata_ciphertext bytea,
    livemode boolean not null default false,
    deleted boolean not null default false,
    created timestamptz check (isfinite(created))
);
create table oltp.webhook_deliveries (
    webhook_endpoint_id text collate "C" not null references oltp.webhook_endpoints,
    event_id text collate "C" not null,
    event_type text collate "C" not null,
    attempt integer not null check (attempt > 0),
    status text not null check (status in ('delivered', 'failed', 'pending')),
    http_status smallint,
    latency_ms integer check (latency_ms >= 0),
    attempted_at timestamptz check (isfinite(attempted_at)),
    next_attempt_at timestamptz check (isfinite(next_attempt_at)),
    primary key (webhook_endpoint_id, event_id, event_type, attempt),
    foreign key (event_id, event_type) references oltp.events
);

create table oltp.idempotency_keys (
    account_id text collate "C" not null references oltp.accounts,
    key text collate "C" not null check (octet_length(key) between 1 and 255),
    params_hash bytea not null check (octet_length(params_hash) = 32),
    operation text not null,
    object_id text collate "C",
    response_code smallint,
    response_ciphertext bytea,
    locked_at timestamptz,
    created timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null default clock_timestamp() + interval '24 hours',
    primary key (account_id, key)
);
comment on column oltp.idempotency_keys.params_hash is 'Keyed hash of the parameters: they may name people';

create table oltp.status_history (
    object_id text collate "C" not null,
    at timestamptz not null default clock_timestamp(),
    position bigint not null generated always as identity,
    object_kind text not null,
    from_status text not null,
    to_status text not null,
    event_id text,
    primary key (object_id, position)
);
comment on table oltp.status_history is 'Every change of a status, so that any status is known as of any date';

create function ops.keep_status_history() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    insert into oltp.status_history (object_kind, object_id, from_status, to_status)
    values (tg_argv[0], new.id, old.status, new.status);
    return null;
end $$;
do $$
declare
    watched record;
begin
    for watched in select * from (values
        ('payment_intents', 'payment_intent'), ('charges', 'charge'), ('refunds', 'refund'), ('disputes', 'dispute'),
        ('setup_intents', 'setup_intent'), ('payouts', 'payout'), ('subscriptions', 'subscription'),
        ('invoices', 'invoice'), ('topups', 'topup'), ('credit_notes', 'credit_note'), ('mandates', 'mandate')
    ) as w (tbl, kind) loop
        execute format('create trigger keep_status_history after update of status on oltp.%I for each row'
            ' when (old.status is distinct from new.status and old.status is not null and new.status is not null'
            ' and current_setting(''ingest.keeps_history'', true) is distinct from ''on'')'
            ' execute function ops.keep_status_history(%L)', watched.tbl, watched.kind);
    end loop;
end $$;

create function ops.parent_must_exist() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found_parent boolean;
    parent_id text;
begin
    execute format('select ($1).%I', tg_argv[1]) into parent_id using new;
    execute format('select exists (select 1 from oltp.%I where %I = $1)', tg_argv[0], coalesce(tg_argv[2], 'id'))
    into found_parent using parent_id;
    if not found_parent then
        raise foreign_key_violation using message = format('%s of %s names no row of %s', tg_argv[1], tg_table_name,
            tg_argv[0]), constraint = tg_name;
    end if;
    return null;
end $$;
create trigger guests_charge_has_its_intent after insert or update on oltp.charges for each row
when (new.payment_intent_id is not null and (new.customer_id is null or new.account_id is null))
execute function ops.parent_must_exist('payment_intents', 'payment_intent_id');
create trigger guests_charge_has_its_merchant after insert or update on oltp.charges for each row
when (new.account_id is not null and (new.customer_id is null or new.payment_intent_id is null))
execute function ops.parent_must_exist('accounts', 'account_id');
create trigger old_charge_has_its_payer after insert or update on oltp.charges for each row
when (new.customer_id is not null and (new.account_id is null or new.payment_intent_id is null)
    and new.payment_method_id is null)
execute function ops.parent_must_exist('customers', 'customer_id');
create trigger guests_charge_has_its_card after insert or update on oltp.charges for each row
when (new.payment_method_id is not null and new.customer_id is null)
execute function ops.parent_must_exist('payment_methods', 'payment_method_id');
create trigger guests_charge_has_its_currency after insert or update on oltp.charges for each row
when (new.customer_id is null or new.account_id is null or new.payment_intent_id is null)
execute function ops.parent_must_exist('currencies', 'currency', 'code');
create trigger old_charge_has_its_terminal after insert or update on oltp.charges for each row
when (new.terminal_id is not null and new.account_id is null)
execute function ops.parent_must_exist('terminals', 'terminal_id');
create trigger guests_intent_has_its_card after insert or update on oltp.payment_intents for each row
when (new.payment_method_id is not null and new.customer_id is null)
execute function ops.parent_must_exist('payment_methods', 'payment_method_id');

-- What other systems send lands here before it is understood: the payload as ciphertext, once per content.
create schema ingest;
create table ingest.objects (
    digest bytea primary key check (octet_length(digest) = 32),
    kind text not null,
    object_id text collate "C",
    api_version text,
    event_id text collate "C",
    event_type text,
    source text not null,
    as_of bigint not null,
    rank text collate "C" not null,
    status text,
    state text not null check (state in ('normalised', 'quarantined', 'received', 'superseded', 'unmodelled')),
    reason text,
    subject text collate "C" not null,
    payload_ciphertext bytea not null,
    received_at timestamptz not null default clock_timestamp()
);
comment on column ingest.objects.digest is 'Keyed hash of the canonical payload and its context: the same delivery is one row';
comment on column ingest.objects.as_of is 'Unix second of the state it shows: of its event, else its own; far outside where it says none';
comment on column ingest.objects.rank is 'Which of two states of one second is the later one';
comment on column ingest.objects.state is 'received: it waits for a row it cannot do without';
create index objects_of on ingest.objects (kind, object_id);
create table ingest.versions (
    kind text not null,
    object_id text collate "C" not null,
    as_of bigint not null,
    rank text collate "C" not null,
    digest bytea not null references ingest.objects,
    primary key (kind, object_id)
);
comment on table ingest.versions is 'Which landed state of an object its row shows: the newest, whatever the order of arrival';
comment on column ingest.versions.kind is 'The object, or kind:column for a column that has a newest state of its own';
create table ingest.pending_references (
    table_name text not null,
    row_key text collate "C" not null,
    column_name text not null,
    parent_table text not null,
    parent_id text collate "C" not null,
    conflict boolean not null default false,
    since timestamptz not null default clock_timestamp(),
    primary key (table_name, row_key, column_name)
);
comment on column ingest.pending_references.conflict is 'The other end stands, and is another payer''s or merchant''s';
comment on table ingest.pending_references is 'Relations whose other end has not arrived: the column is null until it does';
create index pending_references_parent on ingest.pending_references (parent_table, parent_id);
create table ingest.drift (
    kind text not null,
    path text not null,
    rule text not null check (rule in (
        'filler value', 'invalid value', 'personal data', 'unknown field', 'unknown kind', 'unknown type')),
    first_version text collate "C",
    last_version text collate "C",
    seen bigint not null default 0,
    primary key (kind, path, rule)
);
comment on table ingest.drift is 'What Stripe sends and we do not model: names only, never values; the payload keeps it';
create table ingest.cursors (
    kind text not null,
    account_id text collate "C" not null,
    last_id text collate "C",
    done boolean not null default false,
    moved_at timestamptz not null default clock_timestamp(),
    primary key (kind, account_id)
);
comment on table ingest.cursors is 'How far a backfill through the API came; it goes on from there';

-- Partitioned tables are a list now: a later migration adds a row, not another function.
create table oltp.balance_transactions_default partition of oltp.balance_transactions default;
create table oltp.fee_details_default partition of oltp.fee_details default;

create table ops.partition_families (
    table_name text primary key,
    column_name text not null,
    prefix text not null
);
insert into ops.partition_families values
('payment_intents', 'id', 'pi_'), ('charges', 'id', 'ch_'), ('charge_outcomes', 'charge_id', 'ch_'),
('balance_transactions', 'id', 'txn_'), ('fee_details', 'balance_transaction_id', 'txn_');

create or replace function ops.make_partitions(first_day date, last_day date) returns integer
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
    for family in select table_name as tbl, column_name as col, prefix from ops.partition_families order by 1 loop
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

-- Months that lie long back leave the hot tables, whole and at once: `archive` is the owner's alone and not published, so
-- no delete reaches the change log. CONCURRENTLY is refused beside a default partition: one month a call, the lock lasts
-- until commit. A month into which a row of another month or table points stays, and says which table holds it.
create schema archive;
create view ops.partition_levels as
with recursive above (table_name, level) as (
    select table_name, 0 from ops.partition_families
    union all
    select p.table_name, a.level + 1
    from above a
    join pg_constraint f on f.contype = 'f' and f.conrelid = format('oltp.%I', a.table_name)::regclass
        and f.confrelid <> f.conrelid
    join ops.partition_families p on f.confrelid = format('oltp.%I', p.table_name)::regclass
)
select table_name, max(level) as level from above group by table_name;
comment on view ops.partition_levels is 'Families of partitions by their foreign keys: referencing ones first';

-- Every table that moving a month locks, at once and before the work: whoever gives up is we, never a payment.
create function ops.lock_partitions() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '300ms' as $$
declare
    tables text;
begin
    perform pg_advisory_xact_lock(hashtext('ops.make_partitions'));
    select string_agg(t.oid::regclass::text, ', ' order by l.level desc nulls last, t.relname) into tables
    from pg_class t
    left join ops.partition_levels l on t.oid = format('oltp.%I', l.table_name)::regclass
    where t.relkind in ('r', 'p') and not t.relispartition and t.relnamespace = 'oltp'::regnamespace
    and (l.level is not null or exists (select 1 from pg_constraint f, ops.partition_families p where f.contype = 'f'
        and format('oltp.%I', p.table_name)::regclass = any(array[f.conrelid, f.confrelid])
        and t.oid = any(array[f.conrelid, f.confrelid])));
    execute 'lock table ' || tables || ' in access exclusive mode';
end $$;

create function ops.detach_partitions(before date, months integer default 1)
returns table (month date, partitions integer, held_by text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    family text;
    part text;
    rule text;
begin
    perform ops.lock_partitions();
    for month in
        select distinct to_date(right(c.relname, 7), 'YYYY_MM') from ops.partition_families f
        join pg_inherits i on i.inhparent = format('oltp.%I', f.table_name)::regclass
        join pg_class c on c.oid = i.inhrelid and c.relname ~ '_[0-9]{4}_[0-9]{2}$'
        order by 1
    loop
        exit when month + interval '1 month' > before or months < 1;
        partitions := 0;
        held_by := null;
        begin
            for family in select table_name from ops.partition_levels order by level, table_name loop
                part := family || to_char(month, '"_"YYYY"_"MM');
                continue when to_regclass(format('oltp.%I', part)) is null;
                execute format('alter table oltp.%I detach partition oltp.%I', family, part);
                -- Keys to the other families go; those to merchants and currencies still hold.
                for rule in select f.conname from pg_constraint f join ops.partition_families p
                    on f.confrelid = format('oltp.%I', p.table_name)::regclass
                    where f.conrelid = format('oltp.%I', part)::regclass and f.contype = 'f' and f.conparentid = 0 loop
                    execute format('alter table oltp.%I drop constraint %I', part, rule);
                end loop;
                execute format('alter table oltp.%I set schema archive', part);
                partitions := partitions + 1;
            end loop;
            months := months - 1;
        exception when foreign_key_violation then
            get stacked diagnostics held_by = table_name;
            partitions := 0;
        end;
        return next;
    end loop;
end $$;

create function ops.attach_partitions(first_day date, last_day date) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    family record;
    month timestamp;
    part text;
    taken boolean;
    attached integer := 0;
begin
    perform ops.lock_partitions();
    for month in select generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, '1 month') loop
        for family in select f.table_name as tbl, f.prefix from ops.partition_families f
            join ops.partition_levels l using (table_name) order by l.level desc, 1 loop
            part := family.tbl || to_char(month, '"_"YYYY"_"MM');
            continue when to_regclass(format('archive.%I', part)) is null;
            if to_regclass(format('oltp.%I', part)) is not null then
                execute format('select exists (select 1 from oltp.%I)', part) into taken;
                if taken then
                    raise exception 'oltp.% has rows again: move them before its archived month comes back', part;
                end if;
                execute format('alter table oltp.%I detach partition oltp.%I', family.tbl, part);
                execute format('drop table oltp.%I', part);
            end if;
            execute format('alter table archive.%I set schema oltp', part);
            execute format('alter table oltp.%I attach partition oltp.%I for values from (%L) to (%L)', family.tbl, part,
                family.prefix || lpad(to_hex((extract(epoch from month) * 1000)::bigint), 12, '0'),
                family.prefix || lpad(to_hex((extract(epoch from month + interval '1 month') * 1000)::bigint), 12, '0'));
            attached := attached + 1;
        end loop;
    end loop;
    return attached;
end $$;

-- The names the business knows. Amounts in major units, for reading; the tables below them keep minor units.
create schema compat;
create view compat.currency with (security_invoker = true) as
select code as currency_id, upper(code) as currency_code, name as currency_name, stripe_exponent as decimals
from oltp.currencies;
create view compat.merchant with (security_invoker = true) as
select id as merchant_id, name as merchant_name, country, mcc as category_code, default_currency as currency_id,
    charges_enabled as active, created as created_at
from oltp.accounts;
create view compat.customer with (security_invoker = true) as
select id as customer_id, token as customer_token, country, currency as currency_id, created as created_at
from oltp.customers where not deleted;
create view compat.payment_method with (security_invoker = true) as
select id as payment_method_id, customer_id, type, card_brand as brand, card_funding as funding, card_last4 as last4
from oltp.payment_methods;
create view compat.product with (security_invoker = true) as
select id as product_id, account_id as merchant_id, name as product_name, category, active
from oltp.products where not deleted;
create view compat.device with (security_invoker = true) as
select id as device_id, customer_id, type as device_type, platform, browser from oltp.devices;
create view compat.location with (security_invoker = true) as
select id as location_id, country, region, city, latitude, longitude from oltp.locations;
create view compat.status with (security_invoker = true) as
select * from (values
    ('successful', 'Money was taken'), ('failed', 'The network, the issuer or a rule refused'),
    ('pending', 'Not decided, or authorised and not taken yet'), ('refunded', 'Given back in full'), ('fraudulent', 'Confirmed as fraud')
) as s (status_id, meaning);
create view compat.transaction with (security_invoker = true) as
select
    c.id as transaction_id, c.account_id as merchant_id, c.customer_id, c.payment_method_id,
    round(c.amount * power(10::numeric, -u.stripe_exponent), u.stripe_exponent) as amount, c.amount as amount_minor,
    c.currency as currency_id,
    c.created as transaction_date, d.location_id, d.device_id, c.ip_country as location_country, c.device_type,
    case
        when c.status = 'failed' then 'failed'
        when c.status = 'pending' then 'pending'
        when exists (select 1 from oltp.disputes f where f.charge_id = c.id and f.reason = 'fraudulent'
            and f.status = 'lost')
        or exists (select 1 from oltp.early_fraud_warnings w where w.charge_id = c.id) then 'fraudulent'
        when c.amount_captured = 0 and c.amount > 0 then 'pending'
        when c.amount_captured > 0 and c.amount_refunded = c.amount_captured then 'refunded'
        else 'successful'
    end as status_id,
    o.risk_level, o.risk_score, a.score as anomaly_score,
    round(d.tax_amount * power(10::numeric, -t.stripe_exponent), t.stripe_exponent) as tax,
    d.tax_currency as tax_currency_id
from oltp.charges c
join oltp.currencies u on u.code = c.currency
left join oltp.charge_details d on d.charge_id = c.id
left join oltp.currencies t on t.code = d.tax_currency
left join oltp.charge_outcomes o on o.charge_id = c.id
left join lateral (
    select f.score from oltp.fraud_assessments f where f.charge_id = c.id order by f.assessed_at desc, f.model_version desc limit 1
) a on true;
comment on view compat.transaction is 'A charge as the business reads it; every indicator beside it';
