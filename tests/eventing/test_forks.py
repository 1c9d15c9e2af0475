"""A service with several workers, and a signal while it forks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys
moment, fork, data, port = sys.argv[1:]
count = 0
def after(*_):
    global count
    count += 1
    if count == int(fork):
        os.kill(os.getpid(), signal.SIGTERM)
os.register_at_fork(**{moment: after})
from workload_generator.__main__ import event_logger
sys.argv = ["event-logger", "--data", data, "--port", port, "--bind=127.0.0.1", "--workers=3"]
sys.exit(event_logger())
"""


@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
@pytest.mark.parametrize("fork", [1, 3])
def test_a_signal_during_the_forks_ends_all_workers(moment: str, fork: int, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        moment,
        str(fork),
        str(tmp_path),
        str(free_port()),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert "Traceback" not in ran.stderr and "Exception ignored" not in ran.stderr and "by itself" not in ran.stderr
