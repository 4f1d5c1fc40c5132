-- Countries, currencies, exchange rates, merchant information and the catalogue have their source of truth in the
-- reference database. Here stand copies for foreign keys and look-ups, written by the copier alone; a row that was
-- deleted there stays here as `deleted`, because others name it.
alter table oltp.currencies add column deleted boolean not null default false;
alter table oltp.countries add column deleted boolean not null default false;
alter table oltp.accounts alter column created drop not null;  -- of a merchant that left, nothing but the id may be known
comment on table oltp.currencies is 'Copy of reference.currencies';
comment on table oltp.countries is 'Copy of reference.countries';
comment on table oltp.exchange_rates is 'Copy of reference.exchange_rates';
comment on table oltp.accounts is 'Merchants: who they are is a copy of reference.merchants, what they may do is owned here';
comment on table oltp.products is 'Copy of reference.products, but for the default price and the metadata';

-- How far the copies are: the newest change in them, and the batch it came in. Written with the copies themselves.
create table ops.copied (
    source text primary key,
    seq bigint not null,
    digest text not null,
    epoch text not null,
    commit_lsn bigint not null,
    ordinal bigint not null,
    copied_at timestamptz not null default clock_timestamp()
);
comment on column ops.copied.digest is 'Of the batch: the next one must name it';

-- Messages of other databases' outboxes that were acted upon, so that a message that comes twice acts once.
create table ops.inbox (
    source text not null,
    id uuid not null,
    kind text not null,
    done_at timestamptz not null default clock_timestamp(),
    primary key (source, id)
);
