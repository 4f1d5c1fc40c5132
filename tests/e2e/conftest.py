"""One small platform, made by the command users type, shared by the end-to-end tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TOOLS = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent
SMALL = ("--per-day", "300")  # 28 days: enough frauds to train on, seconds instead of minutes


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

    def json(self, *args: str) -> dict:
        return json.loads(self.run(*args, "--json").stdout.strip().splitlines()[-1])

    def popen(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen([TOOLS / "stripe-platform", *args], cwd=ROOT, env=self.env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def new_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Platform]]:
    """Makes empty platforms; stops their servers at the end."""
    made: list[Platform] = []

    def make(name: str) -> Platform:
        home = tmp_path_factory.mktemp(name)
        made.append(Platform(home))
        return made[-1]

    yield make
    for platform in made:
        platform.run("down", check=False)


@pytest.fixture(scope="session")
def demo(new_platform: Callable[[str], Platform]) -> tuple[Platform, dict]:
    """A platform after `stripe-platform demo`, and what the command reported."""
    platform = new_platform("demo")
    return platform, platform.json("demo", *SMALL)
