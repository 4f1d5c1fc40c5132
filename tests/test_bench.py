"""What benches measure with."""

from __future__ import annotations

import subprocess
import sys

PARENT = """
import subprocess, sys
held = bytearray(400 << 20)
child = "from stripe_platform.bench import peak_mb; print(peak_mb())"
sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""


def test_the_peak_of_a_process_is_its_own_whatever_its_parent_holds():
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 200
