"""What `up` remembers in the home folder: ports, passwords, the processes it started; and the files it writes."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stripe_platform.embedded import processes
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.processes import Proc

LOCK_SECONDS = 300.0


@dataclass
class State:
    """Passwords and processes of one home (`servers.json`, 0600)."""

    home: Path
    passwords: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Proc] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)  # by server: kind, version, uri, data

    @classmethod
    def load(cls, home: Path) -> State:
        path = home / "servers.json"
        if not path.exists():
            return cls(home)
        stored = _read(path)
        return cls(home, stored["passwords"], {n: Proc(**p) for n, p in stored["processes"].items()}, stored["facts"])

    def save(self) -> None:
        running = {name: vars(process) for name, process in self.processes.items()}
        write_private(self.home / "servers.json", json.dumps(
            {"passwords": self.passwords, "processes": running, "facts": self.facts}, indent=1))

    def password(self, name: str) -> str:
        """The remembered password of a role; random, made when asked for the first time."""
        return self.passwords.setdefault(name, secrets.token_urlsafe(24))


def ports(home: Path) -> dict[str, int]:
    """The remembered port of each server (`ports.json`)."""
    path = home / "ports.json"
    return _read(path) if path.exists() else {}


def choose_ports(home: Path, names: tuple[str, ...]) -> dict[str, int]:
    """The remembered ports; a server without one gets a free one, once."""
    known = ports(home)
    for name in names:
        if name not in known:
            known[name] = processes.free_port(set(known.values()))
    write_private(home / "ports.json", json.dumps(known, indent=1))
    return known


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ServerError(f"{path} is not JSON (line {error.lineno}): restore it, or delete {path.parent}") from None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable for its owner alone (0600 from the first byte)."""
    if path.exists() and path.read_text() == text:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_instance(home: Path, template: Path, dsn: str) -> None:
    """Dagster's instance file `<home>/dagster/dagster.yaml`, from the template and the run storage's URL."""
    folder = home / "dagster"
    folder.mkdir(mode=0o700, exist_ok=True)
    parts = urlsplit(dsn)
    facts = {
        "HOST": parts.hostname, "PORT": parts.port or 5432, "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""), "DATABASE": parts.path.lstrip("/"), "FOLDER": str(folder),
    }
    text = template.read_text()
    for mark, value in facts.items():
        text = text.replace(f"@{mark}@", json.dumps(value))  # a JSON scalar is a YAML scalar, quoted where needed
    write_private(folder / "dagster.yaml", text)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time; the lock of a killed one is free."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "servers.lock").open("a") as file:
        limit = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise ServerError(
                        f"Another `stripe-platform up` or `down` has held {home / 'servers.lock'} for "
                        f"{LOCK_SECONDS:.0f} s: wait for it or end it, then try again"
                    ) from None
                time.sleep(0.05)
        yield
