"""Cold start and warm TTFB of the functions as local processes: `just bench-functions`.

Writes the table between the markers of functions/README.md. Each round runs all functions, so that other load of the
machine affects all of them.
- cold start: from the start of the process to the first byte of the response to its first request, which is retried
  every half millisecond until the port is open; the function may use both cores
- warm TTFB: the generator's median at a constant rate after a ramp; it runs on core 0, the function on core 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml
from function_process import run_function

from workload_generator.base.subprocesses import die_with_parent
from workload_generator.emulator.ports import free_port
from workload_generator.functions.catalog import Function, find_catalog, load_catalog
from workload_generator.functions.toolchain import program_version

_MARKERS = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
_EVENT_HEADERS = {
    "Content-Type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-type": "benchmark.request",
    "ce-source": "/bench",
}
_EVENT_DATA = '{"number": 1}'
_START_TIMEOUT_S = 30.0
_RETRY_S = 0.0005
_SLOW_RPS = 50

# For each language: the runtime, and the file and pattern of the framework's version.
_VERSIONS: dict[str, tuple[str, str, str]] = {
    "go": ("go", "go.mod", r"sdk-go/v2 v(\S+)"),
    "python": ("{python}", "uv.lock", r'name = "uvicorn"\nversion = "(.+?)"'),
    "quarkus": ("java", "pom.xml", r"<quarkus.version>(.+?)<"),
    "rust": ("rustc", "Cargo.lock", r'name = "actix-web"\nversion = "(.+?)"'),
    "springboot": ("java", "pom.xml", r"spring-boot-starter-parent</artifactId>\s*<version>(.+?)<"),
    "ts": ("node", "package.json", r'"fastify": "(.+?)"'),
}
# For each language: the files that its image adds to the base image.
_ARTIFACTS: dict[str, Sequence[str]] = {
    "go": ["bin/function"],
    "python": ["main.py", "server.py", ".venv"],
    "quarkus": ["target/quarkus-app"],
    "rust": ["target/release/{name}"],
    "springboot": ["target/function.jar"],
}


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=15, help="cold starts per function; default 15")
    parser.add_argument("--rounds", type=int, default=3, help="warm runs per function; default 3")
    parser.add_argument("--seconds", type=int, default=5, help="duration of a warm run; default 5")
    parser.add_argument("--rps", type=int, default=500, help="rate of a warm run; default 500")
    options = parser.parse_args()
    functions = [function for function in load_catalog().values() if function.built]
    left_out = sorted(load_catalog().keys() - {function.name for function in functions})
    if left_out:
        print(f"skipped, not built: {', '.join(left_out)}")

    starts_ms: dict[str, list[float]] = defaultdict(list)
    warm_ms: dict[str, list[float]] = defaultdict(list)
    for number in range(options.starts + 1):
        for function in functions:
            start_ms = cold_start_ms(function)
            if number:  # warms the page cache
                starts_ms[function.name].append(start_ms)
        print(f"cold starts: round {number} of {options.starts}")
    invalid = 0
    for number in range(options.rounds):
        for function in functions:
            median_ms, reasons = warm_ttfb_ms(function, options.rps, options.seconds)
            warm_ms[function.name].append(median_ms)
            invalid += bool(reasons)
        print(f"warm runs: round {number + 1} of {options.rounds}")

    rows = [row(function, starts_ms[function.name], warm_ms[function.name]) for function in functions]
    explained = explanation(options, invalid, len(functions) * options.rounds)
    write(find_catalog() / "README.md", [*explained, *TABLE_HEAD, *rows])


def request_of(function: Function) -> bytes:
    """The measured request, as bytes."""
    if function.entry.kind == "http":
        return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    headers = "".join(f"{name}: {value}\r\n" for name, value in _EVENT_HEADERS.items())
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(_EVENT_DATA)}\r\n{headers}\r\n"
    return (head + _EVENT_DATA).encode()


def cold_start_ms(function: Function) -> float:
    """Time from the start of an instance's process to the first byte of its first response."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "BIND": "127.0.0.1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        function.command, cwd=function.folder, env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent()
    )
    try:
        answer = first_answer(process, port, request_of(function))
        took_ms = (time.perf_counter() - began) * 1000
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{function.name} answered {answer[:80]!r}")
        return took_ms
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def first_answer(process: subprocess.Popen[bytes], port: int, request: bytes) -> bytes:
    """Connect, with retries until the port is open; send the request and wait for the first byte."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as sock:
            sock.settimeout(_START_TIMEOUT_S)
            try:
                sock.connect(("127.0.0.1", port))
            except ConnectionRefusedError:
                time.sleep(_RETRY_S)
                continue
            sock.sendall(request)
            return sock.recv(4096)
    raise SystemExit(f"port {port} did not open; exit code {process.poll()}")


def warm_ttfb_ms(function: Function, rps: int, seconds: int) -> tuple[float, list[str]]:
    """The median TTFB of a run against one instance, and the reasons if its verdict is invalid."""
    with run_function(function.name, free_port()) as instance, tempfile.TemporaryDirectory() as folder:
        for thread in Path(f"/proc/{instance.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {1})
        target: dict[str, object] = {"url": instance.url}
        if function.entry.kind == "event":
            target |= {"method": "POST", "headers": _EVENT_HEADERS, "body": _EVENT_DATA}
        rate: dict[str, object] = {"requestsPerSecond": _SLOW_RPS if function.name.startswith("sleep-") else rps}
        experiment = Path(folder) / "warm.yaml"
        rate |= {"duration": f"{seconds}s", "rampUp": f"{seconds}s"}
        experiment.write_text(yaml.safe_dump({"targets": [target], "rate": rate}))
        command = [sys.executable, "-m", "workload_generator", f"--config={experiment}", f"--log-dir={folder}"]
        ran = subprocess.run(
            [*command, "--output=json", "--progress=none"],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        )
        if ran.returncode not in (0, 3):
            raise SystemExit(f"the generator ended with exit code {ran.returncode}")
        summary = json.loads(ran.stdout)
        if summary["failed"] or summary["dropped"]:
            raise SystemExit(f"{function.name}: {summary['failed']} failed, {summary['dropped']} dropped")
        if summary["reasons"]:
            print(f"{function.name}: {', '.join(summary['reasons'])}")
        return float(summary["ttfb_ms"]["p50"]), summary["reasons"]


TABLE_HEAD = [
    "| function | language | framework | size | cold start | warm TTFB |",
    "|---|---|---|--:|--:|--:|",
]


def row(function: Function, starts_ms: Sequence[float], warm_ms: Sequence[float]) -> str:
    """The table row of a function."""
    language, framework = versions(function)
    cells = [f"`{function.name}`", language, framework, f"{size_bytes(function) / 1e6:.1f} MB"]
    cells += [spread(starts_ms, 0 if min(starts_ms) > 100 else 1), spread(warm_ms, 3 if max(warm_ms) < 100 else 1)]
    return f"| {' | '.join(cells)} |"


def spread(values_ms: Sequence[float], digits: int) -> str:
    """`median (min to max)`."""
    low, middle, high = min(values_ms), statistics.median(values_ms), max(values_ms)
    return f"{middle:.{digits}f} ms ({low:.{digits}f} to {high:.{digits}f})"


def versions(function: Function) -> tuple[str, str]:
    """Language and framework, with the measured versions."""
    entry = function.entry
    runtime, file, pattern = _VERSIONS[entry.language]
    found = re.search(pattern, (function.folder / file).read_text())
    number = program_version(function.words(runtime)[0])
    name = {"ts": "TypeScript on Node", "quarkus": "Java", "springboot": "Java"}.get(
        entry.language, entry.language.title()
    )
    return f"{name} {number}", f"{entry.framework} {found[1]}" if found else entry.framework


def size_bytes(function: Function) -> int:
    """The size that the function's image adds to the base image."""
    paths = [function.folder / each.format(name=function.name) for each in _ARTIFACTS.get(function.entry.language, ())]
    if function.entry.language == "ts":
        command = ["npm", "ls", "--omit=dev", "--all", "--parseable"]
        listed = subprocess.run(command, cwd=function.folder, stdout=subprocess.PIPE, text=True, check=True).stdout
        paths = [function.folder / "dist", *map(Path, listed.splitlines()[1:])]  # the first entry is the package itself
    return sum(
        each.stat().st_size
        for path in paths
        for each in ([path] if path.is_file() else path.rglob("*"))
        if each.is_file() and not each.is_symlink()
    )


def explanation(options: argparse.Namespace, invalid: int, runs: int) -> list[str]:
    """The text below the table: how it was measured."""
    return [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} shared cores ({platform.machine()}, Linux "
        f"{platform.release().partition('-')[0]}), each function a local process;",
        "medians with minimum and maximum. Compare figures within the table, not with those of another machine.",
        "",
        "- size: added by the image to its base image (binary, or application with its libraries)",
        f"- cold start: from the process's start to the first byte of its first response, {options.starts} starts; "
        "no container, no cluster",
        f"- warm TTFB: median of `workload-generator` at {options.rps} requests/s for {options.seconds} s "
        f"({_SLOW_RPS} requests/s for `sleep-*`), after a",
        f"  ramp of the same length; generator and function on one core each, {options.rounds} runs per function.",
        f"  {invalid} of the {runs} runs had an invalid verdict: differences of 0.1 ms are noise.",
        "",
    ]


def write(readme: Path, lines: Sequence[str]) -> None:
    """Replace the lines between the markers."""
    begin, end = _MARKERS
    before, _, rest = readme.read_text().partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text(before + begin + "\n".join(lines) + "\n" + end + after)
    print(f"wrote {readme}")


if __name__ == "__main__":
    main()
