"""The checks of the reference's copies pass when they follow it, and fail when somebody else wrote or a batch waits."""

from __future__ import annotations

import psycopg
import pytest

from asset_checks.judge import WHOLE, Check, Verdict, judge, judge_together
from asset_checks.stores import Stores
from asset_checks.suites.reference import CHECKS
from stripe_platform.cdc.capture import capture
from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import import_records
from stripe_platform.ingest.stripe.reading import Record
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp.catalogue import create_product
from stripe_platform.reference import write
from stripe_platform.reference.database import REFERENCE, connect
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.settings import Settings
from stripe_platform.warehouse.certify import PROVEN

pytestmark = pytest.mark.servers
NAMED = {check.asset.to_user_string(): check for check in CHECKS if check.name != PROVEN}
PROOFS = {check.asset.path[-1]: check for check in CHECKS if check.name == PROVEN}


@pytest.fixture
def copied(both: Settings) -> Settings:
    """A merchant with a product, a rate, and the seeds, on both sides."""
    prepare(both)
    with connect(both) as conn:
        shop = write.register_merchant(conn, name="Shop", country="FR", currency="eur", mcc="5411")
        write.put_product(conn, id="prod_1", merchant_id=shop, name="Cup")
        write.put_rates(conn, [{"day": "2026-06-01", "from_currency": "usd", "to_currency": "eur", "rate": "0.9"}])
    sync(both)
    return both


def verdict(check: Check) -> Verdict:
    (found,) = judge(check, Stores.of_settings(), [WHOLE])
    return found


def test_copies_that_follow_pass(copied: Settings):
    assert {name: verdict(check).outcome for name, check in NAMED.items()} == dict.fromkeys(NAMED, "passed")


@pytest.mark.parametrize(("table", "statement", "reason"), [
    ("currencies", "update oltp.currencies set name = 'Euro!' where code = 'eur'", "no_other_contents"),
    ("countries", "delete from oltp.countries where code = 'UG'", "rows_scanned_equals_source_rows"),
    ("exchange_rates", "update oltp.exchange_rates set rate = rate + 0.0000000001", "no_other_contents"),
    ("accounts", "insert into oltp.accounts (id, token) values ('acct_other', 'tok_other')",
     "rows_scanned_equals_source_rows"),
    ("products", "update oltp.products set deleted = true", "rows_scanned_equals_source_rows"),
])
def test_a_copy_that_somebody_else_wrote_turns_its_check_red(copied: Settings, table: str, statement: str, reason: str):
    with psycopg.connect(copied.need("oltp_owner_dsn")) as owner:
        assert owner.execute(statement).rowcount > 0  # type: ignore[call-overload]
    found = verdict(NAMED[f"oltp/{table}"])
    assert found.outcome == "failed"
    assert reason in found.reasons


def test_what_the_oltp_owns_of_a_merchant_is_no_difference(copied: Settings):
    with psycopg.connect(copied.need("oltp_owner_dsn")) as owner:
        owner.execute("update oltp.accounts set charges_enabled = false, email_ciphertext = '\\x00'")
    assert verdict(NAMED["oltp/accounts"]).outcome == "passed"


def test_a_merchant_changes_its_own_products_and_none_of_the_catalogue(copied: Settings):
    with psycopg.connect(copied.need("oltp_dsn"), autocommit=True) as app:
        (shop,) = app.execute("select id from oltp.accounts").fetchone() or ("",)
        own = create_product(app, account_id=shop, name="Coffee")
        app.execute("update oltp.products set name = 'Better coffee' where id = %s", [own])
        with pytest.raises(psycopg.errors.CheckViolation, match="the catalogue's"):
            app.execute("update oltp.products set name = 'Stolen' where id = 'prod_1'")
    assert verdict(NAMED["oltp/products"]).outcome == "passed"


def test_merchants_that_stripe_owns_are_no_difference_and_take_no_ones_place(copied: Settings):
    ring = open_keyring(copied)
    with psycopg.connect(copied.need("ingest_dsn"), autocommit=True) as ingest:
        (shop,) = ingest.execute("select id from oltp.accounts").fetchone() or ("",)
        told = [{"object": "account", "id": name, "type": "standard", "country": "US", "default_currency": "usd",
                 "business_type": "company"} for name in ("acct_stripe", shop)]
        report = import_records(ingest, ring, [Record(one) for one in told],
                                Delivery("test")).as_json()
        assert (report["normalised"], report["quarantined"]) == (1, 1)
        assert ingest.execute("select country from oltp.accounts where id = %s", [shop]).fetchone() == ("FR",)
        (reason,) = ingest.execute("select reason from ingest.objects where state = 'quarantined'").fetchone() or ("",)
        assert "row_has_another_owner" in reason
    assert verdict(NAMED["oltp/accounts"]).outcome == "passed"


def test_a_captured_batch_that_was_not_copied_turns_the_lag_red(copied: Settings):
    with connect(copied) as conn:
        write.put_regions(conn, [{"code": "EMEA", "name": "Renamed"}])
    capture(copied, lake=REFERENCE.lake(copied), source=REFERENCE)
    found = verdict(NAMED["reference/currencies"])
    assert (found.outcome, found.reasons) == ("failed", ("no_batches_behind",))


def test_a_source_that_moved_on_while_it_was_counted_is_followed(copied: Settings):
    """Live writers are no difference: the copies are brought up, and counted again."""
    with connect(copied) as conn:
        write.put_regions(conn, [{"code": "EMEA", "name": "Renamed"}])
        write.put_currencies(conn, [{"code": "eur", "name": "Euro, renamed"}])
    assert verdict(NAMED["oltp/currencies"]).outcome == "passed"


def test_a_reference_row_changed_behind_its_log_turns_the_proof_of_its_table_red(copied: Settings):
    assert {v.outcome for v in judge_together(list(PROOFS.values()), Stores.of_settings())} == {"passed"}
    with psycopg.connect(copied.need("reference_owner_dsn"), autocommit=True) as owner:
        owner.execute(f"alter publication {copied.reference_publication} drop table reference.regions")
        owner.execute("update reference.regions set name = 'Elsewhere' where code = 'EMEA'")
        owner.execute(f"alter publication {copied.reference_publication} add table reference.regions")
    proofs = [PROOFS["countries"], PROOFS["regions"]]
    assert [(v.outcome, v.reasons) for v in judge_together(proofs, Stores.of_settings())] == [
        ("passed", ()), ("failed", ("no_altered",))]


def test_what_a_proof_captured_is_copied_too(copied: Settings):
    with connect(copied) as conn:
        write.put_regions(conn, [{"code": "EMEA", "name": "Renamed"}])
    assert judge(PROOFS["regions"], Stores.of_settings(), [WHOLE])[0].outcome == "passed"
    assert verdict(NAMED["reference/currencies"]).outcome == "passed"


def test_an_empty_table_that_no_change_ever_described_is_equal_and_one_with_rows_is_not(both: Settings):
    prepare(both)
    sync(both)
    assert judge(PROOFS["products"], Stores.of_settings(), [WHOLE])[0].outcome == "passed"
    with psycopg.connect(both.need("reference_owner_dsn"), autocommit=True) as owner:
        owner.execute(f"alter publication {both.reference_publication} drop table reference.exchange_rates")
        with connect(both) as conn:
            write.put_rates(conn, [{"day": "2026-06-01", "from_currency": "usd", "to_currency": "eur", "rate": "0.9"}])
        owner.execute(f"alter publication {both.reference_publication} add table reference.exchange_rates")
    (verdict,) = judge(PROOFS["exchange_rates"], Stores.of_settings(), [WHOLE])
    assert (verdict.outcome, "no_unreadable_logs" in verdict.reasons) == ("failed", True)
