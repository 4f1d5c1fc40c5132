"""The document server comes by hash from its lock file, and never into the platform's own environment."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stripe_platform.embedded import releases
from stripe_platform.embedded.errors import ServerError
from stripe_platform.settings import PROJECT_ROOT


def lock_with(tmp_path: Path, *wrong: str, keep: int) -> Path:
    """A copy of the lock's first `keep` releases in which the named digests are wrong."""
    text = "[[release]]".join(releases.LOCK.read_text().split("[[release]]")[: keep + 1])
    for digest in wrong:
        text = text.replace(digest, "0" * 64)
    path = tmp_path / "lock"
    path.write_text(text)
    return path


def test_a_wrong_hash_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    first = releases.releases()[0]
    with pytest.raises(ServerError, match="set MONGODB_URI to the address of a MongoDB") as caught:
        releases.obtain(lock_with(tmp_path, first.sha256, keep=1), tmp_path / "envs")
    assert first.version in str(caught.value)
    assert list((tmp_path / "envs").iterdir()) == []


def test_when_a_release_cannot_be_had_the_next_one_is_installed(tmp_path: Path) -> None:
    first, second = releases.releases()[:2]
    release, environment = releases.obtain(lock_with(tmp_path, first.sha256, keep=2), tmp_path / "envs")
    assert release.version == second.version
    (program,) = releases.server_command(release, environment)
    assert "--sync-on-commit" in subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


def test_a_machine_without_any_release_is_told_about_mongodb_uri(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("release = []\n")
    with pytest.raises(ServerError, match=r"no release for this platform.*MONGODB_URI"):
        releases.obtain(lock, tmp_path / "envs")


def test_every_release_of_the_lock_is_pinned_and_durable() -> None:
    found = releases.releases()
    assert found[0].version == "0.6.0b17"
    for release in found:
        assert re.fullmatch(r"[0-9a-f]{64}", release.sha256)
        assert "--sync-on-commit" in release.flags
        assert all(re.search(r"==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in release.requirements)


def test_nothing_of_the_platform_imports_or_requires_the_document_server() -> None:
    assert "secantus" not in (PROJECT_ROOT / "requirements" / "lock.txt").read_text().lower()
    assert "secantus" not in (PROJECT_ROOT / "pyproject.toml").read_text().lower()
    for root in ("stripe_platform", "resources", "asset_checks", "tests"):
        for source in (PROJECT_ROOT / root).rglob("*.py"):
            assert not re.search(r"^\s*(import|from)\s+secantus", source.read_text(), re.MULTILINE), source
