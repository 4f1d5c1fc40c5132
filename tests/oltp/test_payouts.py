"""Payouts: the sum of what they pay out, exact reversals, bank lines that find them, books that close each night."""

from __future__ import annotations

import datetime as dt
import io
import threading

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oltp_shop import Shop

from stripe_platform.oltp import books, ledger, payouts, refunds, statements, transfers
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError

NOW = dt.datetime.now(dt.UTC)
TODAY = NOW.date()


def one(shop: Shop, query: str, *values: object):
    row = shop.conn.execute(query, values).fetchone()
    return row[0] if row else None


def inner(shop: Shop, query: str, *values: object):
    """As `one`, as the owner: inner functions are nobody else's."""
    with psycopg.connect(shop.settings.need("oltp_owner_dsn")) as conn:
        row = conn.execute(query, values).fetchone()
    return row[0] if row else None


def available(shop: Shop, currency: str = "eur") -> int:
    return ledger.balance(shop.conn, ledger.account_name("merchant_available", currency, shop.account))


def earn(shop: Shop, *amounts: int, currency: str = "eur") -> None:
    shop.conn.execute("update oltp.fee_policies set days_to_available = 0")
    for amount in amounts:
        shop.pay(amount, currency)


def pay_out(shop: Shop, currency: str = "eur", **more: object) -> payouts.Payout | None:
    return payouts.pay_out_available(shop.conn, account_id=shop.account, currency=currency, **more)  # type: ignore[arg-type]


def rates(shop: Shop) -> None:
    shop.copy("insert into oltp.exchange_rates (day, from_currency, to_currency, rate) values"
              " ('2026-01-01', 'usd', 'eur', 0.92), ('2026-01-01', 'huf', 'eur', 0.0025),"
              " ('2026-01-01', 'eur', 'eur', 1)")


def balanced(shop: Shop) -> bool:
    return all(row.debit == row.credit for row in ledger.trial_balance(shop.conn))


def camt(*entries: str, account: str = "FR7630001007941234567890185") -> io.BytesIO:
    return io.BytesIO((
        '<?xml version="1.0" encoding="UTF-8"?><Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08">'
        f"<BkToCstmrStmt><Stmt><Id>S1</Id><Acct><Id><IBAN>{account}</IBAN></Id></Acct>{''.join(entries)}</Stmt>"
        "</BkToCstmrStmt></Document>").encode())


def entry(amount: str, reference: str, name: str, direction: str = "DBIT", currency: str = "EUR",
          status: str = "<Sts><Cd>BOOK</Cd></Sts>", day: dt.date = TODAY) -> str:
    return (f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{direction}</CdtDbtInd>{status}'
            f"<BookgDt><Dt>{day}</Dt></BookgDt><AcctSvcrRef>{name}</AcctSvcrRef><NtryDtls><TxDtls><Refs>"
            f"<EndToEndId>{reference}</EndToEndId></Refs></TxDtls></NtryDtls></Ntry>")


def test_an_automatic_payout_is_the_sum_of_its_movements_and_leaves_nothing(shop: Shop):
    earn(shop, 1000, 2500, 40_000)
    refunds.create_refund(shop.conn, charge_id=one(shop, "select id from oltp.charges order by id limit 1"), amount=300)
    payout = pay_out(shop)
    assert payout is not None
    net = one(shop, "select sum(net) from oltp.payout_balance_transactions p join oltp.balance_transactions b"
                    " on b.id = p.balance_transaction_id where p.payout_id = %s", payout.payout_id)
    own = one(shop, "select -amount from oltp.balance_transactions where id = %s", payout.balance_transaction_id)
    assert net == own == one(shop, "select amount from oltp.payouts")
    assert payout.movements == 4
    assert available(shop) == 0
    assert balanced(shop)
    assert pay_out(shop) is None
    earn(shop, 700)
    rest = available(shop)
    again = pay_out(shop)
    assert again is not None
    assert one(shop, "select amount from oltp.payouts where id = %s", again.payout_id) == rest


def test_pending_money_is_not_paid_out(shop: Shop):
    shop.pay(1000)
    assert pay_out(shop) is None


@pytest.mark.parametrize(("currency", "multiple"), [("huf", 100), ("isk", 100), ("kwd", 10), ("jpy", 1)])
def test_what_banks_cannot_pay_stays_for_the_next_payout(shop: Shop, currency: str, multiple: int):
    earn(shop, 1_234_560, currency=currency)
    shop.conn.execute("update oltp.fee_policies set fixed = fixed + 7 where currency = 'huf'")
    earn(shop, 2_000_050, currency=currency)
    before = available(shop, currency)
    payout = pay_out(shop, currency)
    assert payout is not None
    paid = one(shop, "select amount from oltp.payouts where id = %s", payout.payout_id)
    assert paid % multiple == 0
    assert available(shop, currency) == before - paid < multiple
    assert inner(shop, "select payments._payout_adds_up(p) from oltp.payouts p")
    earn(shop, 1_000_000, currency=currency)
    rest = available(shop, currency)
    again = pay_out(shop, currency)
    assert again is not None
    assert available(shop, currency) == rest - one(
        shop, "select amount from oltp.payouts where id = %s", again.payout_id) < multiple
    assert inner(shop, "select bool_and(payments._payout_adds_up(p)) from oltp.payouts p")
    assert balanced(shop)


def test_a_payout_below_the_minimum_waits(shop: Shop):
    earn(shop, 1000)
    assert pay_out(shop, minimum=5000) is None
    earn(shop, 5000)
    assert pay_out(shop, minimum=5000) is not None


def test_a_payout_by_hand_needs_the_money_and_counts_in_the_next_automatic_one(shop: Shop):
    earn(shop, 10_000)
    had = available(shop)
    with pytest.raises(WriteError, match="does not cover") as refused:
        payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=had + 1)
    assert refused.value.code == "balance_insufficient"
    payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=4000)
    rest = pay_out(shop)
    assert rest is not None
    assert one(shop, "select amount from oltp.payouts where id = %s", rest.payout_id) == had - 4000
    assert available(shop) == 0


def test_a_payout_by_hand_is_in_whole_multiples(shop: Shop):
    earn(shop, 2_000_000, currency="huf")
    with pytest.raises(WriteError, match="whole multiples"):
        payouts.create_payout(shop.conn, account_id=shop.account, currency="huf", amount=12_345)


def test_the_same_key_pays_out_once(shop: Shop):
    earn(shop, 10_000)
    key = Idempotency(shop.ring, "p1")
    first, again = (payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=100,
                                          idempotency=key) for _ in range(2))
    assert (first.payout_id, again.replayed) == (again.payout_id, True)
    with pytest.raises(WriteError, match="other parameters"):
        payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=101, idempotency=key)
    assert one(shop, "select count(*) from oltp.payouts") == 1


def test_racing_payouts_never_pay_more_than_there_is(shop: Shop):
    earn(shop, 10_000)
    had = available(shop)
    refused: list[str | None] = []

    def race(by_hand: bool) -> None:
        with psycopg.connect(shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            try:
                if by_hand:
                    payouts.create_payout(conn, account_id=shop.account, currency="eur", amount=had // 2)
                else:
                    payouts.pay_out_available(conn, account_id=shop.account, currency="eur")
            except WriteError as error:
                refused.append(error.code)

    racers = [threading.Thread(target=race, args=[n % 2 == 0]) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert set(refused) <= {"balance_insufficient"}
    assert available(shop) == 0
    assert one(shop, "select sum(amount) from oltp.payouts") == had


@pytest.mark.parametrize("path", [["failed"], ["canceled"], ["in_transit", "failed"], ["in_transit", "paid", "failed"]])
def test_a_payout_that_fails_reverses_exactly_and_its_movements_are_payable_again(shop: Shop, path: list[str]):
    earn(shop, 1_234_560, currency="huf")
    before = {row[0]: row[1] for row in shop.conn.execute(
        "select ledger_account_id, sum(amount) from oltp.ledger_postings group by 1")}
    payout = pay_out(shop, "huf")
    assert payout is not None
    for status in path:
        payouts.set_payout_status(shop.conn, payout_id=payout.payout_id, status=status)  # type: ignore[arg-type]
    after = {row[0]: row[1] for row in shop.conn.execute(
        "select ledger_account_id, sum(amount) from oltp.ledger_postings group by 1 having sum(amount) <> 0")}
    assert after == {name: amount for name, amount in before.items() if amount}
    assert one(shop, "select count(*) from oltp.payout_balance_transactions") == 0
    again = pay_out(shop, "huf")
    assert again is not None
    assert one(shop, "select count(distinct amount) from oltp.payouts") == 1
    assert inner(shop, "select payments._payout_adds_up(p) from oltp.payouts p where id = %s", again.payout_id)


def test_no_illegal_move_of_a_payout_is_made(shop: Shop):
    statuses = ("pending", "in_transit", "paid", "failed", "canceled")
    with psycopg.connect(shop.settings.need("oltp_owner_dsn")) as owner:
        legal = set(owner.execute("select from_status, to_status from ops.status_moves where object_kind = 'payout'"))
    ways = {status: [status] if status != "pending" else [] for status in statuses}
    earn(shop, 100_000)
    for start, way in ways.items():
        for target in statuses:
            if (start, target) in legal:
                continue
            payout = payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=100).payout_id
            for status in way:
                payouts.set_payout_status(shop.conn, payout_id=payout, status=status)  # type: ignore[arg-type]
            with pytest.raises(WriteError, match=f"is {start}: it cannot become {target}"):
                payouts.set_payout_status(shop.conn, payout_id=payout, status=target)  # type: ignore[arg-type]
            if start != target:
                with pytest.raises(psycopg.errors.CheckViolation, match="cannot become"):
                    shop.conn.execute("update oltp.payouts set status = %s where id = %s", [target, payout])


def test_a_merchant_without_payouts_is_not_paid_out(shop: Shop):
    earn(shop, 1000)
    shop.conn.execute("update oltp.accounts set payouts_enabled = false")
    with pytest.raises(WriteError, match="may not be paid out"):
        pay_out(shop)


def test_a_payout_in_another_currency_goes_through_exchange_and_its_trade_clears(shop: Shop):
    rates(shop)
    earn(shop, 123_457)
    payout = pay_out(shop, payout_currency="usd")
    assert payout is not None
    amount, currency = shop.conn.execute("select amount, currency from oltp.payouts").fetchone() or (0, "")
    assert currency == "usd"
    assert ledger.balance(shop.conn, "payout_in_transit:usd") == amount
    assert available(shop) == 0
    assert balanced(shop)
    ledger.trade(shop.conn, sold="eur", bought="usd", proceeds=ledger.balance(shop.conn, "fx_clearing:usd:eur"))
    assert ledger.balance(shop.conn, "fx_clearing:usd:eur") == ledger.balance(shop.conn, "fx_clearing:eur:usd") == 0
    payouts.set_payout_status(shop.conn, payout_id=payout.payout_id, status="failed")
    assert ledger.balance(shop.conn, "payout_in_transit:usd") == 0
    assert balanced(shop)


def test_a_payout_into_a_currency_of_multiples_holds_the_rest_in_the_balance(shop: Shop):
    rates(shop)
    earn(shop, 123_457)
    payout = pay_out(shop, payout_currency="huf")
    assert payout is not None
    assert one(shop, "select amount %% 100 from oltp.payouts") == 0
    assert available(shop) >= 0
    assert inner(shop, "select payments._payout_adds_up(p) from oltp.payouts p")
    assert balanced(shop)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amounts=st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_the_sum_converted_differs_from_converted_sums_by_one_unit_a_payment_and_goes_to_rounding(shop: Shop, amounts):
    if one(shop, "select count(*) from oltp.exchange_rates") == 0:
        rates(shop)
    rounding = ledger.balance(shop.conn, "rounding:usd")
    for amount in amounts:
        shop.pay(amount, "eur", settlement_currency="usd")
    promised = ledger.balance(shop.conn, "fx_clearing:usd:eur")
    rate = "payments._rate('eur', 'usd', current_date)"
    whole = inner(shop, f"select payments._exchange(%s::bigint, {rate}, 'eur', 'usd')", sum(amounts))
    assert abs(abs(promised) - whole) <= len(amounts)
    proceeds = whole if promised > 0 else -whole
    ledger.trade(shop.conn, sold="eur", bought="usd", proceeds=proceeds)
    assert ledger.balance(shop.conn, "rounding:usd") - rounding == promised - proceeds
    assert balanced(shop)
    shop.pay(1000, "eur", settlement_currency="usd")
    too_much = ledger.balance(shop.conn, "fx_clearing:usd:eur") + 2
    with pytest.raises(WriteError, match="another amount than"):
        ledger.trade(shop.conn, sold="eur", bought="usd", proceeds=too_much)
    ledger.trade(shop.conn, sold="eur", bought="usd", proceeds=ledger.balance(shop.conn, "fx_clearing:usd:eur"))


def test_bank_lines_find_their_payouts_and_what_stays_open_is_listed(shop: Shop):
    earn(shop, 10_000, 20_000)
    matched = pay_out(shop, arrival_date=NOW)
    assert matched is not None
    amount = one(shop, "select amount from oltp.payouts")
    earn(shop, 5000)
    missing = pay_out(shop, arrival_date=NOW)
    assert missing is not None
    file = camt(entry(f"{amount / 100:.2f}", matched.payout_id, "A1"), entry("12.34", "po_" + "0" * 32, "A2"),
                entry("99.00", "rent", "A3"), entry("1.00", matched.payout_id, "A4", status="<Sts>PDNG</Sts>"))
    assert statements.import_camt053(shop.conn, file) == 3
    file.seek(0)
    assert statements.import_camt053(shop.conn, file) == 0
    done = payouts.reconcile(shop.conn, TODAY)
    stranger = one(shop, "select id from oltp.bank_statement_lines where reference like 'po\\_0%%'")
    assert (done.matched, done.paid, done.returned) == (1, 1, 0)
    assert done.open == {missing.payout_id: "no bank line", stranger: "no payout"}
    status = shop.conn.execute("select status, reconciliation_status from oltp.payouts where id = %s",
                               [matched.payout_id]).fetchone()
    assert status == ("paid", "completed")
    assert ledger.balance(shop.conn, "payout_in_transit:eur") == one(
        shop, "select amount from oltp.payouts where id = %s", missing.payout_id)
    assert payouts.reconcile(shop.conn, TODAY).matched == 0


def test_a_line_of_another_amount_or_currency_matches_nothing(shop: Shop):
    earn(shop, 10_000)
    payout = pay_out(shop, arrival_date=NOW)
    assert payout is not None
    statements.import_camt053(shop.conn, camt(
        entry("0.01", payout.payout_id, "A1"), entry("98.25", payout.payout_id, "A2", currency="USD")))
    assert payouts.reconcile(shop.conn, TODAY).matched == 0


def test_money_that_comes_back_fails_its_payout(shop: Shop):
    earn(shop, 10_000)
    had = available(shop)
    payout = pay_out(shop)
    assert payout is not None
    text = f"{had / 100:.2f}"
    statements.import_camt053(shop.conn, camt(entry(text, payout.payout_id, "A1"),
                                              entry(text, payout.payout_id, "A2", "CRDT")))
    done = payouts.reconcile(shop.conn, TODAY)
    assert (done.matched, done.returned) == (2, 1)
    assert one(shop, "select status from oltp.payouts") == "failed"
    assert available(shop) == had
    assert balanced(shop)


def test_an_automatic_payout_that_lost_a_movement_is_not_reconciled(shop: Shop):
    earn(shop, 10_000, 5000)
    payout = pay_out(shop, arrival_date=NOW)
    assert payout is not None
    amount = one(shop, "select amount from oltp.payouts")
    shop.conn.execute("delete from oltp.payout_balance_transactions where balance_transaction_id ="
                      " (select min(balance_transaction_id) from oltp.payout_balance_transactions)")
    statements.import_camt053(shop.conn, camt(entry(f"{amount / 100:.2f}", payout.payout_id, "A1")))
    assert payouts.reconcile(shop.conn, TODAY).open == {payout.payout_id: "not the sum of its movements"}


@pytest.mark.parametrize(("text", "problem"), [
    (b'<!DOCTYPE x [<!ENTITY a "b">]><Document>&a;</Document>', "document type"),
    (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Document/>', "document type"),
    (b"<Document><Stmt>", "well-formed"),
    (b"<Document/>", "no camt.053 statement"),
    (b"<a>" * 50, "nests deeper"),
    (b"<a>" + b"x" * 200_000 + b"</a>", "more than"),
    (camt(entry("1.234", "x", "A1")).read(), "more decimals"),
    (camt(entry("1.00", "x", "A1", direction="UP")).read(), "direction"),
    (camt(entry("1.00", "x", "A1", day="2024-13-01")).read(), "booking date"),  # type: ignore[arg-type]
    (camt("<Ntry/>").read(), "booking date"),
])
def test_a_file_that_is_no_statement_is_refused_and_stores_nothing(shop: Shop, text: bytes, problem: str):
    with pytest.raises(statements.StatementError, match=problem):
        statements.import_camt053(shop.conn, io.BytesIO(text))
    assert one(shop, "select count(*) from oltp.bank_statement_lines") == 0


def test_a_line_that_comes_again_with_other_contents_is_refused(shop: Shop):
    statements.import_camt053(shop.conn, camt(entry("1.00", "x", "A1")))
    with pytest.raises(statements.StatementError, match="other contents"):
        statements.import_camt053(shop.conn, camt(entry("2.00", "x", "A1")))


def test_a_batch_is_read_transaction_by_transaction(shop: Shop):
    batch = ('<Ntry><Amt Ccy="EUR">3.00</Amt><CdtDbtInd>DBIT</CdtDbtInd><Sts>BOOK</Sts>'
             f"<BookgDt><DtTm>{TODAY}T10:00:00</DtTm></BookgDt><NtryDtls>"
             + "".join(f'<TxDtls><Refs><EndToEndId>e{n}</EndToEndId></Refs><Amt Ccy="EUR">{n}.00</Amt></TxDtls>'
                       for n in (1, 2)) + "</NtryDtls></Ntry>")
    lines = list(statements.read_camt053(camt(batch)))
    assert [(line.amount, line.reference) for line in lines] == [(-100, "e1"), (-200, "e2")]
    assert len({line.id for line in lines}) == 2


def test_schedules_pay_out_on_their_days_and_once(shop: Shop):
    earn(shop, 10_000)
    monday = TODAY - dt.timedelta(days=TODAY.weekday())
    payouts.set_schedule(shop.conn, account_id=shop.account, currency="eur", recurrence="weekly", weekly_anchor=1)
    assert payouts.run_payouts(shop.conn, monday + dt.timedelta(days=1)) == []
    assert len(payouts.run_payouts(shop.conn, monday + dt.timedelta(days=7))) == 1
    earn(shop, 5000)
    assert payouts.run_payouts(shop.conn, monday + dt.timedelta(days=7)) == []
    payouts.set_schedule(shop.conn, account_id=shop.account, currency="eur", recurrence="monthly", monthly_anchor=31)
    due = [day for day in (dt.date(2040, 2, 28), dt.date(2040, 2, 29), dt.date(2040, 4, 30), dt.date(2040, 5, 30))
           if shop.conn.execute("select 1 from payments.due_payouts(%s)", [day]).fetchone()]
    assert due == [dt.date(2040, 2, 29), dt.date(2040, 4, 30)]
    payouts.set_schedule(shop.conn, account_id=shop.account, currency="eur", recurrence="manual")
    assert payouts.run_payouts(shop.conn, dt.date(2041, 1, 31)) == []
    with pytest.raises(psycopg.errors.CheckViolation):
        payouts.set_schedule(shop.conn, account_id=shop.account, currency="eur", recurrence="weekly")


def test_the_nightly_close_releases_settles_closes_and_seals_and_may_be_repeated(shop: Shop):
    day = TODAY - dt.timedelta(days=3)
    noon = dt.datetime(day.year, day.month, day.day, 12, tzinfo=dt.UTC)
    shop.pay(10_000, created=noon - dt.timedelta(days=3))
    transfers.hold_reserve(shop.conn, account_id=shop.account, amount=1, currency="eur") if available(shop) else None
    pending = ledger.balance(shop.conn, ledger.account_name("merchant_pending", "eur", shop.account))
    done = books.close_books(shop.conn, day)
    assert (done.released, done.settled) == (1, 1)
    assert done.seals > 0
    assert done.balances > 0
    assert available(shop) == pending
    assert ledger.balance(shop.conn, "network_receivable:eur") == 0
    assert ledger.verify(shop.conn) == []
    again = books.close_books(shop.conn, day)
    assert (again.released, again.balances, again.seals) == (0, 0, 0)
    assert one(shop, "select count(*) from oltp.ledger_entries where kind = 'network_settlement'") == 1
    late = shop.pay(5000, created=noon)
    assert one(shop, "select e.effective_at >= %s from oltp.balance_transactions b join oltp.ledger_entries e"
                     " on e.id = b.ledger_entry_id where b.id = %s", done.open_from, late.balance_transaction_id)
    assert balanced(shop)


def test_a_day_that_is_not_over_is_not_closed(shop: Shop):
    with pytest.raises(WriteError, match="before the day is over"):
        books.close_books(shop.conn, TODAY)


def test_a_close_that_is_killed_goes_on_where_it_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    day = TODAY - dt.timedelta(days=3)
    shop.pay(10_000, created=NOW - dt.timedelta(days=7))
    for step in ("settle_network", "close", "keep_balances", "seal"):
        with monkeypatch.context() as broken:
            broken.setattr(ledger, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                books.close_books(shop.conn, day)
    books.close_books(shop.conn, day)
    assert ledger.verify(shop.conn) == []
    kinds = "('network_settlement', 'balance_release')"
    assert one(shop, f"select count(*) from oltp.ledger_entries where kind in {kinds}") == 2
    assert balanced(shop)
