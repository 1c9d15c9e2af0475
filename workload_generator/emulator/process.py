"""Functions as real local processes: started, waited for, and never left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from types import TracebackType

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.subprocesses import start_child
from workload_generator.functions.catalog import find_function

READY_PATH = "/health/readiness"
_POLL_S = 0.01
_STOP_S = 10.0


def free_port(wanted: int | None = None, first: int = 18080, last: int = 18999) -> int:
    """A loopback port that is free now: the wanted one, else the first of a range below the ephemeral ones."""
    for port in [wanted] if wanted is not None else range(first, last + 1):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    if wanted is not None:
        raise UsageError(f"port {wanted} on 127.0.0.1 is in use; choose another with --port")
    raise UsageError(f"every port from {first} to {last} on 127.0.0.1 is in use")


class FunctionProcess:
    """One instance of a function. A context: it is ready inside and gone after."""

    def __init__(self, name: str, port: int, ready_timeout_s: float = 30.0) -> None:
        self._name = name
        self._port = port
        self._function = find_function(name)
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Its process, while it has one."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> FunctionProcess:
        """Start it and wait until it says that it is ready. Raises BenchError when it never does."""
        free_port(self._port)  # else whoever has it would answer for us
        environment = {**os.environ, "PORT": str(self._port), "BIND": "127.0.0.1", "HOSTNAME": f"{self._name}-1"}
        self._process = start_child(
            self._function.command,
            cwd=self._function.folder,
            env=environment,
            process_group=0,  # a Ctrl-C is for the command; it ends its functions itself, when their callers are done
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it: politely first, then for certain."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                raise BenchError(f"function {self._name} ended with exit code {code} before it was ready")
            if _answers(self._port):
                return
            time.sleep(_POLL_S)
        raise BenchError(f"function {self._name} was not ready within {self._ready_timeout_s:g} s")


def _answers(port: int) -> bool:
    request = f"GET {READY_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.sendall(request)
            return sock.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
