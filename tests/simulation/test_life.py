"""Everything a payment company's objects live through comes up in four weeks, and sums agree wherever they are told."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from simulated_life import LIFE, Life, make

from stripe_platform.oltp.ids import seeded
from stripe_platform.simulation.traffic import Traffic
from stripe_platform.simulation.world import Options, World


@pytest.fixture(scope="module")
def life() -> Life:
    return Life()


@pytest.mark.parametrize(("table", "statuses"), [
    ("payment_intents", {"requires_payment_method", "requires_confirmation", "requires_action", "processing",
                         "canceled", "succeeded"}),
    ("charges", {"succeeded", "failed"}),
    ("refunds", {"pending", "succeeded", "failed"}),
    ("disputes", {"needs_response", "under_review", "won", "lost", "prevented", "warning_needs_response",
                  "warning_under_review", "warning_closed"}),
    ("payouts", {"pending", "in_transit", "paid", "failed"}),
    ("subscriptions", {"incomplete", "incomplete_expired", "trialing", "active", "past_due", "paused", "canceled",
                       "unpaid"}),
    ("invoices", {"draft", "open", "paid", "uncollectible", "void"}),
])  # fmt: skip
def test_every_status_comes_up(life: Life, table: str, statuses: set[str]):
    assert life.statuses(table) == statuses


def test_every_kind_of_object_comes_up(life: Life):
    assert {name for name, rows in life.rows.items() if rows} >= {
        "bank_accounts", "products", "prices", "tax_rates", "subscriptions", "subscription_items", "invoices",
        "invoice_lines", "invoice_taxes", "invoice_payments", "payouts", "reviews", "early_fraud_warnings", "refunds",
        "disputes", "payment_intent_details", "exchange_rates",
    }  # fmt: skip
    captured = [row for row in life.rows["charges"] if row["status"] == "succeeded"]
    assert any(row["amount_captured"] < row["amount"] for row in captured)
    canceled = [row for row in life.changes["subscriptions"] if row.get("status") == "canceled"]
    assert {row.get("cancellation_reason") for row in canceled} == {"cancellation_requested", "payment_failed"}
    assert any(row["cancellation_feedback"] for row in canceled)
    assert {row["opened_reason"] for row in life.rows["reviews"]} == {"rule"}
    assert {row["case_type"] for row in life.rows["disputes"]} == {"chargeback", "inquiry"}


def test_an_intent_that_failed_first_and_came_through_has_both_charges(life: Life):
    by_intent = defaultdict(list)
    for row in life.rows["charges"]:
        by_intent[row["payment_intent_id"]].append(row)
    retried = {name: rows for name, rows in by_intent.items() if len(rows) > 1}
    days = [(max(r["created"] for r in rows) - min(r["created"] for r in rows)).days for rows in retried.values()]
    assert min(days) == 0
    assert max(days) >= 1
    for rows in retried.values():
        rows.sort(key=lambda row: row["created"])
        assert {row["status"] for row in rows[:-1]} == {"failed"}
        assert len({row["amount"] for row in rows}) == 1


def test_an_invoice_is_its_lines_and_taxes_and_what_was_charged_for_it(life: Life):
    lines, taxes, paid = defaultdict(int), defaultdict(int), {}
    for row in life.rows["invoice_lines"]:
        lines[row["invoice_id"]] += row["amount"]
    for row in life.rows["invoice_taxes"]:
        taxes[row["invoice_id"]] += row["amount"]
    charges = {row["id"]: row for row in life.rows["charges"]}
    for row in life.rows["invoice_payments"]:
        paid[row["invoice_id"]] = row
    settled = {row["id"] for row in life.changes["invoices"] if row.get("status") == "paid"}
    assert settled == set(paid)
    for invoice in life.rows["invoices"]:
        assert invoice["subtotal"] == lines[invoice["id"]]
        assert invoice["total"] == invoice["subtotal"] + taxes[invoice["id"]]
        if invoice["id"] in paid:
            payment = paid[invoice["id"]]
            charge = charges[payment["charge_id"]]
            assert invoice["total"] == payment["amount_paid"] == charge["amount_captured"]
            assert charge["payment_intent_id"] == payment["payment_intent_id"]
            assert charge["currency"] == invoice["currency"] == payment["currency"]


def test_disputes_are_decided_five_to_sixty_days_after_they_began(life: Life):
    begun = {row["id"]: row["created"] for row in life.rows["disputes"]}
    ends = [row for row in life.changes["disputes"] if row["status"] in ("won", "lost")]
    assert len(ends) > 100
    assert all(5 <= (row["at"] - begun[row["id"]]).total_seconds() / 86_400 <= 60.01 for row in ends)
    assert 0.05 < sum(row["status"] == "won" for row in ends) / len(ends) < 0.4


def test_labels_come_from_the_scenarios_alone_not_from_amounts(monkeypatch: pytest.MonkeyPatch):
    """Another draw of amounts and everything after it, the same hidden causes: the same labels."""
    world = World(dataclasses.replace(LIFE, per_day=2_000))
    before = [Traffic(world).day(i) for i in range(3)]
    drawn = Traffic._base

    def other_amounts(self: Traffic, number: int):
        base = drawn(self, number)
        factor = seeded("other amounts", number).uniform(0.2, 5.0, len(base))
        return dataclasses.replace(base, amount=base.amount * factor)

    monkeypatch.setattr(Traffic, "_base", other_amounts)
    after = [Traffic(world).day(i) for i in range(3)]
    for one, other in zip(before, after, strict=True):
        assert (one.scenario == other.scenario).all()
        assert (one.scenario > 0).any()
        assert not np.allclose(one.amount, other.amount)


def test_what_is_added_moves_no_charge_that_features_are_made_of():
    """Charges that did not fail: those of the traffic, and members' renewals, who are nobody's payer or terminal."""
    days = make(dataclasses.replace(LIFE, days=2))
    day = days.options.first_day
    made = days.rows(day)
    own = set(days.made(day).ids.to_pylist())
    assert {r["id"] for r in made.tables["charges"].to_pylist() if r["status"] != "failed"} <= own
    members, payers = set(days.members.customers), set(days.world.customer_ids.to_pylist())
    assert not members & payers
    for row in days.rows(day).later["charges"].to_pylist():
        assert row["customer_id"] in members
        assert "terminal_id" not in row


def test_no_subscription_moves_after_its_end():
    """A week's bill may be collected when the next week has begun, and a pause ends before a period does."""
    life = Life(dataclasses.replace(LIFE, per_day=9000, seed=Options().seed))  # the demo's, which met one
    moves = defaultdict(list)
    for row in life.changes["subscriptions"]:
        if row.get("status"):
            moves[row["id"]].append((row["at"], row["status"]))
    late = [name for name, states in moves.items() if "canceled" in [state for _, state in sorted(states)][:-1]]
    assert len(moves) > 50
    assert late == []


def test_what_is_nothing_in_a_merchants_currency_still_costs_its_fee():
    """Four öre captured are no cent; the ledger books the fee all the same, and a payout without it was refused."""
    days = make()
    abroad = np.flatnonzero(days.merchants.exchanged & (days.world.account_currency == "sek"))[:1]
    earned = days.settlement.earned(np.array([4, 0]), np.repeat(abroad, 2), LIFE.first_day)
    assert earned[abroad[0]] == -days.merchants.fixed[abroad[0]] < 0
