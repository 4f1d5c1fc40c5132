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

-- A row has one owner: the reference (the copier writes it), Stripe (it has a version), or the merchant that made it
-- over the API (the event says so). Who comes to another's row is refused.
create function ops.refuse_others_rows(p_table text, p_kind text, p_ids text[]) returns void language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    taken text;
begin
    execute format('select t.id from oltp.%I t where t.id = any ($1) and not exists (select from ingest.versions v'
        ' where v.object_id = t.id and v.kind in ($2, $2 || '':deleted'')) limit 1', p_table)
    into taken using p_ids, p_kind;
    if taken is not null then
        raise exception '% of % stands and did not come from Stripe: it keeps its owner', taken, p_table
        using errcode = 'check_violation', constraint = 'row_has_another_owner', table = p_table;
    end if;
end $$;

-- Over the API a merchant changes its own products, never one of the catalogue.
create function ops.keep_owner_of_product() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_user in ('payments_ingest', 'reference_copier')
    or current_user = (select c.relowner::regrole::text from pg_class c where c.oid = tg_relid) then
        return new;
    end if;
    perform from oltp.events e where e.object_id = old.id and e.type = 'product.created';
    if found then
        return new;
    end if;
    raise exception 'product % is the catalogue''s: change it there', old.id
    using errcode = 'check_violation', constraint = 'row_has_another_owner', table = 'products';
end $$;
create trigger keep_owner before update of name, active, tax_code, unit_label, url on oltp.products for each row
execute function ops.keep_owner_of_product();
