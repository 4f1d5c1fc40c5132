"""For every invariant what breaks it, and it alone: a guard taken away, or rows altered behind the guards.

Each is SQL of the superuser, made and rolled back in one transaction. Rows are of today: the days before are sealed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """What breaks an invariant, in words and in SQL."""

    invariant: str
    what: str
    statement: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


UNGUARDED = """
do $$ declare t record; begin
    for t in select oid::regclass as name from pg_class
        where relnamespace = 'oltp'::regnamespace and relkind in ('r', 'p') and relname like 'ledger\\_%'
    loop execute format('alter table %s disable trigger all', t.name); end loop;
end $$;
set local session_replication_role = replica;
"""
GUARDED = """
do $$ declare t record; begin
    for t in select tgrelid::regclass as name, tgname from pg_trigger where not tgisinternal
        and tgname in ('refuse_change', 'refuse_truncate', 'check_postings', 'keep_account')
    loop execute format('alter table %s enable always trigger %I', t.name, t.tgname); end loop;
end $$;
set local session_replication_role = origin;
"""
_TODAY = "ledger._from_id(date_trunc('day', now(), 'UTC'))"
_CHARGED_IN_EURO = f"""(
    select p.entry_id from oltp.ledger_postings p join oltp.ledger_entries e on e.id = p.entry_id and e.kind = 'charge'
    where p.ledger_account_id = 'network_receivable:eur' and p.entry_id >= {_TODAY} order by 1 offset %s limit 1)"""


def behind(statement: str) -> str:
    """The statement behind the guards, which stand again after it."""
    return UNGUARDED + statement + GUARDED


def _altered(function: str, old: str, new: str) -> str:
    """The function with one piece of its text replaced."""
    return f"""
do $do$ declare was text := pg_get_functiondef('{function}'::regproc); became text;
begin
    became := replace(was, $old${old}$old$, $new${new}$new$);
    assert became <> was, 'the function has no such text';
    execute became;
end $do$;
"""


MUTATIONS = [
    Mutation("L1", "a unit of one entry stands in another", behind(f"""
        update oltp.ledger_postings set amount = amount + 1 where ledger_account_id = 'network_receivable:eur'
        and entry_id = {_CHARGED_IN_EURO % 0};
        update oltp.ledger_postings set amount = amount - 1 where ledger_account_id = 'network_receivable:eur'
        and entry_id = {_CHARGED_IN_EURO % 1};""")),
    Mutation("L2", "a posting without an entry", behind("""
        insert into oltp.ledger_postings values ('le_' || ops.id_body(now()), 1, 'cash:eur', 'eur', 5);""")),
    Mutation("L3", "an amount kept as a float", "alter table oltp.charges add column tip double precision;"),
    Mutation("L3", "an amount kept as a decimal", "alter table oltp.charges add column tip_amount numeric(12, 2);"),
    Mutation("L4", "a second currency that was not exchanged", behind(f"""
        insert into oltp.ledger_postings
        select e.id, p.position, p.account, 'usd', p.amount from {_CHARGED_IN_EURO % 0} e (id)
        cross join (values (90, 'cash:usd', 5), (91, 'adjustments:usd', -5)) as p (position, account, amount);""")),
    Mutation("L5", "another rate than the one applied", behind("""
        update oltp.balance_transactions set exchange_rate = exchange_rate * 2 where id = (
            select min(id) from oltp.balance_transactions where exchange_rate is not null and amount > 1000
            and reporting_category = 'charge');""")),
    Mutation("L6", "ISO's exponent instead of Stripe's",
             "update oltp.currencies set stripe_exponent = 0 where code = 'isk';"),
    Mutation("L6", "a payout of fillér", behind("""
        update oltp.payouts set amount = 12345, currency = 'huf' where status = 'failed';""")),
    Mutation("L7", "a fee that its details do not explain", """
        update oltp.fee_details set amount = amount + 1 where balance_transaction_id = (
            select min(balance_transaction_id) from oltp.fee_details);"""),
    Mutation("L8", "a charge that forgets part of its refunds", """
        update oltp.charges set amount_refunded = amount_refunded - 1 where amount_refunded > 0;"""),
    Mutation("L9", "a fee kept that the policy gives back", """
        update oltp.fee_policies set returned_when_won = true where kind = 'dispute' and currency = 'eur';"""),
    Mutation("L10", "a refund that failed and gave nothing back", behind("""
        with failed as (update oltp.refunds set status = 'failed' where id = (
            select min(id) from oltp.refunds where status = 'succeeded') returning charge_id, amount)
        update oltp.charges c set amount_refunded = amount_refunded - f.amount from failed f
        where c.id = f.charge_id;""")),
    Mutation("L11", "a payout that lost a movement", """
        delete from oltp.payout_balance_transactions x using oltp.payouts p, oltp.balance_transactions b
        where p.id = x.payout_id and p.status = 'paid' and b.id = x.balance_transaction_id and b.net <> 0;"""),
    Mutation("L12", "money that is available in one place and pending in the other", behind("""
        update oltp.balance_transactions set available_entry_id = null where id = (
            select max(b.id) from oltp.balance_transactions b where b.reporting_category = 'charge' and b.net <> 0
            and b.available_entry_id is not null and not exists (
                select 1 from oltp.payout_balance_transactions x where x.balance_transaction_id = b.id));""")),
    Mutation("L13", "an event recorded twice", """
        insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)
        select 'evt_again', type, account_id, object_kind, object_id, idempotency_key, created from oltp.events
        where idempotency_key is not null limit 1;"""),
    Mutation("L13", "a key whose first answer is not repeated", _altered(
        "payments._claim", "return coalesce(first.answer,", "return coalesce(null,")),
    Mutation("L14", "a key that takes any parameters", _altered(
        "payments._claim", "first.params_hash <> p_hash or ", "")),
    Mutation("L15", "a refund that must wait for its charge", """
        create function ledger.in_order() returns trigger language plpgsql as $$ begin
            if new.kind = 'refund' and not exists (select 1 from oltp.ledger_entries e where e.kind = 'charge'
                and e.account_id = new.account_id) then raise 'the charge comes first'; end if;
            return new; end $$;
        create trigger in_order before insert on oltp.ledger_entries
            for each row execute function ledger.in_order();"""),
    Mutation("L16", "a sealed entry altered by a microsecond", behind("""
        update oltp.ledger_entries set created = created + interval '1 microsecond' where id = (
            select first_entry_id from oltp.ledger_seals order by sequence limit 1);
""")),
    Mutation("L16", "a journal without its guard", "drop trigger refuse_change on oltp.ledger_postings;"),
    Mutation("L17", "a reversal that names no original", behind("""
        delete from oltp.ledger_reversals r using oltp.ledger_entries e
        where e.id = r.reversal_id and e.phase in ('post', 'void');""")),
    Mutation("L18", "one side of a transfer that never came", behind("""
        with made as (insert into oltp.ledger_entries (id, kind, source_id, effective_at)
            values ('le_' || ops.id_body(now()), 'network_settlement', 'settlement:eur', now()) returning id)
        insert into oltp.ledger_postings select m.id, p.position, p.account, 'eur', p.amount from made m
        cross join (values (1, 'transfer_clearing:eur', 5), (2, 'cash:eur', -5)) as p (position, account, amount);""")),
    Mutation("L19", "a movement that is not booked", behind("""
        update oltp.balance_transactions set ledger_entry_id = null where id = (
            select max(id) from oltp.balance_transactions where reporting_category = 'charge' and net <> 0);""")),
    Mutation("L19", "an entry with nothing behind it", behind("""
        with made as (insert into oltp.ledger_entries (id, kind, effective_at)
            values ('le_' || ops.id_body(now()), 'other_adjustment', now()) returning id)
        insert into oltp.ledger_postings select m.id, p.position, p.account, 'eur', p.amount from made m
        cross join (values (1, 'adjustments:eur', 5), (2, 'cash:eur', -5)) as p (position, account, amount);""")),
    Mutation("L20", "a closed day that says otherwise", behind("""
        update oltp.ledger_balances set balance = balance + 1;""")),
    Mutation("L21", "an erasure that takes the payer's money along", """
        create function ledger.erase_all() returns trigger language plpgsql as $$ begin
            update oltp.balance_transactions b set amount = 0, fee = 0, net = 0 from oltp.charges c
            where c.id = b.source_id and c.customer_id = new.id; return new; end $$;
        create trigger erase_all after update on oltp.customers for each row when (new.deleted)
            execute function ledger.erase_all();"""),
    Mutation("L22", "refunds that do not count those under way", _altered(
        "payments.refund_charge", "charge.amount_captured - charge.amount_refunded - underway or",
        "charge.amount_captured - charge.amount_refunded or") + """
        select payments.refund_charge(c.id, c.amount_captured, p_status => 'pending') from generate_series(1, 2)
        cross join (select * from oltp.charges c where c.amount_captured > 0 and c.amount_refunded = 0
            and not c.disputed and not exists (select 1 from oltp.refunds r where r.charge_id = c.id)
            order by c.id limit 1) c;"""),
    Mutation("L23", "payouts that nobody measures", _altered(
        "payments._available", "coalesce(unlimited, false)", "true") + """
        select payments.create_payout(a.id, 'eur', 1000000000000) from oltp.accounts a
        where a.default_currency = 'eur';"""),
]  # fmt: skip
