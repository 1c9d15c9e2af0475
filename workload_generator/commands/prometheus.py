"""`kn-bench prometheus`: fetches a snapshot of a cluster's Prometheus, and serves one on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from pathlib import Path

from rich.console import Console

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import escape
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.prometheus import tsdb
from workload_generator.cluster.prometheus.snapshot import PrometheusPod, find_server, take_snapshot
from workload_generator.cluster.prometheus.streams import Streams
from workload_generator.commands.flags import add_kubeconfig
from workload_generator.emulator.ports import free_port
from workload_generator.kube.client import Kube

CONFIG = """scrape_configs:
  - job_name: 'prometheus'
    static_configs:
      - targets: ['localhost:9090']
"""
_SERVED = ".served"


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's two actions and their flags."""
    actions = command.add_subparsers(required=True, metavar="snapshot|local")
    default = Path("data/prometheus")

    parser = actions.add_parser("snapshot", help="create a snapshot in the cluster and fetch it")
    add = parser.add_argument
    add("--namespace", default="metrics", metavar="NAME", help="namespace of Prometheus; default: metrics")
    add("--pod", metavar="NAME", help="default: the first ready pod with Prometheus' label")
    add("--output-dir", type=Path, default=default, metavar="DIR", help=f"parent of the snapshot; default: {default}")
    add("--keep", action="store_true", help="keep the snapshot in the pod too")
    add_kubeconfig(parser)
    parser.set_defaults(action=_snapshot)

    parser = actions.add_parser("local", help="run a Prometheus on this machine over a snapshot, until Ctrl-C")
    add = parser.add_argument
    add("--output-dir", type=Path, default=default, metavar="DIR", help=f"parent of the snapshots; default: {default}")
    add("--snapshot", metavar="NAME", help="default: the newest")
    add("--port", type=int, default=9090, metavar="N", help="port on 127.0.0.1; default 9090")
    runtimes = ("auto", "binary", "docker")
    add("--runtime", choices=runtimes, default="auto", help="default: prometheus if it is installed, else docker")
    add("--image", default="prom/prometheus", metavar="IMAGE", help="for docker; default: prom/prometheus")
    add("--print", action="store_true", help="print the command and do not run it")
    parser.set_defaults(action=_local)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code. Raises BenchError."""
    exit_code: int = options.action(options)
    return exit_code


def _snapshot(options: argparse.Namespace) -> int:
    console = Console(highlight=False, stderr=True, emoji=False)

    def say(text: str) -> None:
        console.print(escape(text), soft_wrap=True)

    async def find() -> PrometheusPod:
        async with await Kube.connect(options.kubeconfig, options.context) as kube:
            return await find_server(kube, options.namespace, options.pod)

    kubectl = Kubectl(options.kubeconfig, options.context)
    kubectl.check()  # before anything is created
    server = asyncio.run(find())
    try:
        streams = Streams(kubectl, options.namespace)
        where, contents = take_snapshot(streams, server, options.output_dir, say, keep=options.keep)
    except OSError as error:
        raise BenchError(f"--output-dir {options.output_dir}: {error.strerror or error}") from error
    Console(highlight=False).print(f"{where}: {contents}", soft_wrap=True)
    return ExitCode.OK


def _local(options: argparse.Namespace) -> int:
    folder: Path = options.output_dir.resolve()
    snapshot = _chosen(folder, options.snapshot)
    contents = tsdb.read_contents(snapshot)
    runtime = _runtime(options.runtime)
    served = snapshot.with_name(snapshot.name + _SERVED)  # a server writes to its folder
    config = folder / "prometheus.yml"
    command = _command(runtime, options, served, config)
    if options.print:
        Console(highlight=False).print(" ".join(command), soft_wrap=True)
        return ExitCode.OK
    free_port(options.port)
    try:
        if not served.exists():
            tsdb.link_copy(snapshot, served)
        if not config.exists():
            config.write_text(CONFIG)
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    console = Console(highlight=False, stderr=True, emoji=False)
    console.print(f"{snapshot.name}: {contents}", soft_wrap=True)
    console.print(f"http://127.0.0.1:{options.port} until Ctrl-C; choose the time range above", soft_wrap=True)
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise BenchError(f"cannot start {command[0]}: {error.strerror}") from error


def _chosen(folder: Path, name: str | None) -> Path:
    """The snapshot `name`, else the newest: names begin with the time. Raises UsageError when there is none."""
    paths = folder.iterdir() if folder.is_dir() else ()
    snapshots = sorted(path for path in paths if path.suffix not in (".part", _SERVED) and tsdb.is_snapshot(path))
    if name is not None:
        if folder / name not in snapshots:
            others = ", ".join(path.name for path in snapshots) or "none"
            raise UsageError(f"{folder} has no snapshot {name}; snapshots there: {others}")
        return folder / name
    if not snapshots:
        raise UsageError(f"{folder} has no snapshot: run kn-bench prometheus snapshot --output-dir {folder}")
    return snapshots[-1]


def _runtime(wanted: str) -> tuple[str, str]:
    """The runtime, `binary` or `docker`, and the path of its program. Raises UsageError when there is none."""
    programs = {"binary": "prometheus", "docker": "docker"}
    for kind in programs if wanted == "auto" else (wanted,):
        path = shutil.which(programs[kind])
        if path is not None:
            return kind, path
    missing = "neither prometheus nor docker is" if wanted == "auto" else f"{programs[wanted]} is not"
    raise UsageError(f"{missing} installed: install Prometheus from https://prometheus.io/download/")


def _command(runtime: tuple[str, str], options: argparse.Namespace, served: Path, config: Path) -> list[str]:
    kind, program = runtime
    file, data = ("/etc/prometheus/prometheus.yml", "/prometheus") if kind == "docker" else (config, served)
    paths = [f"--config.file={file}", f"--storage.tsdb.path={data}"]
    flags = ["--storage.tsdb.retention.time=1000d", "--web.enable-lifecycle"]
    if kind == "binary":
        return [program, *paths, f"--web.listen-address=127.0.0.1:{options.port}", *flags]
    return [
        program, "run", "--rm", "--name=knative-bench-prometheus", f"--user={os.getuid()}:{os.getgid()}",
        f"--publish=127.0.0.1:{options.port}:9090", f"--volume={served}:{data}", f"--volume={config}:{file}:ro",
        options.image, *paths, *flags,
    ]  # fmt: skip
