"""The rules of a payment, each with rows chosen by hand; `test_oltp_catalogue` finds rows for all the others."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from oltp_rows import GOOD, insert, insert_all

from stripe_platform.settings import Settings

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("currencies", {"code": "EUR"}, "currencies_code_check"),
    ("currencies", {"code": "xxx", "stripe_exponent": 1}, "currencies_stripe_exponent_check"),
    ("currencies", {"code": "xxx", "iso_exponent": 5}, "currencies_iso_exponent_check"),
    ("currencies", {"code": "xxx", "payout_multiple": 0}, "currencies_payout_multiple_check"),
    ("countries", {"code": "fr"}, "countries_code_check"),
    ("countries", {"code": "XX", "currency": "zzz"}, "countries_currency_fkey"),
    ("exchange_rates", {"day": "infinity"}, "exchange_rates_day_check"),
    ("exchange_rates", {"day": "2026-06-02", "rate": "0"}, "exchange_rates_rate_check"),
    ("exchange_rates", {"day": "2026-06-02", "rate": "NaN"}, "exchange_rates_rate_check"),
    ("exchange_rates", {"from_currency": "zzz"}, "exchange_rates_from_currency_fkey"),
    ("exchange_rates", {"to_currency": "zzz"}, "exchange_rates_to_currency_fkey"),
    ("accounts", {"id": "acct 2"}, "accounts_id_check"),
    ("accounts", {"type": "premium"}, "accounts_type_check"),
    ("accounts", {"business_type": "club"}, "accounts_business_type_check"),
    ("accounts", {"mcc": "54"}, "accounts_mcc_check"),
    ("accounts", {"created": "infinity"}, "accounts_created_check"),
    ("accounts", {"country": "ZZ"}, "accounts_country_fkey"),
    ("accounts", {"default_currency": "zzz"}, "accounts_default_currency_fkey"),
    ("terminals", {"id": "x"}, "terminals_id_check"),
    ("terminals", {"device_type": "fax"}, "terminals_device_type_check"),
    ("terminals", {"latitude": "90.1"}, "terminals_latitude_check"),
    ("terminals", {"longitude": "-180.1"}, "terminals_longitude_check"),
    ("terminals", {"latitude": "NaN"}, "terminals_latitude_check"),
    ("terminals", {"created": "-infinity"}, "terminals_created_check"),
    ("terminals", {"account_id": "acct_9"}, "terminals_account_id_fkey"),
    ("terminals", {"country": "ZZ"}, "terminals_country_fkey"),
    ("customers", {"id": ""}, "customers_id_check"),
    ("customers", {"created": "infinity"}, "customers_created_check"),
    ("customers", {"account_id": "acct_9"}, "customers_account_id_fkey"),
    ("customers", {"country": "ZZ"}, "customers_country_fkey"),
    ("customers", {"currency": "zzz"}, "customers_currency_fkey"),
    ("payment_methods", {"id": ""}, "payment_methods_id_check"),
    ("payment_methods", {"card_last4": "4242424242424242"}, "payment_methods_card_last4_check"),
    ("payment_methods", {"card_exp_month": 13}, "payment_methods_card_exp_month_check"),
    ("payment_methods", {"card_exp_year": 1969}, "payment_methods_card_exp_year_check"),
    ("payment_methods", {"card_funding": "gift"}, "payment_methods_card_funding_check"),
    ("payment_methods", {"created": "infinity"}, "payment_methods_created_check"),
    ("payment_methods", {"customer_id": "cus_9"}, "payment_methods_customer_id_fkey"),
    ("payment_methods", {"card_country": "ZZ"}, "payment_methods_card_country_fkey"),
    ("payment_intents", {"id": ""}, "payment_intents_id_check"),
    ("payment_intents", {"amount": -1, "amount_received": 0}, "received_within_amount"),
    ("payment_intents", {"amount_received": 1001}, "received_within_amount"),
    ("payment_intents", {"status": "paid"}, "payment_intents_status_check"),
    ("payment_intents", {"capture_method": "later"}, "payment_intents_capture_method_check"),
    ("payment_intents", {"created": "infinity"}, "payment_intents_created_check"),
    ("payment_intents", {"account_id": "acct_9"}, "payment_intents_account_id_fkey"),
    ("payment_intents", {"customer_id": "cus_9", "payment_method_id": None}, "payment_intents_customer_id_fkey"),
    ("payment_intents", {"currency": "zzz"}, "payment_intents_currency_fkey"),
    ("payment_intents", {"payment_method_id": "pm_9"}, "intents_card_is_the_payers"),
    ("charges", {"id": ""}, "charges_id_check"),
    ("charges", {"amount": -1, "amount_captured": 0}, "captured_within_amount"),
    ("charges", {"amount_captured": 1001}, "captured_within_amount"),
    ("charges", {"amount_refunded": 1001}, "refunded_within_captured"),
    ("charges", {"failure_code": "card_declined"}, "failure_code_only_if_failed"),
    ("charges", {"status": "failed", "amount_captured": 0}, "failed_has_failure_code"),
    ("charges", {"status": "pending"}, "only_succeeded_captures"),
    ("charges", {"status": "paid", "amount_captured": 0}, "charges_status_check"),
    ("charges", {"device_type": "fax"}, "charges_device_type_check"),
    ("charges", {"ip_country": "fra"}, "charges_ip_country_check"),
    ("charges", {"created": "infinity"}, "charges_created_check"),
    ("charges", {"payment_intent_id": "pi_9"}, "charge_matches_its_intent"),
    ("charges", {"currency": "usd"}, "charge_matches_its_intent"),
    ("charges", {"payment_method_id": "pm_9"}, "card_is_the_payers"),
    ("charges", {"terminal_id": "tmr_9"}, "terminal_is_the_merchants"),
    ("charge_outcomes", {"type": "ok"}, "charge_outcomes_type_check"),
    ("charge_outcomes", {"network_status": "ok"}, "charge_outcomes_network_status_check"),
    ("charge_outcomes", {"risk_level": "low"}, "charge_outcomes_risk_level_check"),
    ("charge_outcomes", {"risk_score": 101}, "charge_outcomes_risk_score_check"),
    ("charge_outcomes", {"charge_id": "ch_9"}, "charge_outcomes_charge_id_fkey"),
    ("refunds", {"id": ""}, "refunds_id_check"),
    ("refunds", {"amount": 0}, "refunds_amount_check"),
    ("refunds", {"status": "done"}, "refunds_status_check"),
    ("refunds", {"reason": "mood"}, "refunds_reason_check"),
    ("refunds", {"created": "infinity"}, "refunds_created_check"),
    ("refunds", {"charge_id": "ch_9"}, "refunds_charge_id_fkey"),
    ("refunds", {"currency": "zzz"}, "refunds_currency_fkey"),
    ("refunds", {"payment_intent_id": "pi_9"}, "refunds_payment_intent_id_fkey"),
    ("disputes", {"payment_intent_id": "pi_9"}, "disputes_payment_intent_id_fkey"),
    ("disputes", {"evidence_due_by": "infinity"}, "disputes_evidence_due_by_check"),
    ("disputes", {"evidence_submissions": -1}, "disputes_evidence_submissions_check"),
    ("disputes", {"id": ""}, "disputes_id_check"),
    ("disputes", {"amount": -1}, "disputes_amount_check"),
    ("disputes", {"status": "open"}, "disputes_status_check"),
    ("disputes", {"reason": "mood"}, "disputes_reason_check"),
    ("disputes", {"created": "infinity"}, "disputes_created_check"),
    ("disputes", {"charge_id": "ch_9"}, "disputes_charge_id_fkey"),
    ("disputes", {"currency": "zzz"}, "disputes_currency_fkey"),
    ("early_fraud_warnings", {"id": ""}, "early_fraud_warnings_id_check"),
    ("early_fraud_warnings", {"fraud_type": "mood"}, "early_fraud_warnings_fraud_type_check"),
    ("early_fraud_warnings", {"created": "infinity"}, "early_fraud_warnings_created_check"),
    ("early_fraud_warnings", {"charge_id": "ch_9"}, "early_fraud_warnings_charge_id_fkey"),
    ("fraud_assessments", {"score": 1.1}, "fraud_assessments_score_check"),
    ("fraud_assessments", {"score": float("nan")}, "fraud_assessments_score_check"),
    ("fraud_assessments", {"decision": "maybe"}, "fraud_assessments_decision_check"),
    ("fraud_assessments", {"assessed_at": "infinity"}, "fraud_assessments_assessed_at_check"),
    ("fraud_assessments", {"charge_id": "ch_9"}, "fraud_assessments_charge_id_fkey"),
]

RULES = """
select conname from pg_constraint c join pg_class t on t.oid = c.conrelid
where c.connamespace = 'oltp'::regnamespace and contype in ('c', 'f') and conparentid = 0 and not relispartition
"""


def test_every_check_and_foreign_key_refuses_the_row_that_breaks_it(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        for table in GOOD:
            for _, changes, rule in (bad for bad in BAD if bad[0] == table):
                with pytest.raises(psycopg.errors.IntegrityError) as refused, conn.transaction():
                    insert(conn, table, **changes)
                assert refused.value.diag.constraint_name == rule, (table, changes)
            insert(conn, table)  # only then: the bad row was bad for its own sake, not for a missing parent


def test_every_rule_named_here_stands_in_the_schema(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        assert {rule for _, _, rule in BAD} <= {row[0] for row in conn.execute(RULES)}


def test_a_duplicate_key_is_refused_in_every_table(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        insert_all(conn)
        for table in GOOD:
            with pytest.raises(psycopg.errors.UniqueViolation), conn.transaction():
                insert(conn, table)


def test_a_charge_of_another_merchant_payer_card_or_terminal_is_refused(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        insert_all(conn, until="charges")
        insert(conn, "accounts", id="acct_2", token="tok_2")
        insert(conn, "customers", id="cus_2", token="tok_3")
        insert(conn, "payment_methods", id="pm_2", customer_id="cus_2", card_fingerprint="fpr_2")
        insert(conn, "terminals", id="tmr_2", account_id="acct_2")
        for changes in ({"account_id": "acct_2"}, {"customer_id": "cus_2"}, {"payment_method_id": "pm_2"},
                        {"terminal_id": "tmr_2"}):  # fmt: skip
            with pytest.raises(psycopg.errors.ForeignKeyViolation), conn.transaction():
                insert(conn, "charges", **changes)


def test_amounts_are_integers_of_64_bits_and_nan_or_fractions_never_become_one(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        insert_all(conn, until="payment_intents")
        for amount in ("NaN", "Infinity", "1e309", "1.5", str(2**63)):
            with pytest.raises(psycopg.errors.DataError), conn.transaction():
                insert(conn, "payment_intents", amount=amount)
