"""A function of the catalog as a server of its own, without the platform: for measurements, and for tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from workload_generator.emulator.instance import READY_PATH
from workload_generator.emulator.ports import LOOPBACK, free_port
from workload_generator.emulator.server_process import answers, run_server
from workload_generator.functions.catalog import find_function


class FunctionProcess(NamedTuple):
    """A running function."""

    url: str
    pid: int


@contextlib.contextmanager
def run_function(name: str, port: int) -> Iterator[FunctionProcess]:
    """Run a function of the catalog while the context is active. Raises UsageError, or BenchError from its start."""
    function = find_function(name)
    free_port(port)  # or else another server on the port would answer the probe
    url = f"http://{LOOPBACK}:{port}"
    environment = {**os.environ, "PORT": str(port), "BIND": LOOPBACK, "HOSTNAME": f"{name}-1"}
    with run_server(
        f"function {name}", function.command, lambda _: answers(url + READY_PATH), cwd=function.folder, env=environment
    ) as process:
        yield FunctionProcess(url, process.pid)
