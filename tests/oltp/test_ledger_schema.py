"""The journal refuses what is no entry, changes for nobody, and finds what was altered behind its back."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from oltp_shop import Shop

from stripe_platform.oltp import ledger
from stripe_platform.oltp.ids import new_id, unix_us
from stripe_platform.oltp.ledger import Seal
from stripe_platform.oltp.migrate import make_partitions
from stripe_platform.oltp.write import WriteError

JOURNAL = ("ledger_entries", "ledger_postings", "ledger_reversals", "ledger_seals", "ledger_balances")
NOW = dt.datetime.now(dt.UTC)


def connected(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def owner(shop: Shop) -> Iterator[psycopg.Connection]:
    yield from connected(shop.settings.need("oltp_owner_dsn"))


@pytest.fixture
def superuser(shop: Shop, servers) -> Iterator[psycopg.Connection]:
    yield from connected(servers.superuser("oltp", shop.settings.need("oltp_dsn").rsplit("/", 1)[1]))


def enter(conn: psycopg.Connection, *postings: tuple[object, ...], at: dt.datetime | None = None,
          entry: str | None = None) -> str:
    """An entry written past every function, as only the owner can."""
    at = at or dt.datetime.now(dt.UTC)
    entry = entry or new_id("le", at)
    with conn.transaction():
        conn.execute("insert into oltp.ledger_entries (id, kind, effective_at) values (%s, 'other_adjustment', %s)"
                     " on conflict do nothing", [entry, at])
        values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(postings))
        conn.execute(f"insert into oltp.ledger_postings values {values}",  # type: ignore[arg-type]
                     [value for posting in postings for value in (entry, *posting)])
    return entry


GOOD = ((1, "cash:eur", "eur", 5), (2, "fee_revenue:eur", "eur", -5))


@pytest.mark.parametrize(("postings", "rule"), [
    (((1, "cash:eur", "eur", 5), (2, "fee_revenue:eur", "eur", -4)), "entry_balances"),
    (((1, "cash:eur", "eur", 5), (2, "fee_revenue:usd", "usd", -5)), "entry_balances"),
    (((1, "cash:eur", "eur", 0), (2, "fee_revenue:eur", "eur", 0)), "posting_moves_money"),
    (((1, "cash:eur", "usd", 5), (2, "fee_revenue:eur", "usd", -5)), "posting_has_its_account"),
    (((1, "cash:eur", "eur", 5), (2, "nowhere:eur", "eur", -5)), "posting_has_its_account"),
    (((2, "cash:eur", "eur", 5), (3, "fee_revenue:eur", "eur", -5)), "posting_has_its_entry"),
])  # fmt: skip
def test_what_is_no_entry_is_refused(shop: Shop, owner: psycopg.Connection, postings: tuple, rule: str):
    for currency in ("eur", "usd"):
        ledger.open_accounts(shop.conn, account_id=None, currency=currency)
    enter(owner, *GOOD)
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        enter(owner, *postings)
    assert refused.value.diag.constraint_name == rule
    assert owner.execute("select count(*) from oltp.ledger_entries").fetchone() == (1,)


def test_one_bad_entry_among_many_is_found(shop: Shop, owner: psycopg.Connection):
    ledger.open_accounts(shop.conn, account_id=None, currency="eur")
    ids = [new_id("le", NOW) for _ in range(3)]
    owner.execute("insert into oltp.ledger_entries (id, kind, effective_at) select x, 'charge', %s"
                  " from unnest(%s::text[]) x", [NOW, ids])
    with pytest.raises(psycopg.errors.CheckViolation, match=ids[1]):
        owner.execute("insert into oltp.ledger_postings select x, p, case p when 1 then 'cash:eur' else"
                      " 'fee_revenue:eur' end, 'eur', case p when 1 then 5 else -5 - (x = %s)::integer end"
                      " from unnest(%s::text[]) x, generate_series(1, 2) p", [ids[1], ids])


def test_postings_need_their_entry_and_none_can_be_added_later(shop: Shop, owner: psycopg.Connection):
    ledger.open_accounts(shop.conn, account_id=None, currency="eur")
    entry = enter(owner, *GOOD)
    for late in (((3, *GOOD[0][1:]), (4, *GOOD[1][1:])), GOOD):
        with pytest.raises(psycopg.errors.IntegrityError):
            enter(owner, *late, entry=entry)
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="is unknown"):
        owner.execute("insert into oltp.ledger_postings values (%(le)s, 1, 'cash:eur', 'eur', 5),"
                      " (%(le)s, 2, 'fee_revenue:eur', 'eur', -5)", {"le": new_id("le")})


def test_an_entry_lies_in_open_books_and_its_id_tells_its_instant(shop: Shop, owner: psycopg.Connection):
    ledger.open_accounts(shop.conn, account_id=None, currency="eur")
    ledger.close(shop.conn, NOW - dt.timedelta(hours=1))
    enter(owner, *GOOD, at=NOW - dt.timedelta(minutes=59))
    for at, entry in ((NOW - dt.timedelta(hours=2), None), (NOW, new_id("le", NOW - dt.timedelta(minutes=1)))):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            enter(owner, *GOOD, at=at, entry=entry)
        assert refused.value.diag.constraint_name == "entry_is_open"


def test_the_journal_is_changed_by_nobody_not_even_by_a_replicating_superuser(
    shop: Shop, owner: psycopg.Connection, superuser: psycopg.Connection
):
    payment = shop.pay(1000, created=NOW - dt.timedelta(days=2))
    ledger.reverse(shop.conn, str(shop.conn.execute("select min(id) from oltp.ledger_entries").fetchone()[0]))
    ledger.close_day(shop.conn, (NOW - dt.timedelta(days=1)).date())
    assert payment.balance_transaction_id
    with psycopg.connect(superuser.info.dsn, password=superuser.info.password, autocommit=True) as replica:
        replica.execute("set session_replication_role = replica")
        for table in JOURNAL:
            column = superuser.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", [f"oltp.{table}"]
            ).fetchone()[0]
            parts = [r[0] for r in superuser.execute(
                "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass", [f"oltp.{table}"])]
            for target in (f"oltp.{table}", *parts):
                filled = superuser.execute(f"select count(*) from {target}").fetchone()[0]
                for statement in (f"update {target} set {column} = {column}", f"delete from {target}",
                                  f"truncate {target} cascade"):
                    if not filled and not statement.startswith("truncate"):
                        continue
                    for conn in (shop.conn, owner, superuser, replica):
                        with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)):
                            conn.execute(statement)  # type: ignore[call-overload]


def test_a_new_month_is_guarded_like_the_others(shop: Shop, owner: psycopg.Connection):
    make_partitions(shop.conn, dt.date(2031, 5, 1), dt.date(2031, 5, 1))
    guards = ("select array_agg(tgname::text || tgenabled::text order by tgname) from pg_trigger where not tgisinternal"
              " and tgrelid = %s::regclass")  # fmt: skip
    for table in ("ledger_entries", "ledger_postings"):
        old, new = (owner.execute(guards, [f"oltp.{table}_{part}"]).fetchone() for part in ("default", "2031_05"))
        assert old == new
        assert old is not None
        assert all(name.endswith("A") for name in old[0])


def test_the_apps_role_writes_the_ledger_through_its_functions_alone(shop: Shop):
    inner = shop.conn.execute(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace in"
        " ('ledger'::regnamespace, 'payments'::regnamespace) and has_function_privilege(p.oid, 'execute')"
        " and p.proname like '\\_%'").fetchall()
    assert inner == []
    for statement in (
        "insert into oltp.ledger_entries (id, kind, effective_at) values ('le_x', 'x', now())",
        "insert into oltp.ledger_accounts (id, kind, currency) values ('cash:eur', 'cash', 'eur')",
        "insert into oltp.posting_rules values ('charge', 'cash', 1, 0, 0, 0, 0, false)",
        "update oltp.posting_rules set limited = false", "update ops.ledger_calendar set open_from = 'epoch'",
        "update oltp.ledger_accounts set allows_negative = true", "select ledger._root('', '', '')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.conn.execute(statement)  # type: ignore[call-overload]


def test_the_functions_of_the_ledger_and_of_payments_pin_their_search_path_or_qualify_every_name(
    owner: psycopg.Connection,
):
    loose = owner.execute(
        "select proname from pg_proc where prosecdef and pronamespace in ('ledger'::regnamespace,"
        " 'payments'::regnamespace, 'ops'::regnamespace) and not coalesce(proconfig::text, '') like '%search_path%'"
    ).fetchall()
    assert {name for (name,) in loose} <= {"create_payment"}  # checks the path itself before it resolves a name


def test_rules_that_do_not_balance_are_refused(owner: psycopg.Connection):
    with pytest.raises(psycopg.errors.CheckViolation, match="posting rules of charge"):
        owner.execute("update oltp.posting_rules set net = 0 where category = 'charge' and kind = 'merchant_available'")


def test_an_entry_is_reversed_once_and_exactly(shop: Shop):
    shop.pay(1000)
    entry = shop.conn.execute("select id from oltp.ledger_entries").fetchone()[0]
    reversal = ledger.reverse(shop.conn, entry)
    for again in (entry,):
        with pytest.raises(WriteError, match="reversed already"):
            ledger.reverse(shop.conn, again)
    assert shop.conn.execute("select count(*) from oltp.ledger_accounts a where ledger.balance(a.id) <> 0"
                             ).fetchone() == (0,)
    assert shop.conn.execute("select * from oltp.ledger_reversals").fetchall() == [(entry, reversal)]


def seal_three_days(shop: Shop) -> list[str]:
    for days in (3, 3, 2):
        shop.pay(1000, created=NOW - dt.timedelta(days=days))
    for days in (3, 2):
        ledger.close_day(shop.conn, (NOW - dt.timedelta(days=days)).date())
    assert ledger.verify(shop.conn) == []
    return [r[0] for r in shop.conn.execute("select id from oltp.ledger_entries order by id")]


TAMPERINGS = {
    "one byte of a posting": "update oltp.ledger_postings set amount = amount + case position when 1 then 1 else -1 end"
    " where entry_id = '{first}' and position < 3",
    "one byte of a name": "update oltp.ledger_entries set kind = 'chargf' where id = '{first}'",
    "an instant": "update oltp.ledger_entries set created = created + interval '1 microsecond' where id = '{first}'",
    "an entry gone": "delete from oltp.ledger_entries where id = '{second}'",
    "postings gone": "delete from oltp.ledger_postings where entry_id = '{second}'",
    "a seal gone": "delete from oltp.ledger_seals where sequence = 1",
    "a root replaced": "update oltp.ledger_seals set root = repeat('0', 64) where sequence = 1",
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_whatever_is_altered_behind_the_triggers_back_is_found(
    shop: Shop, superuser: psycopg.Connection, tampering: str
):
    entries = seal_three_days(shop)
    for table in ("ledger_entries", "ledger_postings", "ledger_seals"):
        superuser.execute(f"alter table oltp.{table} disable trigger user")  # type: ignore[arg-type]
    superuser.execute("set session_replication_role = replica")
    statement = TAMPERINGS[tampering].format(first=entries[0], second=entries[1])
    superuser.execute(statement)  # type: ignore[call-overload]
    broken = ledger.verify(shop.conn)
    assert broken
    assert broken[0].sequence == (2 if tampering == "a seal gone" else 1)


def test_an_entry_slipped_in_between_seals_is_found(shop: Shop, superuser: psycopg.Connection):
    seal_three_days(shop)
    superuser.execute("alter table oltp.ledger_postings disable trigger user")
    enter(superuser, *GOOD, at=NOW - dt.timedelta(days=2, hours=1))
    assert [b.problem for b in ledger.verify(shop.conn)] in (
        ["an entry was slipped in before it"], ["entries were added or removed"])


def test_a_cut_tail_or_a_chain_made_anew_differs_from_the_anchor(shop: Shop, superuser: psycopg.Connection):
    seal_three_days(shop)
    anchor = ledger.last_seal(shop.conn)
    assert anchor is not None
    assert ledger.verify(shop.conn, anchor) == []
    superuser.execute("alter table oltp.ledger_seals disable trigger user")
    superuser.execute("delete from oltp.ledger_seals where sequence = %s", [anchor.sequence])
    assert ledger.verify(shop.conn) == []  # what is left still holds: only the copy outside tells
    assert [b.sequence for b in ledger.verify(shop.conn, anchor)] == [anchor.sequence]
    assert ledger.verify(shop.conn, Seal(1, "0" * 64))


def test_what_is_dated_into_closed_books_is_booked_when_they_are_open(shop: Shop):
    ledger.close(shop.conn, NOW)
    shop.pay(1000, created=NOW - dt.timedelta(days=9))
    row = shop.conn.execute("select e.effective_at, b.created from oltp.ledger_entries e"
                            " join oltp.balance_transactions b on b.ledger_entry_id = e.id").fetchone()
    assert row is not None
    assert (row[0], row[1]) == (NOW, NOW - dt.timedelta(days=9))
    with pytest.raises(WriteError, match="lies ahead"):
        ledger.close(shop.conn, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))


def test_a_close_waits_for_payments_being_written(shop: Shop):
    closed: list[dt.datetime] = []

    def close() -> None:
        with psycopg.connect(shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            closed.append(ledger.close(conn, NOW))

    with shop.conn.transaction():
        shop.pay(1000, created=NOW - dt.timedelta(hours=1))
        racer = threading.Thread(target=close)
        racer.start()
        time.sleep(0.4)
        assert closed == []
    racer.join(20)
    assert closed == [NOW]
    assert ledger.seal(shop.conn) == 1


def test_a_balance_is_the_same_from_kept_days_as_from_all_postings(shop: Shop):
    for days in (5, 4, 4, 2, 1):
        shop.pay(1000 + days, created=NOW - dt.timedelta(days=days))
    names = [r[0] for r in shop.conn.execute("select distinct ledger_account_id from oltp.ledger_postings")]
    instants = [NOW - dt.timedelta(days=d, hours=h) for d in range(6) for h in (0, 1)] + [None]
    before = {(name, at): ledger.balance(shop.conn, name, at) for name in names for at in instants}
    for days in (5, 4, 3, 2):
        ledger.close_day(shop.conn, (NOW - dt.timedelta(days=days)).date())
    assert shop.conn.execute("select count(distinct day) from oltp.ledger_balances").fetchone() == (3,)
    assert {(name, at): ledger.balance(shop.conn, name, at) for name in names for at in instants} == before
    by_hand = dict(shop.conn.execute(
        "select ledger_account_id, sum(amount)::bigint from oltp.ledger_postings group by 1").fetchall())
    assert {name: abs(amount) for name, amount in by_hand.items()} == {n: before[n, None] for n in names}


def test_ids_of_the_database_have_the_platforms_form(owner: psycopg.Connection):
    at = dt.datetime(2026, 6, 1, 10, 0, 0, 123456, tzinfo=dt.UTC)
    for (body,) in owner.execute("select ops.id_body(%s) from generate_series(1, 200)", [at]):
        milliseconds, rest = divmod(unix_us(at), 1000)
        assert int(body[:16], 16) == (milliseconds << 16) | 0x7C00 | rest
        assert len(body) == 32
        assert body[16] in "ab"
        assert body[24] in "abef"
    many = owner.execute("select count(distinct ops.id_body(now())) from generate_series(1, 5000)").fetchone()
    assert many == (5000,)
