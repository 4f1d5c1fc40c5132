"""The model registry: content-addressed folders of text files, no pickles.

`<root>/<version>/` holds model.txt (LightGBM's text form), signature.json and SHA256SUMS; `<root>/current.json` names
the version in use. A version is the hash of its signature, and the signature holds the hash of the model: nothing in
a folder can change under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from stripe_platform.settings import load_settings

MODEL, SIGNATURE, SUMS, CURRENT = "model.txt", "signature.json", "SHA256SUMS", "current.json"


class ModelStoreError(RuntimeError):
    """A stored model is missing, was changed, or does not fit; the message names it and the remedy."""


@dataclass(frozen=True)
class StoredModel:
    """A verified model: its version, its LightGBM text and what is known about it."""

    version: str
    text: str
    signature: Mapping[str, Any]


class ModelStore:
    """Models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, text: str, signature: Mapping[str, Any]) -> StoredModel:
        """Store a model and make it the current one; the same content again changes nothing.

        `signature` must be JSON without clocks or host names: its hash is the version.
        """
        model = text.encode()
        described = json.dumps({**signature, "model_sha256": _sha256(model)}, sort_keys=True, indent=1).encode()
        version = _version(described)
        if not (self.root / version).is_dir():
            sums = f"{_sha256(model)}  {MODEL}\n{_sha256(described)}  {SIGNATURE}\n".encode()
            self._place(version, {MODEL: model, SIGNATURE: described, SUMS: sums})
        stored = self.load(version)
        self._point(version)
        return stored

    def load(self, version: str | None = None) -> StoredModel:
        """The named version, by default the current one, after its hashes were checked."""
        version = version or self.current()
        folder = self.root / version
        if folder.parent != self.root or not folder.is_dir():
            raise ModelStoreError(f"model {version} is not in {self.root}: train it by materializing fraud/model")
        try:
            described, model = (folder / SIGNATURE).read_bytes(), (folder / MODEL).read_bytes()
        except FileNotFoundError as error:
            raise ModelStoreError(f"model {version} lacks {Path(error.filename).name}: {_remedy(folder)}") from None
        if _version(described) != version:
            raise ModelStoreError(f"{SIGNATURE} of model {version} was changed after training: {_remedy(folder)}")
        signature = json.loads(described)
        if _sha256(model) != signature["model_sha256"]:
            raise ModelStoreError(f"{MODEL} of model {version} was changed after training: {_remedy(folder)}")
        return StoredModel(version, model.decode(), signature)

    def current(self) -> str:
        """Version in use."""
        try:
            return str(json.loads((self.root / CURRENT).read_bytes())["version"])
        except FileNotFoundError:
            raise ModelStoreError("no fraud model was trained yet: materialize fraud/model first") from None

    def _place(self, version: str, files: Mapping[str, bytes]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        try:
            for name, content in files.items():
                _write_durably(scratch / name, content)
            scratch.chmod(0o755)
            try:
                scratch.rename(self.root / version)
            except OSError:
                if not (self.root / version).is_dir():  # another run placed the same content: nothing is lost
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _sync_folder(self.root)

    def _point(self, version: str) -> None:
        handle, name = tempfile.mkstemp(prefix=".new-", dir=self.root)
        os.close(handle)
        _write_durably(Path(name), json.dumps({"version": version}).encode())
        Path(name).replace(self.root / CURRENT)
        _sync_folder(self.root)


class ModelRegistryResource(dg.ConfigurableResource):
    """The deployment's model store: `root`, by default `models` in the data folder."""

    root: str | None = None

    def store(self) -> ModelStore:
        return ModelStore(Path(self.root) if self.root else load_settings().home / "models")


def _version(signature: bytes) -> str:
    return _sha256(signature)[:16]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _remedy(folder: Path) -> str:
    return f"delete {folder} and materialize fraud/model again"


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
