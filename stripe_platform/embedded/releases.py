"""Getting the local Mongo-wire server: the lock file's releases in order, each by hash, each in its own environment.

It never shares `.venv` and is never imported: its licence (GPL-2.0) and its dependencies stay out of the platform.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
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
    """One release of the lock file that has a wheel for this Python and platform."""

    version: str
    kind: str  # native: a program in the wheel; python: a script that runs in the environment
    flags: tuple[str, ...]
    sha256: str
    requirements: tuple[str, ...]  # lines of a hashed requirements file, the release itself first

    def folder(self, environments: Path) -> Path:
        return environments / f"mongo-wire-{self.version}-{self.sha256[:12]}"


def releases(lock: Path = LOCK) -> list[Release]:
    """The lock file's releases for this Python and platform, in the order to try."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}-{platform.machine()}"
    found = []
    for entry in tomllib.loads(lock.read_text())["release"]:
        digest = entry["sha256"].get(tag)
        if digest:
            needs = {f"{DISTRIBUTION}=={entry['version']}": [digest]}
            needs.update({need["requirement"]: need["sha256"] for need in entry.get("needs", [])})
            lines = (" ".join([name, *(f"--hash=sha256:{h}" for h in hashes)]) for name, hashes in needs.items())
            found.append(Release(entry["version"], entry["kind"], tuple(entry["flags"]), digest, tuple(lines)))
    return found


def obtain(lock: Path = LOCK, environments: Path = ENVIRONMENTS) -> tuple[Release, Path]:
    """The first release of the lock file that is installed, or else can be, and its environment's folder.

    Raises `ServerError` naming MONGODB_URI when none can be had.
    """
    wanted = releases(lock)
    for release in wanted:
        if release.folder(environments).exists():
            return release, release.folder(environments)
    reasons = []
    for release in wanted:
        with progress.stage(f"install document server {release.version}"):
            reason = _install(release, environments)
        if reason is None:
            return release, release.folder(environments)
        reasons.append(f"{release.version}: {reason}")
    raise ServerError(
        f"No document server could be installed ({'; '.join(reasons) or 'no release for this platform'}): set "
        "MONGODB_URI to the address of a MongoDB, or MONGOD_BIN to a mongod program"
    )


def server_command(release: Release, environment: Path) -> tuple[str, ...]:
    """Program and first arguments that run the installed release."""
    if release.kind == "python":
        return str(environment / "bin" / "python"), str(environment / "bin" / "secantusd-py")
    return (str(packages(environment) / "secantusdb.scripts" / "secantusd-rs"),)


def packages(environment: Path) -> Path:
    """site-packages of an environment made by this interpreter."""
    return Path(sysconfig.get_path("platlib", scheme="venv", vars={"platbase": str(environment)}))


def _install(release: Release, environments: Path) -> str | None:
    """Make an environment with exactly the locked wheels; returns None, or why they could not be had."""
    environments.mkdir(parents=True, exist_ok=True)
    target = release.folder(environments)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    python = str(draft / "bin" / "python")
    installer = [uv, "pip", "install", "--python", python] if uv else [sys.executable, "-m", "pip", "--python", python,
                                                                        "install"]
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(draft)], check=True)
        requirements = draft / "requirements.txt"
        requirements.write_text("\n".join(release.requirements) + "\n")
        done = subprocess.run([*installer, *options, str(requirements)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            return " ".join(done.stderr.split())[-200:] or f"{installer[0]} failed"
        try:
            draft.rename(target)
        except OSError:  # another `up` was faster
            if not target.exists():
                raise
        return None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
