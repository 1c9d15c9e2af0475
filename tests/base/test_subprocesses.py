"""Children die with their parent, and no signal is lost around the fork that makes them.

The signals come from callbacks around the fork itself, so that each falls where it used to be lost, every time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANDLER = """
import os, signal, subprocess, sys
from workload_generator.base.subprocesses import die_with_parent, signals_held, start_child

def exit(number, frame):
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, exit)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = HANDLER + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_around_the_fork_reaches_its_handler(moment: str, number: signal.Signals) -> None:
    script = """
        os.register_at_fork(**{sys.argv[1]: lambda: os.kill(os.getpid(), int(sys.argv[2]))})
        start_child(["sleep", "600"]).wait()
    """
    ran = run(script, moment, str(int(number)))
    assert (ran.returncode, ran.stderr) == (128 + number, "")


@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_without_holding_it_the_signal_is_lost(moment: str) -> None:
    """What the test above rests on: Python drops what the handler raises within the callback."""
    script = """
        os.register_at_fork(**{sys.argv[1]: lambda: os.kill(os.getpid(), signal.SIGTERM)})
        subprocess.Popen(["true"], preexec_fn=die_with_parent()).wait()
        print("continues")
    """
    ran = run(script, moment)
    assert (ran.returncode, ran.stdout) == (0, "continues\n") and "Exception ignored" in ran.stderr


def test_a_child_is_killed_when_a_handler_raises_before_the_caller_gets_it(tmp_path: Path) -> None:
    script = """
        os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            start_child(["sleep", "600"], cwd=sys.argv[1])
        except SystemExit:
            left = [each for each in os.listdir("/proc") if each.isdigit() and there(each)]
            print("left", left)
    """
    there = """
def there(pid):
    try:
        return os.readlink(f"/proc/{pid}/cwd") == sys.argv[1]
    except OSError:
        return False
"""
    ran = run(there + textwrap.dedent(script), str(tmp_path))
    assert ran.stdout == "left []\n", ran


def test_the_group_of_such_a_child_is_killed_with_it(tmp_path: Path) -> None:
    """On a busy machine the child can have children before Popen returns in the parent."""
    script = """
        from pathlib import Path
        import threading, time

        class Slow(subprocess.Popen):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                while not Path(sys.argv[1]).exists():
                    time.sleep(0.01)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        subprocess.Popen = Slow
        command = "sleep 600 > /dev/null 2>&1 & echo $! > part; mv part $0; wait"
        start_child(["sh", "-c", command, sys.argv[1]], cwd=sys.argv[2], process_group=0)
    """
    written = tmp_path / "pid"
    ran = run(script, str(written), str(tmp_path))
    assert (ran.returncode, ran.stderr) == (130, "")
    pid = int(written.read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the child of the child is still running")
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_child_before_its_exec_ends_it(name: str) -> None:
    """Its handlers are still the parent's then, and their notes go with the exec."""
    script = """
        number = getattr(signal, sys.argv[1])
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), number))
        noted = []
        signal.signal(number, lambda *_: noted.append(1))
        print(start_child(["true"]).wait() == -number)
    """
    ran = run(script, name)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran


def test_ignored_signals_stay_ignored_in_the_child() -> None:
    script = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        held = "signal.pthread_sigmask(signal.SIG_BLOCK, ())"
        held = f"import signal; print(int(signal.getsignal(signal.SIGHUP)), {held})"
        start_child([sys.executable, "-c", held]).wait()
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    ran = run(script)
    assert ran.stdout.splitlines() == ["1 set()", "set()"], ran


def test_a_program_that_is_not_there_leaves_nothing_held() -> None:
    script = """
        try:
            start_child(["/nonexistent"])
        except FileNotFoundError:
            print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    assert run(script).stdout == "set()\n"


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = HANDLER + f"start_child(['sleep', '600'], cwd={str(tmp_path)!r}); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
        assert _inside(tmp_path)
        parent.kill()
    deadline = time.monotonic() + 30
    while _inside(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _inside(folder: Path) -> list[str]:
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and os.readlink(each / "cwd") == str(folder):
                found.append(each.name)
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found
