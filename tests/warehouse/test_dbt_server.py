"""dbt commands through the warm server: same answer as without it, and none of them depends on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from stripe_platform.warehouse.dbt_server import CLIENT, SERVER, WarmDbt


def models(tmp_path: Path, address: str, *, select: str = "tag:scores") -> tuple[int, list[str]]:
    """Exit code and names that `dbt list` gives through the client."""
    done = subprocess.run(
        [sys.executable, CLIENT, "list", "--quiet", "--resource-type", "model", "--select", select,
         "--target-path", tmp_path, "--log-path", tmp_path],
        env={**os.environ, SERVER: address}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


def test_a_command_gets_its_output_and_exit_code_and_outlives_the_server(tmp_path: Path):
    server = WarmDbt()
    try:
        expected = (0, ["stripe_platform.marts.fct_fraud_scores"])
        assert models(tmp_path, server.address) == expected  # sent while the server still starts: waits for it
        assert server.running()
        assert models(tmp_path, server.address, select="1:2:3")[0] == 2
        os.kill(int(server.address.rpartition(":")[2]), signal.SIGKILL)
        while server.running():
            pass
        assert models(tmp_path, server.address) == expected
    finally:
        server.close()
    assert not server.socket.parent.exists()


def test_the_server_ends_with_the_process_that_started_it():
    script = ("import os, sys\nfrom stripe_platform.warehouse.dbt_server import WarmDbt\n"
              "s = WarmDbt()\nprint(s.address, flush=True)\nsys.stdin.read(1)\nos._exit(9)\n")
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().rpartition(":")[2])
    parent.communicate("x")
    deadline = 200
    while _alive(pid) and deadline:
        deadline -= 1
        signal.sigtimedwait([], 0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    """Running and not merely unreaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
