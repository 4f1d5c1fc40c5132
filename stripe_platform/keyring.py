"""The key ring: keys that wrap data keys. Locally a file of mode 0600; the same interface stands for a KMS.

Nothing but wrapped keys ever leaves it, and a file made for development says so and is refused elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stripe_platform.settings import Settings

KEY_BYTES, ID_BYTES, NONCE_BYTES = 32, 16, 12


class KeyringError(RuntimeError):
    """The key ring cannot be used; the message names the file or key and the remedy."""


def aad(*parts: bytes | str) -> bytes:
    """Parts joined with their lengths in front, so that no two lists of parts give the same bytes."""
    out = bytearray()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        out += len(raw).to_bytes(4, "big") + raw
    return bytes(out)


class Keyring:
    """Wrapping keys by id, one of them active, and the keys of keyed digests by namespace."""

    def __init__(self, wrapping: dict[bytes, bytes], active: bytes, mac_key: bytes) -> None:
        self._wrapping = {key_id: AESGCM(key) for key_id, key in wrapping.items()}
        self._active = active
        self._mac_key = mac_key

    def __repr__(self) -> str:
        return f"Keyring(active={self._active.hex()[:8]}..., keys={len(self._wrapping)})"

    def wrap(self, key: bytes, *context: bytes | str) -> bytes:
        """A data key as ciphertext, bound to its context: wrapping key id, nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._wrapping[self._active].encrypt(nonce, key, aad(self._active, *context))
        return self._active + nonce + sealed

    def unwrap(self, wrapped: bytes, *context: bytes | str) -> bytes:
        """The data key; `KeyringError` when the wrapping key is unknown or the context is another."""
        key_id, nonce = wrapped[:ID_BYTES], wrapped[ID_BYTES : ID_BYTES + NONCE_BYTES]
        if key_id not in self._wrapping:
            raise KeyringError(f"wrapping key {key_id.hex()} is not in the key ring: restore the ring of that epoch")
        try:
            return self._wrapping[key_id].decrypt(nonce, wrapped[ID_BYTES + NONCE_BYTES :], aad(key_id, *context))
        except InvalidTag:
            raise KeyringError("a data key does not unwrap: it was altered, or is another subject's") from None

    def mac(self, namespace: str, data: bytes) -> bytes:
        """HMAC-SHA-256 of data under the key of a namespace; 32 bytes."""
        key = hmac.digest(self._mac_key, aad("namespace", namespace), hashlib.sha256)
        return hmac.digest(key, data, hashlib.sha256)


def open_keyring(settings: Settings) -> Keyring:
    """The ring at `settings.keyring_path`; made on first use in the local profile, never elsewhere."""
    path = settings.keyring_path
    if not path.exists():
        if settings.profile != "local":
            raise KeyringError(f"key ring {path} is missing: name one in STRIPE_PLATFORM_KEYRING")
        _create(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyringError(f"key ring {path} is readable by others: chmod 600 it, and rotate its keys")
    content = json.loads(path.read_text())
    if content["header"] == "dev" and settings.profile == "prod":
        raise KeyringError(f"key ring {path} was made for development: production refuses it, name another")
    keys = {bytes.fromhex(k): base64.b64decode(v) for k, v in content["wrapping"].items()}
    return Keyring(keys, bytes.fromhex(content["active"]), base64.b64decode(content["mac"]))


def _create(path: Path) -> None:
    key_id = secrets.token_hex(ID_BYTES)
    content = {
        "header": "dev",
        "active": key_id,
        "wrapping": {key_id: base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()},
        "mac": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # fails when another process was first: then its ring is the one
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
