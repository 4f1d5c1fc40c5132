"""Whole platforms for tests: a data folder, the commands users type, and what its servers tell about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from dotenv import dotenv_values
from memory import in_memory

TOOLS = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent
SMALL = ("--days", "21", "--per-day", "300")  # of `demo`: the fewest days that train a model


class Platform:
    """A data folder and the commands run on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        own = {k: v for k, v in os.environ.items() if not k.startswith(("STRIPE_PLATFORM_", "DAGSTER_", "MONGODB_"))}
        self.env = {
            **own, "STRIPE_PLATFORM_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"),
            "DAGSTER_EVENT_BATCH_SIZE": "500",
        }

    def run(self, *args: str, tool: str = "stripe-platform", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [TOOLS / tool, *args], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=900
        )
        if check and done.returncode:
            raise AssertionError(f"{tool} {' '.join(args)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def variable(self, name: str) -> str:
        """What `up` wrote for a variable."""
        value = dotenv_values(self.home / "connections.env")[name]
        assert value, f"{name} is not in connections.env"
        return value

    def json(self, *args: str) -> dict:
        return json.loads(self.run(*args, "--json").stdout.strip().splitlines()[-1])

    def popen(self, *args: str, stdout: IO[str] | int = subprocess.PIPE,
              own_session: bool = False) -> subprocess.Popen[str]:
        """The command under way; in a session of its own when its whole process group is to be killed."""
        return subprocess.Popen([TOOLS / "stripe-platform", *args], cwd=ROOT, env=self.env, text=True,
                                stdout=stdout, stderr=subprocess.STDOUT, start_new_session=own_session)

    def dsn(self, name: str) -> str:
        """A connection URL of `connections.env`: `WAREHOUSE_DSN`, `OLTP_OWNER_DSN`, ..."""
        return self.variable(f"STRIPE_PLATFORM_{name}")


@pytest.fixture(scope="session")
def new_platform() -> Iterator[Callable[[str], Platform]]:
    """Makes empty platforms; stops their servers and deletes them at the end."""
    made: list[Platform] = []

    def make(name: str) -> Platform:
        home = Path(tempfile.mkdtemp(prefix=f"stripe_platform_{name}_", dir=in_memory()))
        home.chmod(0o711)  # root's servers run as another user, who must get in
        made.append(Platform(home))
        return made[-1]

    yield make
    for platform in made:
        platform.run("down", check=False)
        shutil.rmtree(platform.home)
