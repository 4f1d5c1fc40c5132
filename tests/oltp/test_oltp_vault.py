"""Names and e-mails are ciphertext in SQL, open in their own place only, and never again once their key is gone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import psycopg
import pytest
from oltp_rows import rows_with
from oltp_shop import Shop

from stripe_platform.keyring import Keyring, KeyringError, open_keyring
from stripe_platform.oltp import write
from stripe_platform.settings import Settings, load_settings
from stripe_platform.vault import ErasedSubjectError, VaultError, new_keys, open_value

NAME, MAIL = "Ada Example", "ada@mail.example"


def sealed(shop: Shop, column: str = "name_ciphertext") -> bytes:
    row = shop.conn.execute(f"select {column} from oltp.customers where id = %s", [shop.customer]).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return bytes(row[0])


def test_a_sealed_name_opens_in_its_own_place(shop: Shop):
    place = ("oltp.customers", "name_ciphertext", shop.customer, shop.customer)
    assert open_value(shop.conn, shop.ring, sealed(shop), *place) == NAME.encode()


MOVED = (
    ("oltp.accounts", "name_ciphertext", "own", "own"), ("oltp.customers", "email_ciphertext", "own", "own"),
    ("oltp.customers", "name_ciphertext", "cus_other", "own"),
    ("oltp.customers", "name_ciphertext", "own", "cus_other"),
    ("oltp.customer", "sname_ciphertext", "own", "own"),
)  # fmt: skip


def test_a_value_moved_to_another_table_column_row_or_subject_does_not_open(shop: Shop):
    for place in MOVED:
        table, column, key, subject = (shop.customer if part == "own" else part for part in place)
        with pytest.raises(VaultError, match="does not open"):
            open_value(shop.conn, shop.ring, sealed(shop), table, column, key, subject)


def test_every_flipped_bit_of_an_envelope_is_noticed(shop: Shop):
    place = ("oltp.customers", "name_ciphertext", shop.customer, shop.customer)
    whole = sealed(shop)
    for position in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[position] ^= 1
        with pytest.raises(VaultError):
            open_value(shop.conn, shop.ring, bytes(spoiled), *place)
    with pytest.raises(VaultError, match="no envelope"):
        open_value(shop.conn, shop.ring, whole[:20], *place)


def test_an_erased_subject_is_told_apart_from_a_fault(shop: Shop):
    shop.conn.execute("delete from vault.subject_keys where subject = %s", [shop.customer])
    place = ("oltp.customers", "name_ciphertext", shop.customer, shop.customer)
    with pytest.raises(ErasedSubjectError, match="was erased"):
        open_value(shop.conn, shop.ring, sealed(shop), *place)


def test_another_ring_and_another_subjects_key_do_not_unwrap(shop: Shop, tmp_path: Path):
    other = open_keyring(shop.settings.model_copy(update={"keyring": tmp_path / "other.json"}))
    place = ("oltp.customers", "name_ciphertext", shop.customer, shop.customer)
    with pytest.raises(KeyringError, match="not in the key ring"):
        open_value(shop.conn, other, sealed(shop), *place)
    with psycopg.connect(shop.settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("update vault.subject_keys set subject = 'cus_other'")
    with pytest.raises(KeyringError, match="does not unwrap"):
        open_value(shop.conn, shop.ring, sealed(shop), *place)


def test_no_clear_name_or_mail_stands_in_any_table(shop: Shop):
    write.create_customer(shop.conn, shop.ring, name=NAME, email=MAIL, country="FR", currency="eur")
    assert rows_with(shop.settings, (NAME, MAIL, "Ada")) == []
    assert rows_with(shop.settings, (shop.customer,)) != []  # the search finds what is there


def test_equal_names_have_different_ciphertext(shop: Shop):
    write.create_customer(shop.conn, shop.ring, name=NAME, email=MAIL, country="FR", currency="eur")
    rows = shop.conn.execute("select name_ciphertext from oltp.customers").fetchall()
    assert len(rows) == len({bytes(r[0]) for r in rows}) == 2


def test_the_ring_is_made_once_with_mode_0600_and_never_printed(own_home: Path):
    settings = load_settings()
    first, again = open_keyring(settings), open_keyring(settings)
    key = new_keys(["cus_1"])[0]
    assert again.unwrap(first.wrap(key.key, "cus_1"), "cus_1") == key.key
    assert settings.keyring_path.stat().st_mode & 0o777 == 0o600
    secret = next(iter(json.loads(settings.keyring_path.read_text())["wrapping"].values()))
    assert secret not in repr(first)
    assert key.key.hex() not in repr(key)
    assert str(key.key) not in repr(key)


def test_a_ring_others_can_read_and_a_missing_or_dev_ring_in_production_are_refused(own_home: Path):
    settings = load_settings()
    with pytest.raises(KeyringError, match="is missing"):
        open_keyring(settings.model_copy(update={"profile": "prod"}))
    open_keyring(settings)
    with pytest.raises(KeyringError, match="made for development"):
        open_keyring(settings.model_copy(update={"profile": "prod"}))
    settings.keyring_path.chmod(0o640)
    with pytest.raises(KeyringError, match="chmod 600"):
        open_keyring(settings)


def test_keyed_digests_differ_by_namespace_and_repeat_within_one(own_home: Path):
    ring: Keyring = open_keyring(load_settings())
    assert ring.mac("card", b"x") == ring.mac("card", b"x") != ring.mac("email", b"x")
    assert dataclasses.is_dataclass(new_keys(["a"])[0])
    assert isinstance(load_settings(), Settings)
