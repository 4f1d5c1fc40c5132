"""The dbt project's manifest: parsed once into `dbt_project/target`, again only when a source file changed.

Parsing needs no database. Runs never parse: they load what was prepared here (`dbt_command`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stripe_platform.settings import PROJECT_ROOT

DBT_DIR = PROJECT_ROOT / "dbt_project"
PREPARED = ("partial_parse.msgpack", "manifest.json")
_SOURCES = ("dbt_project.yml", "profiles.yml", "models/**/*", "macros/**/*", "tests/**/*")


class DbtParseError(RuntimeError):
    """The dbt project does not parse; the message ends with dbt's own words."""


def target_dir(target: str = "postgres") -> Path:
    """Folder of the prepared manifest; one per target, because types and strategies differ."""
    return DBT_DIR / ("target" if target == "postgres" else f"target-{target}")


def source_digest() -> str:
    """SHA-256 over names and bytes of the project's sources and the installed dbt release."""
    import importlib.metadata

    digest = hashlib.sha256(importlib.metadata.version("dbt-core").encode())
    files = sorted({path for pattern in _SOURCES for path in DBT_DIR.glob(pattern) if path.is_file()})
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(DBT_DIR)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def ensure_manifest(target: str = "postgres") -> Path:
    """Path of an up-to-date manifest.json; parses (about 10 s) only when there is none or sources changed."""
    folder = target_dir(target)
    manifest, stamp = folder / "manifest.json", folder / "sources.sha256"
    if _fresh(manifest, stamp):
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _fresh(manifest, stamp):
            digest = source_digest()
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                _parse(target, fresh)
                for name in PREPARED:  # readers see an old file or a new one, never half of one
                    (Path(fresh) / name).replace(folder / name)
            stamp.write_text(digest)
    return manifest


def load_manifest(target: str = "postgres") -> Mapping[str, Any]:
    """The manifest as a dict, prepared first when it has to be."""
    return json.loads(ensure_manifest(target).read_text())


def _fresh(manifest: Path, stamp: Path) -> bool:
    return manifest.exists() and stamp.exists() and stamp.read_text() == source_digest()


def _parse(target: str, folder: str) -> None:
    command = [sys.executable, "-m", "stripe_platform.warehouse.dbt_command", "parse", "--target", target, "--quiet",
               "--no-partial-parse", "--target-path", folder, "--log-path", folder]
    env = {**os.environ, "DBT_PROJECT_DIR": str(DBT_DIR), "DBT_PROFILES_DIR": str(DBT_DIR)}
    done = subprocess.run(command, cwd=DBT_DIR, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stdout + done.stderr).strip()
        raise DbtParseError(f"the dbt project does not parse for {target}: mend dbt_project; dbt says: {words[-2000:]}")
