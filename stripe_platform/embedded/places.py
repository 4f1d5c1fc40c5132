"""Where the servers' data and programs live, and as which operating system user they run.

Not root: everything inside the home folder, as the caller. Root: PostgreSQL refuses to run as root, so the servers
run as a system user of their own. Their data stay in the home folder when that user can reach it; otherwise they go
to /var/lib/stripe_platform, named by a pointer file. The mode of a folder that was there before is never changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stripe_platform.embedded import processes
from stripe_platform.embedded.errors import ServerError

SYSTEM_USER = "stripe_platform"
ELSEWHERE = Path("/var/lib/stripe_platform")
POINTER = "servers-location"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """The servers' folder and user. `user` is None when the caller's own is used."""

    home: Path
    data: Path
    user: pwd.struct_passwd | None

    def identity(self) -> dict[str, Any]:
        """Arguments of `subprocess` that run a program as the servers' user, outside any private folder."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.data), "TZ": "UTC", "LC_ALL": "C"}
        common: dict[str, Any] = {"cwd": self.data, "env": environment, "umask": 0o077}
        if self.user is None:
            return common
        return {**common, "user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or folder of ours to the servers' user."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def folder(self, name: str) -> Path:
        """A folder of the servers (created 0700, theirs)."""
        path = self.data / name
        if not path.exists():
            path.mkdir(mode=0o700)
            self.own(path)
        return path

    def reachable(self, path: Path) -> bool:
        """True when the servers' user can enter or run `path`."""
        return self.user is None or _reaches(self.user, path)

    def program(self, folders: list[Path]) -> Path:
        """Folder that holds `folders` side by side, reachable for the servers' user: theirs, or a copy.

        A copy is named by the folders' paths and modification times, so that an upgrade makes a new one.
        """
        parent = folders[0].parent
        if all(self.reachable(f) for f in folders):
            return parent
        facts = "|".join(f"{f}:{f.stat().st_mtime_ns}" for f in folders)
        copy = ELSEWHERE / "programs" / hashlib.sha256(facts.encode()).hexdigest()[:16]
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
            for folder in folders:
                shutil.copytree(folder, draft / folder.name, symlinks=True)
            _world_readable(draft)
            try:
                draft.rename(copy)
            except OSError:  # another thread or `up` was faster
                shutil.rmtree(draft)
        return copy


def find(home: Path) -> Place | None:
    """The place that an earlier `up` chose for this home, or None. Raises when it belongs to somebody else."""
    pointer = home / POINTER
    data = Path(pointer.read_text().strip()) if pointer.exists() else home / "servers"
    if not data.is_dir():
        return None
    owner = data.stat().st_uid
    if os.geteuid() == 0:
        return Place(home, data, pwd.getpwuid(owner))
    if owner != os.geteuid():
        raise ServerError(
            f"The servers' data in {data} belong to user {pwd.getpwuid(owner).pw_name}: run as that user or as root, "
            "or name another home with STRIPE_PLATFORM_HOME"
        )
    return Place(home, data, None)


def choose(home: Path) -> Place:
    """The place of this home; made when it is not there yet."""
    found = find(home)
    if found:
        return found
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        data = home / "servers"
        processes.end_servers_below(data)
        data.mkdir(mode=0o700)
        return Place(home, data, None)
    user = _system_user() or _make_system_user()
    data = home / "servers"
    if not _reaches(user, home):
        ELSEWHERE.mkdir(mode=0o755, exist_ok=True)
        data = ELSEWHERE / hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    processes.end_servers_below(data)
    if data.exists():  # of a home that was deleted, and the passwords with it
        shutil.rmtree(data)
    if data.parent == ELSEWHERE:
        (home / POINTER).write_text(f"{data}\n")
    draft = data.with_name(f".{data.name}.{os.getpid()}")  # renamed when it is theirs: a kill in between leaves no half
    draft.mkdir(mode=0o700)
    os.chown(draft, user.pw_uid, user.pw_gid)
    draft.rename(data)
    return Place(home, data, user)


def _system_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _make_system_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(ELSEWHERE),
               "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerError(
            f"PostgreSQL does not run as root and the system user {SYSTEM_USER!r} could not be made: run as another "
            f"user, or run `{' '.join(command)}` and try again"
        ) from error
    log.warning("Made the system user %r (useradd --system): the local servers do not run as root", SYSTEM_USER)
    return pwd.getpwnam(SYSTEM_USER)


def _reaches(user: pwd.struct_passwd, path: Path) -> bool:
    """Ask the operating system, as that user: modes, groups and access lists all count."""
    test = subprocess.run(["test", "-x", str(path)], user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/",
                          check=False)
    return test.returncode == 0


def _world_readable(folder: Path) -> None:
    """Make a copy of ours readable for the servers' user, whatever the caller's umask."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
    for parent in (ELSEWHERE, ELSEWHERE / "programs"):
        parent.chmod(0o755)
