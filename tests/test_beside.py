"""The process beside ends with its parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from stripe_platform.beside import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


TOLD = """
import os, signal, sys, time
from stripe_platform.beside import other_process
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with other_process() as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_a_parent_that_is_told_to_end_does_not_wait_for_the_work_beside(tmp_path: Path):
    program = tmp_path / "parent.py"
    program.write_text(TOLD)
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.terminate()
        try:
            parent.wait(60)
        finally:
            parent.kill()
    assert parent.returncode == 143
    assert psutil.wait_procs([child], timeout=30)[0] == [child]


def test_a_killed_parent_leaves_nobody_who_works_on(tmp_path: Path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    gone, _alive = psutil.wait_procs([child], timeout=30)
    assert gone == [child]
