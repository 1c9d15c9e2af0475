"""Processes that end with the one that made them, and signals that are not lost while they are made.

Python runs a signal's handler between any two of its instructions, also in what it calls around a fork; what the
handler raises there (a KeyboardInterrupt) is printed and dropped. In the child, between fork and exec, handlers are the
parent's, and what they note ends with the exec. So signals wait from before the fork until after it, on both sides.
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
    """What a child has to call first, so that it does not outlive this process, even when that is killed.

    It is the thread that starts the child whose end counts: one that ends earlier takes the child with it.
    """
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # it died between the fork and the call
            os.kill(os.getpid(), by)

    return arrange


@contextlib.contextmanager
def signals_held() -> Iterator[Callable[[], None]]:
    """Signals that end or interrupt wait for the end of this context, and are handled then, in this thread.

    A child that is forked inside calls what this yields, as soon as it has handlers of its own, or to be ended by what
    came meanwhile. Handlers run in the main thread: where another one is left to take signals, they do not wait.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield let_go
    finally:
        let_go()


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
    """A program as a child that dies with this thread, by `end_by`; `more` is Popen's. Raises OSError as that does."""
    arrange = die_with_parent(end_by)
    with signals_held() as let_go:

        def prepare() -> None:
            for number in _HELD:  # as the exec will: what waits shall not end in a handler of the parent's
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            arrange()
            let_go()

        process = subprocess.Popen(
            command, env=env, stdin=stdin, stdout=stdout, stderr=stderr, preexec_fn=prepare, **more
        )
        try:
            let_go()  # a handler may raise here, and then nobody else knows of the child
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process
