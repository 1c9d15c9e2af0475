"""Child processes that end with their parent, and no lost signals around a fork.

Python runs signal handlers between any two instructions, also in its own hooks around a fork, where an exception of
the handler (a KeyboardInterrupt) is printed and dropped. In the child, between fork and exec, the handlers are the
parent's, and their effect ends with the exec. So both sides block signals from before the fork until after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_HELD = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_libc = ctypes.CDLL(None, use_errno=True)

Output = int | IO[bytes] | None


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """A function for the child to call first, so that it ends with this process, even when that is killed.

    The child ends with the thread that started it.
    """
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # the parent died between the fork and the call
            os.kill(os.getpid(), by)

    return arrange


@contextlib.contextmanager
def signals_held() -> Iterator[Callable[[], None]]:
    """Block the signals that end or interrupt a process until the end of this context.

    A child that is forked inside calls the yielded function once it has its own handlers, or none. Only this thread
    blocks signals: in a process with several threads another one may take them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


def start_child(
    command: Sequence[str],
    *,
    end_by: signal.Signals = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    stdin: Output = subprocess.DEVNULL,
    stdout: Output = None,
    stderr: Output = None,
    **more: Any,
) -> subprocess.Popen[bytes]:
    """Start a program that ends with this thread, by `end_by`; `more` is for Popen. Raises OSError."""
    with signals_held() as release:
        more |= {"env": env, "stdin": stdin, "stdout": stdout, "stderr": stderr}
        process = subprocess.Popen(command, preexec_fn=_before_exec(end_by, release), **more)
        try:
            release()  # a handler may raise here: then the caller never gets the child
        except BaseException:
            if more.get("process_group") == 0:
                os.killpg(process.pid, signal.SIGKILL)  # its children, too: it may have started some already
            else:
                process.kill()
            process.wait()
            raise
        return process


@contextlib.contextmanager
def child_group(command: Sequence[str], patience_s: float, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own. An exception ends the group: by SIGTERM, after `patience_s` by SIGKILL.

    A context, so that no handler can raise where a child exists that nothing would end. Raises OSError.
    """
    with signals_held() as release:
        prepare = _before_exec(signal.SIGTERM, release)
        process = subprocess.Popen(command, preexec_fn=prepare, process_group=0, stdin=subprocess.DEVNULL, **more)
        try:
            release()
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _before_exec(end_by: signal.Signals, release: Callable[[], None]) -> Callable[[], None]:
    arrange = die_with_parent(end_by)

    def prepare() -> None:
        for number in _HELD:  # as exec does, before a blocked signal reaches a handler of the parent
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        arrange()
        release()

    return prepare


def exit_text(code: int) -> str:
    """A `Popen.returncode` for people: `exit code 1`, `SIGKILL`, `signal 40` (a real-time signal has no name)."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
