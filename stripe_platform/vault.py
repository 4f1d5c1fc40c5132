"""Field encryption: one random AES-256 key per data subject, AES-256-GCM per field, bound to the field's place.

Envelope (bytes): version 1, algorithm 1, key id 16, nonce 12, ciphertext and tag. The associated data are version,
algorithm, key id, table, column, primary key and subject, each with its length: a value moved elsewhere does not open.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stripe_platform.keyring import ID_BYTES, KEY_BYTES, NONCE_BYTES, Keyring, aad

VERSION, AES_256_GCM = 1, 1
_HEAD = bytes((VERSION, AES_256_GCM))
_BODY = len(_HEAD) + ID_BYTES + NONCE_BYTES
_ONE_MAKER = 7_220_003  # advisory lock: two makers of one subject's key would leave it two keys


class VaultError(RuntimeError):
    """A value that does not open; the message names its place, never its content."""


class ErasedSubjectError(VaultError):
    """The subject's key is gone: its values are unreadable for good, which is a fact and no fault."""


@dataclass(frozen=True, repr=False)
class SubjectKey:
    """A subject's data key, in memory only while values are sealed or opened."""

    subject: str
    id: bytes
    key: bytes

    def seal(self, table: str, column: str, primary_key: str, value: str | bytes) -> bytes:
        """The envelope of one field's value."""
        nonce = os.urandom(NONCE_BYTES)
        raw = value.encode() if isinstance(value, str) else value
        place = _place(self.id, table, column, primary_key, self.subject)
        return _HEAD + self.id + nonce + AESGCM(self.key).encrypt(nonce, raw, place)


def new_keys(subjects: Sequence[str]) -> list[SubjectKey]:
    """A fresh random key per subject; store them with `store_keys` in the transaction that writes their values."""
    ids, keys = os.urandom(ID_BYTES * len(subjects)), os.urandom(KEY_BYTES * len(subjects))
    return [
        SubjectKey(subject, ids[i * ID_BYTES : (i + 1) * ID_BYTES], keys[i * KEY_BYTES : (i + 1) * KEY_BYTES])
        for i, subject in enumerate(subjects)
    ]


def store_keys(conn: psycopg.Connection, ring: Keyring, keys: Sequence[SubjectKey]) -> None:
    """Write the keys, wrapped by the ring and bound to their subject, into `vault.subject_keys`."""
    with conn.cursor() as cursor, cursor.copy("copy vault.subject_keys (id, subject, wrapped) from stdin") as copy:
        for key in keys:
            copy.write_row((key.id, key.subject, ring.wrap(key.key, key.id, key.subject)))


def subject_keys(conn: psycopg.Connection, ring: Keyring, subjects: Collection[str]) -> dict[str, SubjectKey]:
    """The key of each subject, made where it has none; one key per subject, however many write at once.

    Call it inside the transaction that writes their values: new keys commit with it.
    """
    keys = _find_keys(conn, ring, subjects)
    if len(keys) < len(set(subjects)):
        conn.execute("select pg_advisory_xact_lock(%s)", [_ONE_MAKER])
        keys.update(_find_keys(conn, ring, set(subjects) - keys.keys()))
        fresh = new_keys(sorted(set(subjects) - keys.keys()))
        store_keys(conn, ring, fresh)
        keys.update({key.subject: key for key in fresh})
    return keys


def _find_keys(conn: psycopg.Connection, ring: Keyring, subjects: Collection[str]) -> dict[str, SubjectKey]:
    rows = conn.execute(
        "select distinct on (subject) subject, id, wrapped from vault.subject_keys where subject = any(%s)"
        " order by subject, created, id", [list(subjects)])
    return {subject: SubjectKey(subject, bytes(key_id), ring.unwrap(bytes(wrapped), bytes(key_id), subject))
            for subject, key_id, wrapped in rows}  # fmt: skip


def open_value(
    conn: psycopg.Connection, ring: Keyring, envelope: bytes, table: str, column: str, primary_key: str, subject: str
) -> bytes:
    """The clear value of one field; `ErasedSubjectError` when its key is gone, `VaultError` when it is not its own."""
    where = f"{table}.{column} of {primary_key}"
    if len(envelope) < _BODY + 16 or envelope[:2] != _HEAD:
        raise VaultError(f"{where} is no envelope of version {VERSION}: was it written past the vault?")
    key_id = envelope[2 : 2 + ID_BYTES]
    row = conn.execute("select wrapped, subject from vault.subject_keys where id = %s", [key_id]).fetchone()
    if row is None:
        raise ErasedSubjectError(f"{where} cannot be read: the subject's key was erased")
    key = ring.unwrap(row[0], key_id, row[1])
    nonce = envelope[2 + ID_BYTES : _BODY]
    try:
        return AESGCM(key).decrypt(nonce, envelope[_BODY:], _place(key_id, table, column, primary_key, subject))
    except InvalidTag:
        raise VaultError(f"{where} does not open: it was altered, or moved from another field or row") from None


def open_values(
    conn: psycopg.Connection, ring: Keyring, sealed: Sequence[tuple[bytes, str, str, str]]
) -> list[bytes | None]:
    """The clear values of many fields (envelope, table, column, primary key) in one query; None where erased.

    Each opens under the subject its key was made for: a value moved to another row or column does not open.
    """
    ids = {bytes(envelope[2 : 2 + ID_BYTES]) for envelope, *_ in sealed}
    if not ids:
        return []
    rows = conn.execute("select id, subject, wrapped from vault.subject_keys where id = any(%s)", [list(ids)])
    keys = {bytes(i): (s, ring.unwrap(bytes(w), bytes(i), s)) for i, s, w in rows}
    return [_open(keys, *one) for one in sealed]


def _open(
    keys: dict[bytes, tuple[str, bytes]], envelope: bytes, table: str, column: str, primary_key: str
) -> bytes | None:
    where = f"{table}.{column} of {primary_key}"
    if len(envelope) < _BODY + 16 or envelope[:2] != _HEAD:
        raise VaultError(f"{where} is no envelope of version {VERSION}: was it written past the vault?")
    key_id = bytes(envelope[2 : 2 + ID_BYTES])
    if key_id not in keys:
        return None
    subject, key = keys[key_id]
    place = _place(key_id, table, column, primary_key, subject)
    try:
        return AESGCM(key).decrypt(envelope[2 + ID_BYTES : _BODY], envelope[_BODY:], place)
    except InvalidTag:
        raise VaultError(f"{where} does not open: it was altered, or moved from another field or row") from None


def _place(key_id: bytes, table: str, column: str, primary_key: str, subject: str) -> bytes:
    return aad(_HEAD[:1], _HEAD[1:], key_id, table, column, primary_key, subject)
