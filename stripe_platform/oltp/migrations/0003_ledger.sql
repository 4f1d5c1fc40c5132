-- The double-entry ledger under the payments. A posting's amount is signed: debit above zero, credit below. Entries
-- balance per currency, are never changed, and are undone by reversals. Money truth stays `balance_transactions`: each
-- names the entry that booked it. What is booked where is data (`posting_rules`).
create schema ledger;

create table oltp.ledger_account_kinds (
    kind text collate "C" primary key check (kind ~ '^[a-z_]{1,40}$'),
    normal_side text not null check (normal_side in ('credit', 'debit')),
    owner text not null check (owner in ('merchant', 'platform')),
    clearing boolean not null default false,
    description text not null,
    constraint merchants_kinds_say_so check ((owner = 'merchant') = (kind like 'merchant\_%'))
);
comment on column oltp.ledger_account_kinds.clearing is 'Goes back to zero; a balance that stays is an alert';

-- The id is computed from what the account is, so that a payment needs no look-up: merchant_pending:eur:acct_...
create table oltp.ledger_accounts (
    id text collate "C" primary key,
    kind text collate "C" not null references oltp.ledger_account_kinds,
    account_id text collate "C" references oltp.accounts,
    currency text not null references oltp.currencies,
    other_currency text references oltp.currencies,
    allows_negative boolean not null default false,
    created timestamptz not null default clock_timestamp() check (isfinite(created)),
    constraint ledger_account_id_is_computed
    check (id = kind || ':' || currency || coalesce(':' || account_id, ':' || other_currency, ''))
);
comment on column oltp.ledger_accounts.account_id is 'The merchant; null for the platform''s own accounts';
comment on column oltp.ledger_accounts.other_currency is 'Of a position in foreign exchange: what it was exchanged for';
comment on column oltp.ledger_accounts.allows_negative is 'Whether limited movements may take it below zero';

create table oltp.ledger_entries (
    id text collate "C" primary key check (id like 'le\_%'),
    kind text collate "C" not null,
    phase text not null default 'single' check (phase in ('pending', 'post', 'single', 'void')),
    account_id text collate "C",
    source_id text collate "C",
    effective_at timestamptz not null check (isfinite(effective_at)),
    created timestamptz not null default clock_timestamp() check (isfinite(created))
) partition by range (id);
comment on column oltp.ledger_entries.kind is 'Reporting category of what was booked, or the name of an own event';
comment on column oltp.ledger_entries.source_id is 'Object behind an own event; what balance transactions booked, they name';
comment on column oltp.ledger_entries.phase is 'Two-phase movements: pending on memo accounts, then post or void';
create index ledger_entries_source_id on oltp.ledger_entries (source_id, kind) where source_id is not null;

create table oltp.ledger_postings (
    entry_id text collate "C" not null,
    position smallint not null,
    ledger_account_id text collate "C" not null,
    currency text not null,
    amount bigint not null,
    primary key (entry_id, position),
    constraint posting_moves_money check (amount <> 0)
) partition by range (entry_id);
comment on column oltp.ledger_postings.amount is 'Minor units; debit above zero, credit below';
-- Platform accounts are read by day, merchants' by account: only those pay for an index.
create index ledger_postings_of_merchants on oltp.ledger_postings (ledger_account_id, entry_id)
where ledger_account_id like 'merchant\_%';

create table oltp.ledger_entries_default partition of oltp.ledger_entries default;
create table oltp.ledger_postings_default partition of oltp.ledger_postings default;

-- A unique index over partitions would need their key: the table is what holds "at most once".
create table oltp.ledger_reversals (
    entry_id text collate "C" primary key references oltp.ledger_entries,
    reversal_id text collate "C" not null unique references oltp.ledger_entries,
    constraint reversal_is_another_entry check (entry_id <> reversal_id)
);
comment on table oltp.ledger_reversals is 'Which entry was undone by which: at most once, by key';

create table oltp.ledger_balances (
    ledger_account_id text collate "C" not null references oltp.ledger_accounts,
    day date not null check (isfinite(day)),
    balance bigint not null,
    primary key (ledger_account_id, day)
);
comment on table oltp.ledger_balances is 'Signed balance at the end of a closed day, for days on which it changed';

create table oltp.ledger_seals (
    sequence bigint primary key check (sequence > 0),
    first_entry_id text collate "C" not null references oltp.ledger_entries,
    last_entry_id text collate "C" not null references oltp.ledger_entries,
    entries integer not null check (entries > 0),
    postings integer not null check (postings > 1),
    previous_root text not null check (previous_root ~ '^[0-9a-f]{64}$'),
    root text not null unique check (root ~ '^[0-9a-f]{64}$'),
    created timestamptz not null default clock_timestamp() check (isfinite(created))
);
comment on table oltp.ledger_seals is 'Hash chain over closed entries, made off the payments'' way';

create table oltp.posting_rules (
    category text collate "C" not null,
    kind text collate "C" not null references oltp.ledger_account_kinds,
    net smallint not null check (net between -1 and 1),
    stripe_fee smallint not null check (stripe_fee between -1 and 1),
    application_fee smallint not null check (application_fee between -1 and 1),
    tax smallint not null check (tax between -1 and 1),
    passthrough_fee smallint not null check (passthrough_fee between -1 and 1),
    limited boolean not null default false,
    primary key (category, kind)
);
comment on table oltp.posting_rules is
'What a movement of a category books: each part of it debits (+1) one kind of account and credits (-1) another';
comment on column oltp.posting_rules.limited is 'Refused where it would take the merchant''s available balance below zero';

create table oltp.fee_policies (
    kind text not null check (kind in ('charge', 'dispute')),
    currency text not null references oltp.currencies,
    country text not null default '*' check (country = '*' or country ~ '^[A-Z]{2}$'),
    basis_points integer not null check (basis_points between 0 and 10000),
    fixed bigint not null check (fixed >= 0),
    multiple smallint not null default 1 check (multiple in (1, 10)),
    days_to_available smallint not null default 2 check (days_to_available between 0 and 90),
    returned_when_won boolean not null default false,
    primary key (kind, currency, country)
);
comment on column oltp.fee_policies.country is 'Of the merchant; * for all that have no row of their own';
comment on column oltp.fee_policies.fixed is 'Minor units of the currency';
comment on column oltp.fee_policies.multiple is 'What fees are multiples of: 10 where amounts end with 0';

alter table oltp.balance_transactions
    add column ledger_entry_id text collate "C",
    add column available_entry_id text collate "C";
comment on column oltp.balance_transactions.ledger_entry_id is 'Entry that booked it: its own, or its day''s sum';
comment on column oltp.balance_transactions.available_entry_id is 'Entry by which its net became available';

alter table oltp.idempotency_keys add column answer text;
comment on column oltp.idempotency_keys.answer is 'The first answer, JSON: ids, states and codes, nobody''s data';

-- The same rule without a regular expression, whose machine is built anew for every row: half the cost of an insert.
do $$
declare
    hot text;
begin
    foreach hot in array array['payment_intents', 'charges', 'refunds', 'disputes', 'balance_transactions', 'events'] loop
        execute format('alter table oltp.%I drop constraint %I', hot, hot || '_id_check');
        execute format('alter table oltp.%I add constraint %I check (octet_length(id) between 1 and 255'
            ' and translate(id, E'' \t\n'', '''') = id)', hot, hot || '_id_check');
    end loop;
end $$;

-- From where on the books are open. What is dated before is booked at this instant; what lies before it is sealed.
create table ops.ledger_calendar (
    one boolean primary key default true check (one),
    open_from timestamptz not null default 'epoch' check (isfinite(open_from)),
    released_until timestamptz not null default 'epoch' check (isfinite(released_until))
);
insert into ops.ledger_calendar default values;

-- Every move a status may make. Objects that Stripe owns (`ingest.versions` knows them) arrive in any order and
-- follow Stripe; all others follow this table, whoever writes.
create table ops.status_moves (
    object_kind text not null,
    from_status text not null,
    to_status text not null,
    primary key (object_kind, from_status, to_status)
);
insert into ops.status_moves
select m.object_kind, m.from_status, unnest(string_to_array(m.targets, ' ')) from (values
    ('payment_intent', 'requires_payment_method', 'requires_confirmation requires_action processing requires_capture'
        ' succeeded canceled'),
    ('payment_intent', 'requires_confirmation', 'requires_payment_method requires_action processing requires_capture'
        ' succeeded canceled'),
    ('payment_intent', 'requires_action', 'requires_payment_method requires_confirmation processing requires_capture'
        ' succeeded canceled'),
    ('payment_intent', 'processing', 'requires_payment_method requires_capture succeeded canceled'),
    ('payment_intent', 'requires_capture', 'succeeded canceled'),
    ('charge', 'pending', 'succeeded failed'),
    ('refund', 'pending', 'requires_action succeeded failed canceled'),
    ('refund', 'requires_action', 'pending succeeded failed canceled'),
    ('refund', 'succeeded', 'failed'),
    ('dispute', 'warning_needs_response', 'warning_under_review warning_closed needs_response prevented'
        ' charge_refunded'),
    ('dispute', 'warning_under_review', 'warning_closed needs_response prevented charge_refunded'),
    ('dispute', 'needs_response', 'under_review won lost prevented charge_refunded'),
    ('dispute', 'under_review', 'needs_response won lost'),
    ('dispute', 'lost', 'appeal_needs_response'),
    ('dispute', 'appeal_needs_response', 'appeal_under_review won lost'),
    ('dispute', 'appeal_under_review', 'appeal_needs_response won lost'),
    ('setup_intent', 'requires_payment_method', 'requires_confirmation requires_action processing succeeded canceled'),
    ('setup_intent', 'requires_confirmation', 'requires_payment_method requires_action processing succeeded canceled'),
    ('setup_intent', 'requires_action', 'requires_payment_method requires_confirmation processing succeeded canceled'),
    ('setup_intent', 'processing', 'requires_payment_method succeeded canceled'),
    ('payout', 'pending', 'in_transit paid failed canceled'),
    ('payout', 'in_transit', 'paid failed canceled'),
    ('payout', 'paid', 'failed'),
    ('subscription', 'incomplete', 'active trialing incomplete_expired canceled'),
    ('subscription', 'trialing', 'active past_due canceled paused unpaid'),
    ('subscription', 'active', 'past_due unpaid canceled paused trialing'),
    ('subscription', 'past_due', 'active unpaid canceled paused'),
    ('subscription', 'unpaid', 'active past_due canceled'),
    ('subscription', 'paused', 'active trialing past_due canceled'),
    ('invoice', 'draft', 'open paid void'),
    ('invoice', 'open', 'paid uncollectible void'),
    ('invoice', 'uncollectible', 'paid void'),
    ('topup', 'pending', 'succeeded failed canceled'),
    ('topup', 'succeeded', 'reversed'),
    ('credit_note', 'issued', 'void'),
    ('mandate', 'pending', 'active inactive'),
    ('mandate', 'active', 'inactive pending')
) as m (object_kind, from_status, targets);

create function ops.status_must_move() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select 1 from ops.status_moves m where m.object_kind = tg_argv[0] and m.from_status = old.status
        and m.to_status = new.status)
    or exists (select 1 from ingest.versions v where v.kind = tg_argv[0] and v.object_id = old.id) then
        return new;
    end if;
    raise exception '% % is %: it cannot become %; see ops.status_moves', replace(tg_argv[0], '_', ' '), old.id,
        old.status, new.status using errcode = 'check_violation', constraint = 'status_must_move', table = tg_table_name;
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
        execute format('create trigger status_must_move before update of status on oltp.%I for each row'
            ' when (old.status is distinct from new.status and old.status is not null and new.status is not null)'
            ' execute function ops.status_must_move(%L)', watched.tbl, watched.kind);
    end loop;
end $$;

-- The journal is immutable for everyone, the superuser and replication included.
create function ledger._refuse_change() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% of %: the journal is never changed; book a reversal', tg_op, tg_table_name
    using errcode = 'restrict_violation', constraint = 'journal_is_immutable', table = tg_table_name;
end $$;

-- An entry's postings come in one statement, the first at position 1: so none can be added later. One check of the
-- statement costs what one row's trigger would. It stands for the foreign keys too: entries and accounts are never
-- deleted, so existing once is existing for good.
create function ledger._check_postings() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bad record;
begin
    -- One entry in one currency, as a payment writes it: nothing to group.
    if (
        select w.first = w.last and w.one = w.other and w.total = 0 and w.lowest = 1 and w.postings = (
            select count(*) from written p
            join oltp.ledger_accounts a on a.id = p.ledger_account_id and a.currency = p.currency)
        and exists (
            select from oltp.ledger_entries e, ops.ledger_calendar c where e.id = w.first and e.effective_at >= c.open_from
            and substr(e.id, 4, 12) = lpad(to_hex(floor(extract(epoch from e.effective_at) * 1000)::bigint), 12, '0'))
        from (
            select min(p.entry_id) as first, max(p.entry_id) as last, min(p.currency) as one, max(p.currency) as other,
                sum(p.amount) as total, min(p.position) as lowest, count(*) as postings from written p
        ) w
    ) then
        return null;
    end if;
    select y.*, e.id is not null as entered, e.effective_at >= c.open_from and substr(e.id, 4, 12)
        = lpad(to_hex(floor(extract(epoch from e.effective_at) * 1000)::bigint), 12, '0') as open
    into bad
    from (
        select x.entry_id, bool_and(x.total = 0) as balanced, bool_and(x.known) as known, min(x.lowest) as lowest
        from (
            select w.entry_id, sum(w.amount) as total, count(*) = count(a.id) as known, min(w.position) as lowest
            from written w left join oltp.ledger_accounts a on a.id = w.ledger_account_id and a.currency = w.currency
            group by w.entry_id, w.currency
        ) x
        group by x.entry_id
    ) y
    cross join ops.ledger_calendar c
    left join oltp.ledger_entries e on e.id = y.entry_id
    where not (y.balanced and y.known and y.lowest = 1 and e.effective_at >= c.open_from
        and substr(e.id, 4, 12) = lpad(to_hex(floor(extract(epoch from e.effective_at) * 1000)::bigint), 12, '0')) is true
    limit 1;
    if not found then
        return null;
    elsif not bad.balanced then
        raise exception 'entry % does not balance per currency: debits must equal credits', bad.entry_id
        using errcode = 'check_violation', constraint = 'entry_balances', table = 'ledger_postings';
    elsif not bad.known then
        raise exception 'entry % names a ledger account that does not exist in that currency: open it first', bad.entry_id
        using errcode = 'foreign_key_violation', constraint = 'posting_has_its_account', table = 'ledger_postings';
    elsif not bad.entered or bad.lowest <> 1 then
        raise exception 'entry % is unknown, or its postings did not come in one statement from position 1 on', bad.entry_id
        using errcode = 'foreign_key_violation', constraint = 'posting_has_its_entry', table = 'ledger_postings';
    end if;
    raise exception 'entry % lies in a closed period, or its id carries another instant: date it when the books are open',
        bad.entry_id using errcode = 'check_violation', constraint = 'entry_is_open', table = 'ledger_entries';
end $$;

create function ledger._guard(journal regclass) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if journal::text like 'oltp.ledger_postings%' then
        execute format('create trigger check_postings after insert on %s referencing new table as written'
            ' for each statement execute function ledger._check_postings()', journal);
        execute format('alter table %s enable always trigger check_postings', journal);
    end if;
    execute format('create trigger refuse_truncate before truncate on %s'
        ' for each statement execute function ledger._refuse_change()', journal);
    execute format('alter table %s enable always trigger refuse_truncate', journal);
end $$;
do $$
declare
    journal text;
begin
    foreach journal in array array['ledger_entries', 'ledger_postings', 'ledger_reversals', 'ledger_seals',
        'ledger_balances'] loop
        execute format('create trigger refuse_change before update or delete on oltp.%I'
            ' for each row execute function ledger._refuse_change()', journal);
        execute format('alter table oltp.%I enable always trigger refuse_change', journal);
        perform ledger._guard(format('oltp.%I', journal)::regclass);
    end loop;
    perform ledger._guard('oltp.ledger_entries_default');
    perform ledger._guard('oltp.ledger_postings_default');
end $$;

create function ledger._keep_account() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op <> 'UPDATE' then
        raise exception '% of ledger_accounts: an account is kept for good', tg_op
        using errcode = 'restrict_violation', constraint = 'ledger_account_is_kept', table = tg_table_name;
    end if;
    if (new.id, new.kind, new.currency) is distinct from (old.id, old.kind, old.currency) then
        raise exception 'ledger account % keeps its id, kind and currency', old.id
        using errcode = 'restrict_violation', constraint = 'ledger_account_is_kept', table = tg_table_name;
    end if;
    return new;
end $$;
create trigger keep_account before update or delete on oltp.ledger_accounts
for each row execute function ledger._keep_account();
alter table oltp.ledger_accounts enable always trigger keep_account;
create trigger refuse_truncate before truncate on oltp.ledger_accounts
for each statement execute function ledger._keep_account();
alter table oltp.ledger_accounts enable always trigger refuse_truncate;

alter table ops.partition_families add column after_making text;
comment on column ops.partition_families.after_making is 'Function that guards a new partition';
insert into ops.partition_families values
('ledger_entries', 'id', 'le_', 'ledger._guard'), ('ledger_postings', 'entry_id', 'le_', 'ledger._guard');

create or replace function ops.make_partitions(first_day date, last_day date) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    family record;
    month timestamp;
    part text;
    lower_id text;
    upper_id text;
    taken boolean;
    made integer := 0;
begin
    if last_day < first_day or last_day > first_day + 3660 then
        raise exception 'partitions from % to %: the range must run forward and span at most ten years', first_day, last_day;
    end if;
    perform pg_advisory_xact_lock(hashtext('ops.make_partitions'));
    for family in select table_name as tbl, column_name as col, prefix, after_making from ops.partition_families
        order by 1 loop
        for month in select generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, '1 month') loop
            part := family.tbl || to_char(month, '"_"YYYY"_"MM');
            continue when to_regclass(format('oltp.%I', part)) is not null;
            lower_id := family.prefix || lpad(to_hex((extract(epoch from month) * 1000)::bigint), 12, '0');
            upper_id := family.prefix || lpad(to_hex((extract(epoch from month + interval '1 month') * 1000)::bigint), 12, '0');
            execute format('select exists (select 1 from oltp.%I where %I >= $1 and %I < $2)',
                family.tbl || '_default', family.col, family.col) into taken using lower_id, upper_id;
            continue when taken;
            execute format('create table oltp.%I partition of oltp.%I for values from (%L) to (%L)',
                part, family.tbl, lower_id, upper_id);
            if family.after_making is not null then
                execute format('select %s(%L::regclass)', family.after_making, format('oltp.%I', part));
            end if;
            made := made + 1;
        end loop;
    end loop;
    return made;
end $$;

-- Ids as the platform makes them (oltp/ids.py): 48 bits of milliseconds, microseconds, 61 random bits.
create function ops.id_body(at timestamptz) returns text language plpgsql volatile parallel safe as $$
declare
    us bigint := extract(epoch from at) * 1000000;
    x text := gen_random_uuid()::text;
begin
    return lpad(to_hex((us / 1000 << 16) | 31744 | us % 1000), 16, '0')
        || case when x < '8' then 'a' else 'b' end || substr(x, 2, 7)
        || substr('abefabefabefabef', ascii(substr(x, 10, 1)) % 16 + 1, 1) || substr(x, 30, 7);
end $$;

create function ledger._from_id(at timestamptz) returns text language sql immutable parallel safe as $$
    select 'le_' || lpad(to_hex((t.us / 1000 << 16) | 31744 | t.us % 1000), 16, '0')
    from (select (extract(epoch from at) * 1000000)::bigint as us) t
$$;
comment on function ledger._from_id is 'Smallest id of an entry effective at an instant';

-- What the rules are. Called by whoever loads reference rows, so that the change stream carries them.
create function ledger.seed() returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    insert into oltp.ledger_account_kinds (kind, normal_side, owner, clearing, description) values
    ('merchant_pending', 'credit', 'merchant', false, 'Owed to the merchant, not available yet'),
    ('merchant_available', 'credit', 'merchant', false, 'Owed to the merchant, may be paid out'),
    ('merchant_reserve', 'credit', 'merchant', false, 'Held back from the merchant against losses'),
    ('merchant_authorized', 'credit', 'merchant', false, 'Memo: authorised, not captured'),
    ('authorized_receivable', 'debit', 'platform', true, 'Memo: what captures would bring'),
    ('cash', 'debit', 'platform', false, 'Bank accounts'),
    ('network_receivable', 'debit', 'platform', true, 'Owed by card networks until they settle'),
    ('network_cost', 'debit', 'platform', false, 'Interchange and scheme fees'),
    ('fee_revenue', 'credit', 'platform', false, 'Processing fees earned'),
    ('refund_clearing', 'credit', 'platform', true, 'Refunds on their way to payers'),
    ('dispute_clearing', 'credit', 'platform', true, 'Disputed money taken from merchants, not decided yet'),
    ('payout_in_transit', 'credit', 'platform', true, 'Payouts on their way to banks'),
    ('transfer_clearing', 'debit', 'platform', true, 'Between the two sides of a transfer'),
    ('application_fee_clearing', 'credit', 'platform', true, 'Between the two sides of an application fee'),
    ('fx_clearing', 'debit', 'platform', true, 'Exchanged, not traded yet; one per pair of currencies'),
    ('rounding', 'debit', 'platform', false, 'Remainders of exchanges below one minor unit each'),
    ('fraud_loss', 'debit', 'platform', false, 'Merchants'' debts written off'),
    ('tax_payable', 'credit', 'platform', false, 'Taxes kept for authorities'),
    ('adjustments', 'debit', 'platform', false, 'Granted to or taken from merchants by hand'),
    ('issuing_clearing', 'debit', 'platform', true, 'Movements of issued cards'),
    ('financing_receivable', 'debit', 'platform', false, 'Advanced to merchants')
    on conflict do nothing;

    -- Every category moves its net between the merchant and one account, and each part of the fee to its own.
    insert into oltp.posting_rules (category, kind, net, stripe_fee, application_fee, tax, passthrough_fee, limited)
    select c.category, l.kind, sum(l.net), sum(l.stripe_fee), sum(l.application_fee), sum(l.tax), sum(l.passthrough_fee),
        c.limited
    from (values
        ('charge', 'network_receivable', false), ('charge_failure', 'network_receivable', false),
        ('partial_capture_reversal', 'network_receivable', false),
        ('refund', 'refund_clearing', false), ('refund_failure', 'refund_clearing', false),
        ('dispute', 'dispute_clearing', false), ('dispute_reversal', 'dispute_clearing', false),
        ('fee', 'fee_revenue', false), ('network_cost', 'network_cost', false), ('tax', 'tax_payable', false),
        ('transfer', 'transfer_clearing', true), ('transfer_reversal', 'transfer_clearing', true),
        ('connect_collection_transfer', 'transfer_clearing', false),
        ('payout', 'payout_in_transit', true), ('payout_reversal', 'payout_in_transit', false),
        ('topup', 'cash', false), ('topup_reversal', 'cash', true),
        ('other_adjustment', 'adjustments', false), ('contribution', 'adjustments', false),
        ('climate_order_purchase', 'adjustments', false), ('climate_order_refund', 'adjustments', false),
        ('unreconciled_customer_funds', 'adjustments', false),
        ('platform_earning', 'application_fee_clearing', false),
        ('platform_earning_refund', 'application_fee_clearing', false),
        ('risk_reserved_funds', 'merchant_reserve', true), ('connect_reserved_funds', 'merchant_reserve', true),
        ('issuing_authorization_hold', 'issuing_clearing', true),
        ('issuing_authorization_release', 'issuing_clearing', false),
        ('issuing_transaction', 'issuing_clearing', false), ('issuing_dispute', 'issuing_clearing', false),
        ('issuing_disbursement', 'issuing_clearing', false),
        ('financing_payout', 'financing_receivable', false), ('financing_payout_reversal', 'financing_receivable', false),
        ('financing_paydown', 'financing_receivable', false),
        ('financing_paydown_reversal', 'financing_receivable', false),
        ('advance', 'financing_receivable', false), ('advance_funding', 'financing_receivable', false),
        ('anticipation_repayment', 'financing_receivable', false)
    ) as c (category, kind, limited)
    cross join lateral (values
        (c.kind, 1, 1, 1, 1, 1), ('merchant_available', -1, 0, 0, 0, 0), ('fee_revenue', 0, -1, 0, 0, 0),
        ('application_fee_clearing', 0, 0, -1, 0, 0), ('tax_payable', 0, 0, 0, -1, 0), ('network_cost', 0, 0, 0, 0, -1)
    ) as l (kind, net, stripe_fee, application_fee, tax, passthrough_fee)
    group by c.category, l.kind, c.limited
    union all
    select e.category, l.kind, l.net, 0, 0, 0, 0, false from (values
        ('authorization', 'authorized_receivable', 'merchant_authorized'),
        ('balance_release', 'merchant_pending', 'merchant_available'),
        ('dispute_lost', 'dispute_clearing', 'network_receivable'),
        ('network_settlement', 'cash', 'network_receivable'),
        ('refund_settlement', 'cash', 'refund_clearing'),
        ('issuing_settlement', 'cash', 'issuing_clearing'),
        ('payout_paid', 'payout_in_transit', 'cash'),
        ('write_off', 'fraud_loss', 'merchant_available')
    ) as e (category, debit_kind, credit_kind)
    cross join lateral (values (e.debit_kind, 1), (e.credit_kind, -1)) as l (kind, net)
    on conflict do nothing;
end $$;

create function ledger._check_rules() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bad text;
begin
    select r.category into bad from oltp.posting_rules r group by r.category
    having sum(r.net) <> 0 or sum(r.stripe_fee) <> 0 or sum(r.application_fee) <> 0 or sum(r.tax) <> 0
    or sum(r.passthrough_fee) <> 0 limit 1;
    if found then
        raise exception 'the posting rules of % debit more than they credit: give each part both sides', bad
        using errcode = 'check_violation', constraint = 'rules_balance', table = 'posting_rules';
    end if;
    return null;
end $$;
create trigger check_rules after insert or update or delete on oltp.posting_rules
for each statement execute function ledger._check_rules();

create function ledger.open_accounts(p_account text, p_currency text, p_other_currency text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into oltp.ledger_accounts (id, kind, account_id, currency, other_currency)
    select k.kind || ':' || c.currency
        || case when k.owner = 'merchant' then coalesce(':' || p_account, '') else coalesce(':' || c.other, '') end,
        k.kind, case when k.owner = 'merchant' then p_account end, c.currency, c.other
    from oltp.ledger_account_kinds k
    join (values
        (p_currency, null, false), (p_other_currency, null, false),
        (p_currency, p_other_currency, true), (p_other_currency, p_currency, true)
    ) as c (currency, other, fx) on (k.kind = 'fx_clearing') = c.fx
    where c.currency is not null and (c.fx = (c.other is not null))
    order by 1
    on conflict do nothing;
end $$;
comment on function ledger.open_accounts is 'All accounts of a merchant in a currency, and the platform''s; twice is harmless';

-- The one place where rules become postings: one element per entry, a single payment or a whole day alike.
-- In a foreign exchange the rules' debit side stands in the other currency, and both meet through fx_clearing.
create function ledger._post(
    p_entry text[], p_category text[], p_account text[], p_currency text[], p_pending boolean[], p_net bigint[],
    p_stripe_fee bigint[], p_application_fee bigint[], p_tax bigint[], p_passthrough_fee bigint[],
    p_other_currency text[] default null, p_other_amount bigint[] default null
) returns void language plpgsql as $$
begin
    if array_remove(p_other_currency, null) = '{}' or p_other_currency is null then
        insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
        select s.entry, row_number() over (partition by s.entry), s.ledger_account, s.currency, s.amount
        from (
            select b.entry, b.currency, case when b.pending and r.kind = 'merchant_available' then 'merchant_pending'
                else r.kind end || ':' || b.currency
                || case when r.kind like 'merchant\_%' and b.account is not null then ':' || b.account else '' end
                as ledger_account,
                r.net * b.net + r.stripe_fee * b.stripe_fee + r.application_fee * b.application_fee + r.tax * b.tax
                + r.passthrough_fee * b.passthrough_fee as amount
            from unnest(p_entry, p_category, p_account, p_currency, p_pending, p_net, p_stripe_fee, p_application_fee,
                p_tax, p_passthrough_fee) as b (entry, category, account, currency, pending, net, stripe_fee,
                application_fee, tax, passthrough_fee)
            join oltp.posting_rules r on r.category = b.category
        ) s
        where s.amount <> 0;
        return;
    end if;
    insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
    select s.entry, row_number() over (partition by s.entry order by s.ledger_account), s.ledger_account, s.currency,
        sum(s.amount)
    from (
        select b.entry, l.ledger_account, l.currency, l.amount
        from unnest(p_entry, p_category, p_account, p_currency, p_pending, p_net, p_stripe_fee, p_application_fee,
            p_tax, p_passthrough_fee, p_other_currency, p_other_amount)
            as b (entry, category, account, currency, pending, net, stripe_fee, application_fee, tax, passthrough_fee,
                other_currency, other_amount)
        join oltp.posting_rules r on r.category = b.category
        cross join lateral (values
            (case when b.other_currency is not null and r.net = 1
                then 'fx_clearing:' || b.currency || ':' || b.other_currency
                else case when b.pending and r.kind = 'merchant_available' then 'merchant_pending' else r.kind end || ':'
                || b.currency || case when r.kind like 'merchant\_%' then coalesce(':' || b.account, '') else '' end end,
                b.currency, r.net * b.net + r.stripe_fee * b.stripe_fee + r.application_fee * b.application_fee
                + r.tax * b.tax + r.passthrough_fee * b.passthrough_fee),
            (case when r.net = 1 then r.kind || ':' || b.other_currency end, b.other_currency, b.other_amount),
            (case when r.net = 1 then 'fx_clearing:' || b.other_currency || ':' || b.currency end, b.other_currency,
                -b.other_amount)
        ) as l (ledger_account, currency, amount)
        where l.amount <> 0 and l.ledger_account is not null
    ) s
    group by s.entry, s.ledger_account, s.currency;
end $$;

create function ledger.balance(p_ledger_account text, p_at timestamptz default null) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    side text;
    base bigint;
    base_day date;
    since text := 'le_';
    upto text := coalesce(ledger._from_id(p_at), 'le_g');
    moved bigint;
begin
    select k.normal_side into side from oltp.ledger_accounts a join oltp.ledger_account_kinds k on k.kind = a.kind
    where a.id = p_ledger_account;
    if not found then
        return 0;
    end if;
    select b.balance, b.day into base, base_day from oltp.ledger_balances b
    where b.ledger_account_id = p_ledger_account
    and (p_at is null or (b.day + 1)::timestamp at time zone 'UTC' <= p_at)
    order by b.day desc limit 1;
    if found then
        since := ledger._from_id((base_day + 1)::timestamp at time zone 'UTC');
    end if;
    if p_ledger_account like 'merchant\_%' then
        select sum(p.amount) into moved from oltp.ledger_postings p
        where p.ledger_account_id = p_ledger_account and p.ledger_account_id like 'merchant\_%'
        and p.entry_id >= since and p.entry_id < upto;
    else
        select sum(p.amount) into moved from oltp.ledger_postings p
        where p.ledger_account_id = p_ledger_account and p.entry_id >= since and p.entry_id < upto;
    end if;
    return case side when 'credit' then -1 else 1 end * (coalesce(base, 0) + coalesce(moved, 0));
end $$;
comment on function ledger.balance is
'Minor units on the account''s normal side, of what is effective before an instant (default: everything)';

-- Movements that a merchant may only make with money it has. The row lock makes racing ones queue; charges and
-- releases do not take it.
create function ledger._check_limits(p_account text[], p_currency text[]) returns void language plpgsql as $$
declare
    taken record;
begin
    for taken in
        select a.id, a.allows_negative from oltp.ledger_accounts a
        where a.id in (select 'merchant_available:' || t.currency || coalesce(':' || t.account, '')
            from unnest(p_account, p_currency) as t (account, currency))
        order by a.id for no key update
    loop
        if not taken.allows_negative and ledger.balance(taken.id) < 0 then
            raise exception 'the available balance of % does not cover the movement: wait for releases, or allow a'
                ' negative balance', taken.id using errcode = 'P0001', constraint = 'balance_insufficient',
                table = 'ledger_accounts';
        end if;
    end loop;
end $$;

create function ledger._effective(p_at timestamptz) returns timestamptz language sql stable as $$
    select greatest(coalesce(p_at, clock_timestamp()), c.open_from) from ops.ledger_calendar c
$$;

-- Balance transactions not booked yet, with everything a rule may ask for. Exchanged ones name their other side.
create view ledger.unbooked with (security_invoker = true) as
select b.id, b.account_id, b.reporting_category as category, b.currency, b.net, b.available_on, b.created,
    b.fee - f.application_fee - f.tax - f.passthrough_fee as stripe_fee, f.application_fee, f.tax, f.passthrough_fee,
    o.currency as other_currency, case when b.amount < 0 then -o.amount else o.amount end as other_amount
from oltp.balance_transactions b
cross join lateral (
    select coalesce(sum(d.amount) filter (where d.type = 'application_fee'), 0)::bigint as application_fee,
        coalesce(sum(d.amount) filter (where d.type in ('tax', 'withheld_tax')), 0)::bigint as tax,
        coalesce(sum(d.amount) filter (where d.type = 'payment_method_passthrough_fee'), 0)::bigint as passthrough_fee
    from oltp.fee_details d where d.balance_transaction_id = b.id
) f
left join lateral (
    select c.currency, c.amount_captured as amount from oltp.charges c where c.id = b.source_id
    union all select r.currency, r.amount from oltp.refunds r where r.id = b.source_id
    union all select d.currency, d.amount from oltp.disputes d where d.id = b.source_id
    limit 1
) o on b.exchange_rate is not null and o.currency <> b.currency
where b.ledger_entry_id is null and (b.amount <> 0 or b.fee <> 0);

create function ledger._refuse_unknown(p_category text[]) returns void language plpgsql as $$
declare
    unknown text;
begin
    select c into unknown from unnest(p_category) as c
    where not exists (select 1 from oltp.posting_rules r where r.category = c) limit 1;
    if found then
        raise exception 'category % has no posting rule: add it to posting_rules', unknown
        using errcode = 'P0001', constraint = 'category_has_a_rule', table = 'posting_rules';
    end if;
end $$;

-- One entry per balance transaction; those booked before are left alone.
create function ledger.book(p_ids text[]) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    due record;
    opened timestamptz;
    released timestamptz;
begin
    perform pg_advisory_xact_lock_shared(hashtextextended('ledger.release', 0));
    perform 1 from oltp.balance_transactions b where b.id = any (p_ids) order by b.id for no key update;
    select c.open_from, c.released_until into opened, released from ops.ledger_calendar c;
    select array_agg(u.id) as id, array_agg('le_' || ops.id_body(greatest(u.created, opened))) as entry,
        array_agg(u.category) as category, array_agg(u.account_id) as account, array_agg(u.currency) as currency,
        array_agg(greatest(u.created, opened)) as effective,
        array_agg(u.available_on > greatest(u.created, opened, released)) as pending, array_agg(u.net) as net,
        array_agg(u.stripe_fee) as stripe_fee, array_agg(u.application_fee) as application_fee,
        array_agg(u.tax) as tax, array_agg(u.passthrough_fee) as passthrough_fee,
        array_agg(u.other_currency) as other_currency, array_agg(u.other_amount) as other_amount
    into due from ledger.unbooked u where u.id = any (p_ids);
    if due.id is null then
        return 0;
    end if;
    perform ledger._refuse_unknown(due.category);
    perform ledger.open_accounts(t.account, t.currency, t.other)
    from (select distinct account, currency, other from unnest(due.account, due.currency, due.other_currency)
        as t (account, currency, other) order by 1, 2, 3) t;
    insert into oltp.ledger_entries (id, kind, account_id, effective_at)
    select * from unnest(due.entry, due.category, due.account, due.effective);
    perform ledger._post(due.entry, due.category, due.account, due.currency, due.pending, due.net, due.stripe_fee,
        due.application_fee, due.tax, due.passthrough_fee, due.other_currency, due.other_amount);
    update oltp.balance_transactions b
    set ledger_entry_id = t.entry, available_entry_id = case when not t.pending then t.entry end
    from unnest(due.id, due.entry, due.pending) as t (id, entry, pending) where b.id = t.id;
    perform ledger._check_limits(array_agg(t.account), array_agg(t.currency))
    from unnest(due.account, due.currency, due.category, due.net, due.pending)
        as t (account, currency, category, net, pending)
    join oltp.posting_rules r on r.category = t.category and r.kind = 'merchant_available' and r.limited
    where t.net < 0 and not t.pending having count(*) > 0;
    return cardinality(due.id);
end $$;

-- A day's load in summary: one entry per merchant, currency, category and availability. Its balance transactions name it.
create function ledger.book_day(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    due record;
    at timestamptz;
    booked integer;
begin
    select greatest((p_day + 1)::timestamp at time zone 'UTC' - interval '1 microsecond', c.open_from) into at
    from ops.ledger_calendar c;
    create temporary table if not exists ledger_day (
        id text, entry text, category text, account text, currency text, pending boolean, net bigint, stripe_fee bigint,
        application_fee bigint, tax bigint, passthrough_fee bigint, other_currency text, other_amount bigint
    ) on commit drop;
    truncate pg_temp.ledger_day;
    insert into pg_temp.ledger_day
    select u.id, null, u.category, u.account_id, u.currency, u.available_on > at, u.net, u.stripe_fee, u.application_fee,
        u.tax, u.passthrough_fee, u.other_currency, u.other_amount
    from ledger.unbooked u
    where u.id >= 'txn_' || substr(ledger._from_id(p_day::timestamp at time zone 'UTC'), 4, 12)
    and u.id < 'txn_' || substr(ledger._from_id((p_day + 1)::timestamp at time zone 'UTC'), 4, 12);
    get diagnostics booked = row_count;
    if booked = 0 then
        return 0;
    end if;
    update pg_temp.ledger_day d set entry = g.entry
    from (
        select 'le_' || ops.id_body(at) as entry, k.* from (
            select distinct category, account, currency, pending, other_currency from pg_temp.ledger_day
        ) k
    ) g
    where (g.category, g.account, g.currency, g.pending, g.other_currency)
        is not distinct from (d.category, d.account, d.currency, d.pending, d.other_currency);
    select array_agg(g.entry) as entry, array_agg(g.category) as category, array_agg(g.account) as account,
        array_agg(g.currency) as currency, array_agg(g.pending) as pending, array_agg(g.net) as net,
        array_agg(g.stripe_fee) as stripe_fee, array_agg(g.application_fee) as application_fee,
        array_agg(g.tax) as tax, array_agg(g.passthrough_fee) as passthrough_fee,
        array_agg(g.other_currency) as other_currency, array_agg(g.other_amount) as other_amount
    into due from (
        select d.entry, d.category, d.account, d.currency, d.pending, sum(d.net)::bigint as net,
            sum(d.stripe_fee)::bigint as stripe_fee, sum(d.application_fee)::bigint as application_fee,
            sum(d.tax)::bigint as tax, sum(d.passthrough_fee)::bigint as passthrough_fee, d.other_currency,
            sum(d.other_amount)::bigint as other_amount
        from pg_temp.ledger_day d group by d.entry, d.category, d.account, d.currency, d.pending, d.other_currency
    ) g;
    perform ledger._refuse_unknown(due.category);
    perform ledger.open_accounts(t.account, t.currency, t.other)
    from (select distinct account, currency, other from unnest(due.account, due.currency, due.other_currency)
        as t (account, currency, other) order by 1, 2, 3) t;
    insert into oltp.ledger_entries (id, kind, account_id, effective_at)
    select t.entry, t.category, t.account, at from unnest(due.entry, due.category, due.account) as t (entry, category, account);
    perform ledger._post(due.entry, due.category, due.account, due.currency, due.pending, due.net, due.stripe_fee,
        due.application_fee, due.tax, due.passthrough_fee, due.other_currency, due.other_amount);
    update oltp.balance_transactions b
    set ledger_entry_id = d.entry, available_entry_id = case when not d.pending then d.entry end
    from pg_temp.ledger_day d where b.id = d.id;
    return booked;
end $$;

-- An own event of the ledger, booked once per (category, source): asked again, it names the entry that stands.
create function ledger.book_event(
    p_category text, p_source text, p_account text, p_currency text, p_amount bigint, p_at timestamptz default null,
    p_phase text default 'single'
) returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._effective(p_at);
    entry text;
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.book_event:' || p_category || ':' || p_source, 0));
    select e.id into entry from oltp.ledger_entries e where e.source_id = p_source and e.kind = p_category
    and e.phase = p_phase
    and not exists (select 1 from oltp.ledger_reversals r where r.entry_id = e.id or r.reversal_id = e.id);
    if found or p_amount = 0 then
        return entry;
    end if;
    perform ledger._refuse_unknown(array[p_category]);
    perform ledger.open_accounts(p_account, p_currency);
    entry := 'le_' || ops.id_body(at);
    insert into oltp.ledger_entries (id, kind, phase, account_id, source_id, effective_at)
    values (entry, p_category, p_phase, p_account, p_source, at);
    perform ledger._post(array[entry], array[p_category], array[p_account], array[p_currency], array[false],
        array[p_amount], array[0::bigint], array[0::bigint], array[0::bigint], array[0::bigint], array[null::text],
        array[null::bigint]);
    return entry;
end $$;

create function ledger.reverse(p_entry text, p_at timestamptz default null, p_phase text default 'single') returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._effective(p_at);
    original oltp.ledger_entries;
    entry text := 'le_' || ops.id_body(at);
begin
    select * into original from oltp.ledger_entries e where e.id = p_entry;
    if not found then
        raise exception 'entry % does not exist: check the id', p_entry
        using errcode = 'P0001', constraint = 'resource_missing', table = 'ledger_entries';
    end if;
    if exists (select 1 from oltp.ledger_reversals r where r.entry_id = p_entry) then
        raise exception 'entry % is reversed already: an entry is reversed once', p_entry
        using errcode = 'P0001', constraint = 'reversed_once', table = 'ledger_reversals';
    end if;
    insert into oltp.ledger_entries (id, kind, phase, account_id, source_id, effective_at)
    values (entry, original.kind, p_phase, original.account_id, original.source_id, at);
    insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
    select entry, p.position, p.ledger_account_id, p.currency, -p.amount from oltp.ledger_postings p
    where p.entry_id = p_entry;
    insert into oltp.ledger_reversals (entry_id, reversal_id) values (p_entry, entry);
    return entry;
end $$;

-- Whether releases are past this instant: what comes late would wait for one that is over. A release under way is
-- waited for, so that none can pass unseen.
create function ledger._released(p_available_on timestamptz) returns boolean language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(hashtextextended('ledger.release', 0));
    return p_available_on <= (select c.released_until from ops.ledger_calendar c);
end $$;

-- Pending becomes available: one entry per merchant and currency. The overlap of a day catches what was booked while
-- the last release ran.
create function ledger.release(p_until timestamptz) returns integer language plpgsql security definer
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
        select b.account_id, b.currency, array_agg(b.id) as ids, sum(b.net)::bigint as net
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
        entry := ledger.book_event('balance_release', 'release:' || due.ids[1], due.account_id, due.currency, due.net,
            p_until);
        update oltp.balance_transactions b
        set status = 'available', available_entry_id = coalesce(entry, b.ledger_entry_id) where b.id = any (due.ids);
        released := released + cardinality(due.ids);
    end loop;
    update ops.ledger_calendar set released_until = greatest(released_until, p_until);
    return released;
end $$;

-- The networks pay what they owe less what payers got back: what stands on the two accounts becomes cash.
create function ledger.settle_network(p_until timestamptz) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    due record;
    settled integer := 0;
    source text;
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.settle_network', 0));
    for due in
        select a.id, a.currency, r.category,
            ledger.balance(a.id, p_until) * case when a.kind = 'refund_clearing' then -1 else 1 end as amount
        from oltp.ledger_accounts a
        join oltp.posting_rules r on r.kind = a.kind and r.net = -1
            and r.category in ('network_settlement', 'refund_settlement', 'issuing_settlement')
        order by a.id
    loop
        source := 'settlement:' || due.currency || ':' || to_char(p_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US');
        if due.amount <> 0
            and not exists (select 1 from oltp.ledger_entries e where e.source_id = source and e.kind = due.category) then
            perform ledger.book_event(due.category, source, null, due.currency, due.amount, p_until);
            settled := settled + 1;
        end if;
    end loop;
    return settled;
end $$;

-- A position of one pair is traded: `p_bought` units of one currency for those of the other that were exchanged.
-- What the trade brought more or less than the payments promised is rounding, one minor unit per payment at most.
create function ledger.trade(p_sold text, p_bought text, p_proceeds bigint, p_at timestamptz default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := ledger._effective(p_at);
    sold_account text := 'fx_clearing:' || p_sold || ':' || p_bought;
    bought_account text := 'fx_clearing:' || p_bought || ':' || p_sold;
    sold bigint;
    promised bigint;
    payments bigint;
    last_trade text;
    entry text := 'le_' || ops.id_body(at);
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.trade:' || least(p_sold, p_bought) || greatest(p_sold, p_bought), 0));
    -- One statement, one snapshot: a payment that commits meanwhile is in both sides or in none.
    select ledger.balance(sold_account), ledger.balance(bought_account) into sold, promised;
    select max(e.id) into last_trade from oltp.ledger_entries e
    where e.source_id = 'trade:' || least(p_sold, p_bought) || ':' || greatest(p_sold, p_bought) and e.kind = 'fx_trade';
    select count(*) into payments from oltp.ledger_postings p
    where p.ledger_account_id = sold_account and p.entry_id > coalesce(last_trade, 'le_');
    if sold = 0 and promised = 0 then
        return null;
    end if;
    if p_proceeds is null or abs(promised - p_proceeds) > payments then
        raise exception 'the trade of % for % brings another amount than its % payments promised: check the proceeds',
            p_sold, p_bought, payments using errcode = 'P0001', constraint = 'trade_matches_payments',
            table = 'ledger_postings';
    end if;
    perform ledger.open_accounts(null, p_sold, p_bought);
    insert into oltp.ledger_entries (id, kind, source_id, effective_at)
    values (entry, 'fx_trade', 'trade:' || least(p_sold, p_bought) || ':' || greatest(p_sold, p_bought), at);
    insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
    select entry, row_number() over (), l.account, l.currency, l.amount from (values
        (sold_account, p_sold, -sold), ('cash:' || p_sold, p_sold, sold),
        (bought_account, p_bought, -promised), ('cash:' || p_bought, p_bought, p_proceeds),
        ('rounding:' || p_bought, p_bought, promised - p_proceeds)
    ) as l (account, currency, amount) where l.amount <> 0;
    return entry;
end $$;

-- Closing: payments that are being written end first, later ones are dated from here on. What lies before is final.
create function ledger.close(p_until timestamptz) returns timestamptz language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    opened timestamptz;
begin
    if p_until > clock_timestamp() then
        raise exception 'the books cannot be closed until %: that lies ahead', p_until
        using errcode = 'P0001', constraint = 'books_close_behind', table = 'ledger_calendar';
    end if;
    lock table oltp.ledger_entries in share row exclusive mode;
    update ops.ledger_calendar set open_from = greatest(open_from, p_until) returning open_from into opened;
    return opened;
end $$;

-- Daily balances of closed days, for accounts that moved.
create function ledger.keep_balances(p_day date) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    kept integer;
begin
    if (p_day + 1)::timestamp at time zone 'UTC' > (select c.open_from from ops.ledger_calendar c) then
        raise exception 'day % is open: close the books until its end first', p_day
        using errcode = 'P0001', constraint = 'day_is_closed', table = 'ledger_balances';
    end if;
    if exists (select 1 from oltp.ledger_balances b where b.day >= p_day) then
        return 0;
    end if;
    insert into oltp.ledger_balances (ledger_account_id, day, balance)
    select m.ledger_account_id, p_day, m.amount + coalesce(l.balance, 0)
    from (
        select p.ledger_account_id, sum(p.amount)::bigint as amount from oltp.ledger_postings p
        where p.entry_id < ledger._from_id((p_day + 1)::timestamp at time zone 'UTC')
        and p.entry_id >= coalesce((select ledger._from_id((max(b.day) + 1)::timestamp at time zone 'UTC')
            from oltp.ledger_balances b), 'le_')
        group by p.ledger_account_id
    ) m
    left join lateral (
        select b.balance from oltp.ledger_balances b where b.ledger_account_id = m.ledger_account_id
        order by b.day desc limit 1
    ) l on true;
    get diagnostics kept = row_count;
    return kept;
end $$;

-- The hash chain over closed entries. Leaves are the rows' canonical text; a seal covers at most 1,000 entries, so that
-- what was altered is found closely.
create function ledger._root(p_previous text, p_first text, p_last text, out entries integer, out postings integer, out root text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    with leaf as (
        select e.id, p.n, sha256(convert_to(concat_ws('|', e.id, e.kind, e.phase, coalesce(e.account_id, '-'),
            coalesce(e.source_id, '-'), (extract(epoch from e.effective_at) * 1000000)::bigint,
            (extract(epoch from e.created) * 1000000)::bigint, p.text), 'UTF8')) as hash
        from oltp.ledger_entries e
        left join lateral (
            select count(*) as n, string_agg(concat_ws('|', p.position, p.ledger_account_id, p.currency, p.amount), '|'
                order by p.position) as text
            from oltp.ledger_postings p where p.entry_id = e.id
        ) p on true
        where e.id >= p_first and e.id <= p_last
    )
    select count(*)::integer, coalesce(sum(l.n), 0)::integer,
        encode(sha256(decode(p_previous, 'hex') || coalesce(string_agg(l.hash, ''::bytea order by l.id), ''::bytea)), 'hex')
    from leaf l
$$;

create function ledger.seal() returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    chain record;
    block record;
    sealed record;
    ends text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.seal', 0));
    select ledger._from_id(c.open_from) into ends from ops.ledger_calendar c;
    select s.sequence, s.last_entry_id, s.root into chain from oltp.ledger_seals s order by s.sequence desc limit 1;
    loop
        select min(e.id) as first, max(e.id) as last into block from (
            select l.id from oltp.ledger_entries l where l.id > coalesce(chain.last_entry_id, 'le_') and l.id < ends
            order by l.id limit 1000
        ) e;
        exit when block.first is null;
        select * into sealed from ledger._root(coalesce(chain.root, repeat('0', 64)), block.first, block.last);
        insert into oltp.ledger_seals (sequence, first_entry_id, last_entry_id, entries, postings, previous_root, root)
        values (coalesce(chain.sequence, 0) + 1, block.first, block.last, sealed.entries, sealed.postings,
            coalesce(chain.root, repeat('0', 64)), sealed.root)
        returning sequence, last_entry_id, root into chain;
        made := made + 1;
    end loop;
    return made;
end $$;

-- Seals that do not hold: nothing when the journal is as it was sealed. Entries between or behind seals are found too.
create function ledger.verify() returns table (sequence bigint, first_entry_id text, last_entry_id text, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    seal oltp.ledger_seals;
    now_ record;
    previous_root text := repeat('0', 64);
    previous_last text := 'le_';
    previous_sequence bigint := 0;
begin
    for seal in select * from oltp.ledger_seals s order by s.sequence loop
        select * into now_ from ledger._root(seal.previous_root, seal.first_entry_id, seal.last_entry_id);
        problem := case
            when seal.sequence <> previous_sequence + 1 then 'a seal before it is missing'
            when seal.previous_root <> previous_root then 'it does not follow the seal before it'
            when now_.entries <> seal.entries then 'entries were added or removed'
            when now_.postings <> seal.postings then 'postings were added or removed'
            when now_.root <> seal.root then 'an entry or posting was altered'
            when exists (select 1 from oltp.ledger_entries e where e.id > previous_last and e.id < seal.first_entry_id)
            then 'an entry was slipped in before it'
        end;
        if problem is not null then
            sequence := seal.sequence;
            first_entry_id := seal.first_entry_id;
            last_entry_id := seal.last_entry_id;
            return next;
        end if;
        previous_root := seal.root;
        previous_last := seal.last_entry_id;
        previous_sequence := seal.sequence;
    end loop;
end $$;

create function ledger.trial_balance(p_at timestamptz default null)
returns table (currency text, debit numeric, credit numeric) language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
    select p.currency, sum(p.amount) filter (where p.amount > 0), -sum(p.amount) filter (where p.amount < 0)
    from oltp.ledger_postings p where p_at is null or p.entry_id < ledger._from_id(p_at)
    group by p.currency order by 1
$$;

create function ledger.open_clearing(p_older_than interval default '10 days', p_at timestamptz default null)
returns table (ledger_account_id text, balance bigint) language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
    select a.id, o.balance from oltp.ledger_accounts a
    join oltp.ledger_account_kinds k on k.kind = a.kind and k.clearing
    cross join lateral (select ledger.balance(a.id, coalesce(p_at, clock_timestamp()) - p_older_than) as balance) o
    where o.balance <> 0 and ledger.balance(a.id, p_at) <> 0 order by 1
$$;
comment on function ledger.open_clearing is 'Clearing accounts that stood open then and still do';

-- Payments: one call, one transaction. What the rules refuse is an answer too ({"error": ...}) and is kept under its
-- idempotency key like any other; it is decided before anything is written.
create schema payments;

create function payments._refusal(p_type text, p_code text, p_message text, p_param text default null) returns text
language sql immutable as $$
    select json_build_object('error', json_strip_nulls(json_build_object(
        'type', p_type, 'code', p_code, 'message', p_message, 'param', p_param)))::text
$$;

-- Null when the key is ours now (or there is none); else what to answer instead of acting.
create function payments._claim(
    p_account text, p_key text, p_hash bytea, p_operation text, p_object text, p_answer text
) returns text language plpgsql as $$
declare
    first oltp.idempotency_keys;
begin
    insert into oltp.idempotency_keys as k (account_id, key, params_hash, operation, object_id, answer)
    values (p_account, p_key, p_hash, p_operation, p_object, p_answer)
    on conflict (account_id, key) do update set params_hash = excluded.params_hash, operation = excluded.operation,
        object_id = excluded.object_id, answer = excluded.answer, created = excluded.created,
        expires_at = excluded.expires_at
    where k.expires_at < clock_timestamp();
    if found then
        return null;
    end if;
    select * into first from oltp.idempotency_keys k where k.account_id = p_account and k.key = p_key;
    if first.params_hash <> p_hash or first.operation <> p_operation then
        return payments._refusal('idempotency_error', 'idempotency_key_reused',
            'the idempotency key was used before with other parameters: use a new key for a new request');
    end if;
    return coalesce(first.answer, payments._refusal('idempotency_error', 'idempotency_key_in_use',
        'the idempotency key is in use by another request: repeat the call when it has ended'));
end $$;

create function payments._event(p_type text, p_account text, p_kind text, p_object text, p_key text, p_at timestamptz)
returns void language sql as $$
    insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)
    values ('evt_' || ops.id_body(p_at), p_type, p_account, p_kind, p_object, p_key, p_at)
$$;

-- What a merchant's charges are subject to, read in one go.
create type payments.terms as (
    charges_enabled boolean, basis_points integer, fixed bigint, multiple smallint, days_to_available smallint,
    open_from timestamptz, is_open boolean
);
create function payments._terms(p_account text, p_currency text) returns payments.terms language plpgsql stable as $$
declare
    terms payments.terms;
begin
    select a.charges_enabled and not a.deleted, coalesce(g.basis_points, f.basis_points), coalesce(g.fixed, f.fixed),
        coalesce(g.multiple, f.multiple), coalesce(g.days_to_available, f.days_to_available), k.open_from,
        l.id is not null
    into terms
    from ops.ledger_calendar k
    left join oltp.accounts a on a.id = p_account
    left join oltp.fee_policies f on f.kind = 'charge' and f.currency = p_currency and f.country = '*'
    left join oltp.fee_policies g on g.kind = 'charge' and g.currency = p_currency and g.country = a.country
    left join oltp.ledger_accounts l
        on l.id = 'merchant_pending:' || p_currency || case when p_account is null then '' else ':' || p_account end;
    return terms;
end $$;

create function payments._fee(p_amount bigint, p_terms payments.terms) returns bigint
language plpgsql immutable as $$
declare
    units bigint := p_amount / p_terms.multiple;
begin
    return (units / 10000 * p_terms.basis_points + (units % 10000 * p_terms.basis_points + 5000) / 10000)
        * p_terms.multiple + p_terms.fixed;
end $$;
comment on function payments._fee is 'Basis points of an amount, half up, and the fixed part; minor units';

-- Major units of one currency for one of another: the newest rate not after the day, else the oldest there is.
create function payments._rate(p_from text, p_to text, p_day date) returns numeric language plpgsql stable as $$
declare
    direct numeric;
    first_leg numeric;
    second_leg numeric;
begin
    select r.rate into direct from oltp.exchange_rates r where r.from_currency = p_from and r.to_currency = p_to
    order by r.day <= p_day desc, abs(r.day - p_day) limit 1;
    if direct is not null then
        return round(direct, 10);
    end if;
    select r.rate into first_leg from oltp.exchange_rates r where r.from_currency = p_from and r.to_currency = 'eur'
    order by r.day <= p_day desc, abs(r.day - p_day) limit 1;
    select r.rate into second_leg from oltp.exchange_rates r where r.from_currency = p_to and r.to_currency = 'eur'
    order by r.day <= p_day desc, abs(r.day - p_day) limit 1;
    return round(first_leg / second_leg, 10);
end $$;

create function payments._exchange(p_amount bigint, p_rate numeric, p_from text, p_to text) returns bigint
language sql stable as $$
    select (case when t.stripe_exponent = 3 then round(p_amount * p_rate * 10.0 ^ (2 - f.stripe_exponent)) * 10
        else round(p_amount * p_rate * 10.0 ^ (t.stripe_exponent - f.stripe_exponent)) end)::bigint
    from oltp.currencies f, oltp.currencies t where f.code = p_from and t.code = p_to
$$;

-- A balance transaction with its fee and its entry. `p_fee` is all Stripe's; the rules say where it goes.
create function payments._move(
    p_body text, p_at timestamptz, p_account text, p_source text, p_type text, p_category text, p_amount bigint,
    p_fee bigint, p_currency text, p_available_on timestamptz, p_open_from timestamptz,
    p_rate numeric default null, p_other_currency text default null, p_other_amount bigint default null
) returns text language plpgsql as $$
declare
    movement text := 'txn_' || p_body;
    effective timestamptz := p_at;
    entry text := 'le_' || p_body;
    waits boolean;
begin
    -- What is nothing in the settlement currency may be something in the other.
    if p_amount = 0 and p_fee = 0 and coalesce(p_other_amount, 0) = 0 then
        return null;
    end if;
    if p_at < p_open_from then
        effective := p_open_from;
        entry := 'le_' || ops.id_body(effective);
    end if;
    waits := p_available_on > effective and (p_available_on > clock_timestamp() or not ledger._released(p_available_on));
    with booked as (
        insert into oltp.ledger_entries (id, kind, account_id, effective_at)
        values (entry, p_category, p_account, effective)
    ),
    moved as (
        insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net,
            currency, exchange_rate, status, available_on, created, ledger_entry_id, available_entry_id)
        values (movement, p_account, p_source, p_type, p_category, p_amount, p_fee, p_amount - p_fee, p_currency, p_rate,
            case when waits then 'pending' else 'available' end, p_available_on, p_at, entry,
            case when not waits then entry end)
        returning id, fee, currency
    )
    insert into oltp.fee_details (balance_transaction_id, position, type, amount, currency)
    select m.id, 0, 'stripe_fee', m.fee, m.currency from moved m where m.fee <> 0;
    if p_other_currency is null then
        insert into oltp.ledger_postings (entry_id, position, ledger_account_id, currency, amount)
        select entry, row_number() over (),
            case when waits and s.kind = 'merchant_available' then 'merchant_pending' else s.kind end || ':' || p_currency
            || case when s.kind like 'merchant\_%' then coalesce(':' || p_account, '') else '' end, p_currency, s.amount
        from (
            select r.kind, r.net * (p_amount - p_fee) + r.stripe_fee * p_fee as amount from oltp.posting_rules r
            where r.category = p_category
        ) s
        where s.amount <> 0;
    else
        perform ledger._post(array[entry], array[p_category], array[p_account], array[p_currency], array[waits],
            array[p_amount - p_fee], array[p_fee], array[0::bigint], array[0::bigint], array[0::bigint],
            array[p_other_currency], array[p_other_amount]);
    end if;
    return movement;
end $$;

-- What a captured charge earns its merchant.
create function payments._earn(
    p_body text, p_at timestamptz, p_account text, p_charge text, p_amount bigint, p_currency text, p_settlement text,
    p_terms payments.terms
) returns text language plpgsql as $$
declare
    rate numeric;
    settled bigint := p_amount;
begin
    if p_amount = 0 then
        return null;
    end if;
    if p_terms.fixed is null then
        raise exception 'no fee policy for charges in %: add a row to fee_policies', p_settlement
        using errcode = 'P0001', constraint = 'currency_has_a_fee_policy', table = 'fee_policies';
    end if;
    if p_settlement <> p_currency then
        rate := payments._rate(p_currency, p_settlement, (p_at at time zone 'UTC')::date);
        if rate is null then
            raise exception 'no rate from % to %: add a row to exchange_rates', p_currency, p_settlement
            using errcode = 'P0001', constraint = 'currencies_have_a_rate', table = 'exchange_rates';
        end if;
        settled := payments._exchange(p_amount, rate, p_currency, p_settlement);
        perform ledger.open_accounts(p_account, p_settlement, p_currency);
    elsif not p_terms.is_open then
        perform ledger.open_accounts(p_account, p_settlement);
    end if;
    return payments._move(p_body, p_at, p_account, p_charge, 'charge', 'charge', settled,
        payments._fee(settled, p_terms), p_settlement, p_at + make_interval(days => p_terms.days_to_available),
        p_terms.open_from, rate, case when rate is not null then p_currency end,
        case when rate is not null then p_amount end);
end $$;

-- One attempt to collect: the charge with its outcome and, when money is taken at once, what it earns.
create function payments._attempt(
    p_body text, p_at timestamptz, p_intent text, p_account text, p_customer text, p_method text, p_terminal text,
    p_amount bigint, p_currency text, p_capture boolean, p_declined text, p_outcome text, p_device text, p_ip_country text,
    p_risk_level text, p_risk_score smallint, p_settlement text, p_terms payments.terms
) returns text language plpgsql as $$
declare
    charge text := 'ch_' || p_body;
    took boolean := p_declined is null and p_capture;
begin
    with charged as (
        insert into oltp.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, terminal_id, amount,
            amount_captured, currency, status, failure_code, device_type, ip_country, created)
        values (charge, p_intent, p_account, p_customer, p_method, p_terminal, p_amount,
            case when took then p_amount else 0 end, p_currency,
            case when p_declined is null then 'succeeded' else 'failed' end, p_declined, p_device, p_ip_country, p_at)
        returning id
    )
    insert into oltp.charge_outcomes (charge_id, type, network_status, reason, risk_level, risk_score)
    select c.id, p_outcome, case p_outcome when 'authorized' then 'approved_by_network'
        when 'manual_review' then 'approved_by_network' when 'issuer_declined' then 'declined_by_network'
        else 'not_sent_to_network' end, p_declined, p_risk_level, p_risk_score from charged c;
    if took then
        return payments._earn(p_body, p_at, p_account, charge, p_amount, p_currency, p_settlement, p_terms);
    elsif p_declined is null then
        return ledger.book_event('authorization', charge, p_account, p_currency, p_amount, p_at, 'pending');
    end if;
    return null;
end $$;

create function payments._payment_answer(p_intent text, p_status text, p_charge text, p_movement text, p_declined text,
    p_outcome text) returns text language plpgsql stable as $$
begin
    return json_build_object('payment_intent', p_intent, 'status', p_status, 'charge', p_charge,
        'balance_transaction', p_movement, 'failure_code', p_declined, 'outcome', p_outcome)::text;
end $$;

create function payments.create_payment(
    p_account text, p_customer text, p_method text, p_amount bigint, p_currency text,
    p_capture_method text default 'automatic', p_declined text default null, p_outcome text default null,
    p_terminal text default null, p_device text default 'desktop', p_ip_country text default null,
    p_risk_level text default 'not_assessed', p_risk_score smallint default null, p_settlement text default null,
    p_key text default null, p_hash bytea default null, p_created timestamptz default null,
    out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    intent text := 'pi_' || body;
    outcome text := coalesce(p_outcome, case when p_declined is null then 'authorized' else 'issuer_declined' end);
    status text := case when p_declined is not null then 'requires_payment_method'
        when p_capture_method = 'manual' then 'requires_capture' else 'succeeded' end;
    settlement text := coalesce(p_settlement, p_currency);
    terms payments.terms := payments._terms(p_account, settlement);
    refused text;
    stored text;
    done text;
begin
    replayed := false;
    if terms.charges_enabled is not true then
        refused := payments._merchant_refusal(p_account);
    end if;
    answer := coalesce(refused, payments._payment_answer(intent, status, 'ch_' || body,
        case when status = 'succeeded' and p_amount <> 0 then 'txn_' || body end, p_declined, outcome));
    if p_key is not null then
        stored := payments._claim(p_account, p_key, p_hash, 'create_payment', intent, answer);
        if stored is not null then
            answer := stored;
            replayed := true;
            return;
        end if;
    end if;
    if refused is not null then
        return;
    end if;
    insert into oltp.payment_intents (id, account_id, customer_id, payment_method_id, amount, amount_received, currency,
        status, capture_method, created)
    values (intent, p_account, p_customer, p_method, p_amount, case when status = 'succeeded' then p_amount else 0 end,
        p_currency, status, p_capture_method, at);
    done := payments._attempt(body, at, intent, p_account, p_customer, p_method, p_terminal, p_amount, p_currency,
        p_capture_method <> 'manual', p_declined, outcome, p_device, p_ip_country, p_risk_level, p_risk_score,
        settlement, terms);
    done := payments._payment_events(p_account, intent, 'ch_' || body, status, p_key, at);
end $$;

create function payments._merchant_refusal(p_account text) returns text language plpgsql stable as $$
declare
    enabled boolean;
begin
    select a.charges_enabled and not a.deleted into enabled from oltp.accounts a where a.id = p_account;
    if enabled then
        return null;
    end if;
    if enabled is null then
        return payments._refusal('invalid_request_error', 'resource_missing', format('account %s does not exist: check'
            ' the id', p_account), 'account');
    end if;
    return payments._refusal('invalid_request_error', 'account_invalid', format('account %s may not take payments:'
        ' complete its requirements', p_account), 'account');
end $$;

create function payments._payment_events(p_account text, p_intent text, p_charge text, p_status text, p_key text,
    p_at timestamptz) returns text language plpgsql as $$
begin
    insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)
    values ('evt_' || ops.id_body(p_at), case p_status when 'succeeded' then 'payment_intent.succeeded'
            when 'requires_capture' then 'payment_intent.amount_capturable_updated'
            else 'payment_intent.payment_failed' end, p_account, 'payment_intent', p_intent, p_key, p_at),
        ('evt_' || ops.id_body(p_at), case p_status when 'requires_payment_method' then 'charge.failed'
            else 'charge.succeeded' end, p_account, 'charge', p_charge, p_key, p_at);
    return null;
end $$;

create function payments.create_intent(
    p_account text, p_customer text, p_method text, p_amount bigint, p_currency text,
    p_capture_method text default 'automatic', p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    intent text := 'pi_' || ops.id_body(at);
    status text := case when p_method is null then 'requires_payment_method' else 'requires_confirmation' end;
    refused text := payments._merchant_refusal(p_account);
begin
    answer := coalesce(refused, payments._payment_answer(intent, status, null, null, null, null));
    select c.answer, c.replayed into answer, replayed
    from payments._first(p_account, p_key, p_hash, 'create_intent', intent, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    insert into oltp.payment_intents (id, account_id, customer_id, payment_method_id, amount, amount_received, currency,
        status, capture_method, created)
    values (intent, p_account, p_customer, p_method, p_amount, 0, p_currency, status, p_capture_method, at);
    perform payments._event('payment_intent.created', p_account, 'payment_intent', intent, p_key, at);
end $$;

create function payments._first(p_account text, p_key text, p_hash bytea, p_operation text, p_object text,
    p_answer text, out answer text, out replayed boolean) language plpgsql as $$
begin
    if p_key is not null and p_account is not null then
        answer := payments._claim(p_account, p_key, p_hash, p_operation, p_object, p_answer);
    elsif p_key is not null and p_answer not like '{"error"%' then
        answer := payments._refusal('idempotency_error', 'idempotency_key_unusable',
            'this object belongs to no account, and idempotency keys belong to one: repeat without a key');
    end if;
    replayed := answer is not null;
    answer := coalesce(answer, p_answer);
end $$;

create function payments._may_move(p_kind text, p_from text, p_to text) returns boolean language sql stable as $$
    select exists (select 1 from ops.status_moves m where m.object_kind = p_kind and m.from_status = p_from
        and m.to_status = p_to)
$$;

create function payments._wrong_state(p_kind text, p_id text, p_status text, p_wish text) returns text
language sql immutable as $$
    select payments._refusal('invalid_request_error', replace(p_kind, ' ', '_') || '_unexpected_state',
        format('%s %s is %s: it cannot %s; read its status first', p_kind, p_id, p_status, p_wish))
$$;

create function payments._missing(p_kind text, p_id text) returns text language sql immutable as $$
    select payments._refusal('invalid_request_error', 'resource_missing', format('%s %s does not exist: check the id',
        p_kind, p_id), replace(p_kind, ' ', '_'))
$$;

-- `p_action` asks the payer to authenticate first: the intent waits in requires_action and no charge is made.
create function payments.confirm_intent(
    p_intent text, p_method text default null, p_action boolean default false, p_declined text default null,
    p_outcome text default null, p_terminal text default null, p_device text default 'desktop',
    p_ip_country text default null, p_risk_level text default 'not_assessed', p_risk_score smallint default null,
    p_settlement text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    outcome text := coalesce(p_outcome, case when p_declined is null then 'authorized' else 'issuer_declined' end);
    intent oltp.payment_intents;
    reached text;
    refused text;
begin
    select * into intent from oltp.payment_intents i where i.id = p_intent for no key update;
    reached := case when p_action then 'requires_action' when p_declined is not null then 'requires_payment_method'
        when intent.capture_method = 'manual' then 'requires_capture' else 'succeeded' end;
    refused := case
        when intent.id is null then payments._missing('payment intent', p_intent)
        when intent.status not in ('requires_payment_method', 'requires_confirmation', 'requires_action')
        then payments._wrong_state('payment intent', p_intent, intent.status, 'be confirmed')
        when coalesce(p_method, intent.payment_method_id) is null
        then payments._refusal('invalid_request_error', 'parameter_missing', format(
            'payment intent %s has no payment method: name one', p_intent), 'payment_method')
        else payments._merchant_refusal(intent.account_id) end;
    answer := coalesce(refused, case when p_action then payments._payment_answer(p_intent, reached, null, null, null, null)
        else payments._payment_answer(p_intent, reached, 'ch_' || body, case when reached = 'succeeded'
            and intent.amount <> 0 then 'txn_' || body end, p_declined, outcome) end);
    select c.answer, c.replayed into answer, replayed
    from payments._first(intent.account_id, p_key, p_hash, 'confirm_intent', p_intent, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    update oltp.payment_intents i set status = reached,
        payment_method_id = coalesce(p_method, i.payment_method_id),
        amount_received = case when reached = 'succeeded' then i.amount else i.amount_received end
    where i.id = p_intent;
    if p_action then
        perform payments._event('payment_intent.requires_action', intent.account_id, 'payment_intent', p_intent, p_key, at);
        return;
    end if;
    perform payments._attempt(body, at, p_intent, intent.account_id, intent.customer_id,
        coalesce(p_method, intent.payment_method_id), p_terminal, intent.amount, intent.currency,
        intent.capture_method <> 'manual', p_declined, outcome, p_device, p_ip_country, p_risk_level, p_risk_score,
        coalesce(p_settlement, intent.currency),
        payments._terms(intent.account_id, coalesce(p_settlement, intent.currency)));
    perform payments._payment_events(intent.account_id, p_intent, 'ch_' || body, reached, p_key, at);
end $$;

-- The pending entry of an authorisation ends: posted by a capture, void by a cancellation. Either undoes the memo.
create function payments._end_authorization(p_charge text, p_phase text, p_at timestamptz) returns void
language plpgsql as $$
declare
    pending text;
begin
    select e.id into pending from oltp.ledger_entries e where e.source_id = p_charge and e.kind = 'authorization'
    and e.phase = 'pending' and not exists (select 1 from oltp.ledger_reversals r where r.entry_id = e.id);
    if found then
        perform ledger.reverse(pending, p_at, p_phase);
    end if;
end $$;

create function payments.capture_intent(
    p_intent text, p_amount bigint default null, p_settlement text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    intent oltp.payment_intents;
    charge oltp.charges;
    taken bigint;
    refused text;
begin
    select * into intent from oltp.payment_intents i where i.id = p_intent for no key update;
    select * into charge from oltp.charges c where c.payment_intent_id = p_intent and c.status = 'succeeded'
    for no key update;
    taken := coalesce(p_amount, charge.amount);
    refused := case
        when intent.id is null then payments._missing('payment intent', p_intent)
        when intent.status <> 'requires_capture' or charge.id is null
        then payments._wrong_state('payment intent', p_intent, intent.status, 'be captured')
        when taken > charge.amount or taken <= 0
        then payments._refusal('invalid_request_error', 'amount_too_large', format('capture of payment intent %s must'
            ' lie above zero and within the authorised amount: capture less', p_intent), 'amount_to_capture') end;
    answer := coalesce(refused, payments._payment_answer(p_intent, 'succeeded', charge.id, 'txn_' || body, null,
        'authorized'));
    select c.answer, c.replayed into answer, replayed
    from payments._first(intent.account_id, p_key, p_hash, 'capture_intent', p_intent, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    update oltp.charges set amount_captured = taken where id = charge.id;
    update oltp.payment_intents i set status = 'succeeded', amount_received = taken where i.id = p_intent;
    perform payments._end_authorization(charge.id, 'post', at);
    perform payments._earn(body, at, intent.account_id, charge.id, taken, charge.currency,
        coalesce(p_settlement, charge.currency),
        payments._terms(intent.account_id, coalesce(p_settlement, charge.currency)));
    perform payments._event('charge.captured', intent.account_id, 'charge', charge.id, p_key, at);
    perform payments._event('payment_intent.succeeded', intent.account_id, 'payment_intent', p_intent, p_key, at);
end $$;

create function payments.cancel_intent(
    p_intent text, p_reason text default null, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    intent oltp.payment_intents;
    authorized text;
    refused text;
begin
    select * into intent from oltp.payment_intents i where i.id = p_intent for no key update;
    refused := case
        when intent.id is null then payments._missing('payment intent', p_intent)
        when not payments._may_move('payment_intent', intent.status, 'canceled')
        then payments._wrong_state('payment intent', p_intent, intent.status, 'be canceled') end;
    if intent.status = 'requires_capture' then
        select c.id into authorized from oltp.charges c where c.payment_intent_id = p_intent and c.status = 'succeeded';
    end if;
    answer := coalesce(refused, payments._payment_answer(p_intent, 'canceled', authorized, null, null, null));
    select c.answer, c.replayed into answer, replayed
    from payments._first(intent.account_id, p_key, p_hash, 'cancel_intent', p_intent, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    update oltp.payment_intents i set status = 'canceled' where i.id = p_intent;
    insert into oltp.payment_intent_details (payment_intent_id, cancellation_reason, canceled_at)
    values (p_intent, p_reason, at)
    on conflict (payment_intent_id) do update set cancellation_reason = excluded.cancellation_reason,
        canceled_at = excluded.canceled_at;
    if authorized is not null then
        update oltp.charge_outcomes set network_status = 'reversed_after_approval' where charge_id = authorized;
        perform payments._end_authorization(authorized, 'void', at);
    end if;
    perform payments._event('payment_intent.canceled', intent.account_id, 'payment_intent', p_intent, p_key, at);
end $$;

-- Part of what a charge's own movement brought, in the settlement currency: parts that add up to the charge add up to
-- the movement, to the minor unit.
create function payments._part(p_whole bigint, p_of bigint, p_before bigint, p_amount bigint, p_unit integer default 1)
returns bigint language sql immutable as $$
    select case when p_of = p_whole and p_unit = 1 then p_amount
        else (round(p_whole::numeric * (p_before + p_amount) / p_of / p_unit)
            - round(p_whole::numeric * p_before / p_of / p_unit))::bigint * p_unit end
$$;
comment on function payments._part is 'In whole units of the currency: amounts with three decimals end with 0';

-- A movement that gives back (or returns) part of a charge: dated with the charge's money while that is pending.
create function payments._give_back(
    p_body text, p_at timestamptz, p_charge oltp.charges, p_source text, p_type text, p_category text, p_sign integer,
    p_before bigint, p_amount bigint, p_fee bigint
) returns text language plpgsql as $$
declare
    earned oltp.balance_transactions;
    open_from timestamptz;
    moved bigint := p_amount;
begin
    select * into earned from oltp.balance_transactions b where b.source_id = p_charge.id
    and b.reporting_category = 'charge' order by b.created limit 1;
    select c.open_from into open_from from ops.ledger_calendar c;
    if earned.id is null then
        earned.currency := p_charge.currency;
    else
        moved := payments._part(earned.amount, p_charge.amount_captured, p_before, p_amount,
            case when earned.exchange_rate is null then 1 else payments._unit(earned.currency) end);
    end if;
    perform ledger.open_accounts(p_charge.account_id, earned.currency,
        nullif(p_charge.currency, earned.currency));
    return payments._move(p_body, p_at, p_charge.account_id, p_source, p_type, p_category, p_sign * moved, p_fee,
        earned.currency, case when earned.available_entry_id is null and earned.ledger_entry_id is not null
        then greatest(earned.available_on, p_at) else p_at end, open_from, earned.exchange_rate,
        case when earned.currency <> p_charge.currency then p_charge.currency end,
        case when earned.currency <> p_charge.currency then p_sign * p_amount end);
end $$;

create function payments._refund_answer(p_refund text, p_status text, p_charge text, p_movement text, p_failure text)
returns text language sql immutable as $$
    select json_build_object('refund', p_refund, 'status', p_status, 'charge', p_charge,
        'balance_transaction', p_movement, 'failure_reason', p_failure)::text
$$;

create function payments.refund_charge(
    p_charge text, p_amount bigint default null, p_currency text default null,
    p_reason text default 'requested_by_customer', p_status text default 'succeeded', p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    refund text := 're_' || body;
    charge oltp.charges;
    underway bigint;
    given bigint;
    refused text;
begin
    select * into charge from oltp.charges c where c.id = p_charge for no key update;
    select coalesce(sum(r.amount), 0) into underway from oltp.refunds r
    where r.charge_id = p_charge and r.status in ('pending', 'requires_action');
    given := coalesce(p_amount, charge.amount_captured - charge.amount_refunded - underway);
    refused := case
        when charge.id is null then payments._refusal('invalid_request_error', 'resource_missing', format(
            'refund of %s: no such charge; check the id', p_charge), 'charge')
        when p_currency <> charge.currency then payments._refusal('invalid_request_error', 'currency_mismatch', format(
            'refund of %s is in %s, the charge in %s: use the charge''s currency', p_charge, p_currency, charge.currency),
            'currency')
        when p_status not in ('succeeded', 'pending', 'requires_action') then payments._wrong_state('refund of', p_charge,
            'new', 'begin as ' || p_status)
        when given > charge.amount_captured - charge.amount_refunded - underway or given <= 0
        then payments._refusal('invalid_request_error',
            case when charge.amount_captured > 0 and charge.amount_refunded = charge.amount_captured
            then 'charge_already_refunded' else 'amount_too_large' end,
            format('refund of %s exceeds what is left of its captured amount: refund less', p_charge), 'amount')
        when charge.disputed and exists (select 1 from oltp.disputes d where d.charge_id = p_charge
            and d.status in ('needs_response', 'under_review', 'lost', 'appeal_needs_response', 'appeal_under_review'))
        then payments._refusal('invalid_request_error', 'charge_disputed', format(
            'refund of %s: the charge is disputed; answer the dispute instead', p_charge), 'charge') end;
    answer := coalesce(refused, payments._refund_answer(refund, p_status, p_charge, 'txn_' || body, null));
    select c.answer, c.replayed into answer, replayed
    from payments._first(charge.account_id, p_key, p_hash, 'refund_charge', refund, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    if p_status = 'succeeded' then
        update oltp.charges set amount_refunded = amount_refunded + given where id = p_charge;
    end if;
    insert into oltp.refunds (id, charge_id, payment_intent_id, amount, currency, status, reason, created,
        balance_transaction_id)
    values (refund, p_charge, charge.payment_intent_id, given, charge.currency, p_status, p_reason, at, 'txn_' || body);
    perform payments._give_back(body, at, charge, refund, 'refund', 'refund', -1, charge.amount_refunded + underway, given, 0);
    perform payments._event('refund.created', charge.account_id, 'refund', refund, p_key, at);
    if p_status = 'succeeded' then
        perform payments._event('charge.refunded', charge.account_id, 'charge', p_charge, p_key, at);
    end if;
end $$;

-- A refund that failed or was canceled gives back to the merchant exactly what it had taken.
create function payments.set_refund_status(
    p_refund text, p_status text, p_failure_reason text default null, p_key text default null,
    p_hash bytea default null, p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    charge oltp.charges;
    refund oltp.refunds;
    undone boolean := p_status in ('failed', 'canceled');
    movement text;
    refused text;
begin
    -- The charge first: refunds of one charge take their locks in one order.
    select c.* into charge from oltp.refunds r join oltp.charges c on c.id = r.charge_id where r.id = p_refund
    for no key update of c;
    select * into refund from oltp.refunds r where r.id = p_refund for no key update;
    refused := case
        when refund.id is null then payments._missing('refund', p_refund)
        when not payments._may_move('refund', refund.status, p_status)
        then payments._wrong_state('refund', p_refund, refund.status, 'become ' || coalesce(p_status, 'nothing')) end;
    answer := coalesce(refused, payments._refund_answer(p_refund, p_status, refund.charge_id,
        case when undone and refund.balance_transaction_id is not null then 'txn_' || body
        else refund.balance_transaction_id end, p_failure_reason));
    select c.answer, c.replayed into answer, replayed
    from payments._first(charge.account_id, p_key, p_hash, 'set_refund_status', p_refund, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    if undone and refund.balance_transaction_id is not null then
        movement := payments._return(body, at, refund.balance_transaction_id, p_refund, 'refund_failure', 'refund_failure',
            true);
    end if;
    if p_status = 'succeeded' then
        update oltp.charges set amount_refunded = amount_refunded + refund.amount where id = charge.id;
    elsif refund.status = 'succeeded' then
        update oltp.charges set amount_refunded = amount_refunded - refund.amount where id = charge.id;
    end if;
    update oltp.refunds set status = p_status, failure_reason = case when undone then p_failure_reason end,
        failure_balance_transaction_id = movement where id = p_refund;
    perform payments._event(case p_status when 'failed' then 'refund.failed' else 'refund.updated' end, charge.account_id,
        'refund', p_refund, p_key, at);
end $$;

-- The exact opposite of a movement, dated like it while its money is pending; its fee comes back only when asked.
create function payments._return(
    p_body text, p_at timestamptz, p_movement text, p_source text, p_type text, p_category text, p_fee_too boolean
) returns text language plpgsql as $$
declare
    taken oltp.balance_transactions;
    open_from timestamptz;
    other record;
begin
    select * into taken from oltp.balance_transactions b where b.id = p_movement;
    select c.open_from into open_from from ops.ledger_calendar c;
    if taken.exchange_rate is not null then
        select p.currency, sum(p.amount)::bigint as amount into other from oltp.ledger_postings p
        where p.entry_id = taken.ledger_entry_id and p.currency <> taken.currency
        and p.ledger_account_id not like 'fx\_%' group by p.currency;
    end if;
    perform ledger.open_accounts(taken.account_id, taken.currency);
    if taken.exchange_rate is null then
        return payments._move(p_body, p_at, taken.account_id, p_source, p_type, p_category, -taken.amount,
            case when p_fee_too then -taken.fee else 0 end, taken.currency,
            case when taken.available_entry_id is null then greatest(taken.available_on, p_at) else p_at end, open_from);
    end if;
    return payments._move(p_body, p_at, taken.account_id, p_source, p_type, p_category, -taken.amount,
        case when p_fee_too then -taken.fee else 0 end, taken.currency,
        case when taken.available_entry_id is null then greatest(taken.available_on, p_at) else p_at end, open_from,
        taken.exchange_rate, other.currency, -other.amount);
end $$;

create function payments._dispute_answer(p_dispute text, p_status text, p_charge text, p_movement text) returns text
language sql immutable as $$
    select json_build_object('dispute', p_dispute, 'status', p_status, 'charge', p_charge,
        'balance_transaction', p_movement)::text
$$;

create function payments._takes_money(p_status text) returns boolean language sql immutable as $$
    select p_status in ('needs_response', 'under_review', 'lost', 'appeal_needs_response', 'appeal_under_review')
$$;

-- The disputed amount and the fee leave the merchant's balance when a dispute (not an inquiry) begins.
create function payments._withdraw(p_body text, p_at timestamptz, p_charge oltp.charges, p_dispute text, p_amount bigint)
returns text language plpgsql as $$
declare
    fee bigint;
    settled_in text;
begin
    select b.currency into settled_in from oltp.balance_transactions b where b.source_id = p_charge.id
    and b.reporting_category = 'charge' order by b.created limit 1;
    select f.fixed into fee from oltp.fee_policies f left join oltp.accounts a on a.id = p_charge.account_id
    where f.kind = 'dispute' and f.currency = coalesce(settled_in, p_charge.currency) and f.country in ('*', a.country)
    order by f.country desc limit 1;
    return payments._give_back(p_body, p_at, p_charge, p_dispute, 'adjustment', 'dispute', -1, 0, p_amount, coalesce(fee, 0));
end $$;

create function payments.open_dispute(
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
    refused text;
begin
    select * into charge from oltp.charges c where c.id = p_charge for no key update;
    refused := case
        when charge.id is null then payments._refusal('invalid_request_error', 'resource_missing', format(
            'dispute of %s: no such charge; check the id', p_charge), 'charge')
        when p_currency <> charge.currency then payments._refusal('invalid_request_error', 'currency_mismatch', format(
            'dispute of %s is in %s, the charge in %s: use the charge''s currency', p_charge, p_currency, charge.currency),
            'currency')
        when p_status not in ('needs_response', 'warning_needs_response', 'prevented')
        then payments._wrong_state('dispute of', p_charge, 'new', 'begin as ' || p_status)
        when p_amount > charge.amount_captured then payments._refusal('invalid_request_error', 'amount_too_large', format(
            'dispute of %s exceeds its captured amount: dispute less', p_charge), 'amount') end;
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

create function payments.set_dispute_status(
    p_dispute text, p_status text, p_key text default null, p_hash bytea default null,
    p_created timestamptz default null, out answer text, out replayed boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    at timestamptz := coalesce(p_created, clock_timestamp());
    body text := ops.id_body(at);
    dispute oltp.disputes;
    charge oltp.charges;
    taken oltp.balance_transactions;
    holds boolean;
    settled text;
    returns_fee boolean;
    movement text;
    refused text;
begin
    select c.* into charge from oltp.disputes d join oltp.charges c on c.id = d.charge_id where d.id = p_dispute
    for no key update of c;
    select * into dispute from oltp.disputes d where d.id = p_dispute for no key update;
    refused := case
        when dispute.id is null then payments._refusal('invalid_request_error', 'resource_missing',
            format('dispute %s is unknown: check the id', p_dispute), 'dispute')
        when dispute.status in ('won', 'prevented', 'warning_closed', 'charge_refunded') or (dispute.status = 'lost'
            and not payments._may_move('dispute', dispute.status, p_status))
        then payments._refusal('invalid_request_error', 'dispute_closed', format(
            'dispute %s is closed as %s: a closed dispute does not move', p_dispute, dispute.status), 'status')
        when not payments._may_move('dispute', dispute.status, p_status)
        then payments._wrong_state('dispute', p_dispute, dispute.status, 'become ' || coalesce(p_status, 'nothing')) end;
    -- Its movements alternate: the newest says whether the money is away.
    select * into taken from oltp.balance_transactions b where b.source_id = p_dispute order by b.created desc, b.id desc
    limit 1;
    holds := coalesce(taken.reporting_category = 'dispute', false);
    if not holds and payments._takes_money(p_status) and not payments._takes_money(dispute.status)
        and dispute.amount > 0 and refused is null then
        movement := 'txn_' || body;
    elsif holds and p_status in ('won', 'prevented', 'charge_refunded') then
        movement := 'txn_' || body;
    end if;
    answer := coalesce(refused, payments._dispute_answer(p_dispute, p_status, dispute.charge_id, movement));
    select c.answer, c.replayed into answer, replayed
    from payments._first(charge.account_id, p_key, p_hash, 'set_dispute_status', p_dispute, answer) c;
    if replayed or refused is not null then
        return;
    end if;
    select e.id into settled from oltp.ledger_entries e where e.source_id = p_dispute and e.kind = 'dispute_lost'
    and not exists (select 1 from oltp.ledger_reversals r where r.entry_id = e.id or r.reversal_id = e.id);
    if movement is not null and not holds then
        perform payments._withdraw(body, at, charge, p_dispute, dispute.amount);
        perform payments._event('charge.dispute.funds_withdrawn', charge.account_id, 'dispute', p_dispute, p_key, at);
    elsif movement is not null then
        if settled is not null then
            perform ledger.reverse(settled, at);
        end if;
        select f.returned_when_won into returns_fee from oltp.fee_policies f
        left join oltp.accounts a on a.id = charge.account_id
        where f.kind = 'dispute' and f.currency = taken.currency and f.country in ('*', a.country)
        order by f.country desc limit 1;
        perform payments._return(body, at, taken.id, p_dispute, 'adjustment', 'dispute_reversal',
            p_status <> 'won' or coalesce(returns_fee, false));
        perform payments._event('charge.dispute.funds_reinstated', charge.account_id, 'dispute', p_dispute, p_key, at);
    elsif p_status = 'lost' and holds and settled is null then
        perform ledger.book_event('dispute_lost', p_dispute, charge.account_id, dispute.currency, dispute.amount, at);
    end if;
    update oltp.disputes set status = p_status where id = p_dispute;
    perform payments._event(case when p_status in ('won', 'lost', 'prevented', 'warning_closed', 'charge_refunded')
        then 'charge.dispute.closed' else 'charge.dispute.updated' end, charge.account_id, 'dispute', p_dispute, p_key, at);
end $$;

-- Keys are kept for a day, as promised; then they go.
create function payments.forget_keys(p_before timestamptz default null) returns integer language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    gone integer;
begin
    delete from oltp.idempotency_keys k where k.expires_at < coalesce(p_before, clock_timestamp());
    get diagnostics gone = row_count;
    return gone;
end $$;

create function ledger.allow_negative(p_account text, p_currency text, p_allowed boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.open_accounts(p_account, p_currency);
    update oltp.ledger_accounts set allows_negative = p_allowed
    where id = 'merchant_available:' || p_currency || coalesce(':' || p_account, '');
end $$;
