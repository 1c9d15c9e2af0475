"""`kn-bench prometheus`: a snapshot of a cluster's Prometheus, and a server over it on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
from pathlib import Path

from rich.console import Console

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.prometheus import tsdb
from workload_generator.cluster.prometheus.snapshot import find_server, take_snapshot
from workload_generator.cluster.prometheus.streams import Streams
from workload_generator.kube.client import Kube

CONFIG = """scrape_configs:
  - job_name: 'prometheus'
    static_configs:
      - targets: ['localhost:9090']
"""
_SERVED = ".served"


def add_prometheus(command: argparse.ArgumentParser) -> None:
    """The command's two actions and their flags."""
    actions = command.add_subparsers(required=True, metavar="snapshot|local")
    folder = {"type": Path, "default": Path("data/prometheus"), "metavar": "DIR"}

    parser = actions.add_parser("snapshot", help="have a snapshot made, and bring it here")
    parser.add_argument("--namespace", default="metrics", metavar="NAME", help="of Prometheus; default: metrics")
    parser.add_argument("--pod", metavar="NAME", help="default: the first that is ready, by its label")
    parser.add_argument("--output-dir", **folder, help="where its folder goes; default: data/prometheus")  # type: ignore[arg-type]
    parser.add_argument("--keep", action="store_true", help="leave the snapshot in the pod, too")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl finds it")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    parser.set_defaults(command=_snapshot)

    parser = actions.add_parser("local", help="a Prometheus on this machine with that data, until Ctrl-C")
    parser.add_argument("--output-dir", **folder, help="where the snapshots are; default: data/prometheus")  # type: ignore[arg-type]
    parser.add_argument("--snapshot", metavar="NAME", help="default: the newest")
    parser.add_argument("--port", type=int, default=9090, metavar="N", help="of 127.0.0.1; default 9090")
    parser.add_argument(
        "--runtime",
        choices=("auto", "binary", "docker"),
        default="auto",
        help="the prometheus program, or docker; default: the program where there is one",
    )
    parser.add_argument(
        "--image", default="prom/prometheus", metavar="IMAGE", help="for docker; default: prom/prometheus"
    )
    parser.add_argument("--print", action="store_true", help="only print the command that would be run")
    parser.set_defaults(command=_local)


def _snapshot(options: argparse.Namespace) -> int:
    console = Console(highlight=False, stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    async def bring() -> tuple[Path, tsdb.Contents]:
        kubectl = Kubectl(options.kubeconfig, options.context)
        kubectl.check()  # said before anything is made
        async with await Kube.connect(options.kubeconfig, options.context) as kube:
            server = await find_server(kube, options.namespace, options.pod)
        streams = Streams(kubectl, options.namespace)
        return await take_snapshot(streams, server, options.output_dir, say, keep=options.keep)

    try:
        where, contents = asyncio.run(bring())
    except OSError as error:
        raise BenchError(f"--output-dir {options.output_dir}: {error.strerror or error}") from error
    Console(highlight=False).print(f"{where}: {contents}", soft_wrap=True)
    return 0


def _local(options: argparse.Namespace) -> int:
    folder: Path = options.output_dir.resolve()
    snapshot = _chosen(folder, options.snapshot)
    contents = tsdb.read_contents(snapshot)
    runtime = _runtime(options.runtime)
    served = snapshot.with_name(snapshot.name + _SERVED)  # a server writes into its folder: the snapshot stays as it is
    config = folder / "prometheus.yml"
    command = _command(runtime, options.image, served, config, options.port)
    if options.print:
        Console(highlight=False).print(" ".join(command), soft_wrap=True)
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            raise UsageError(
                f"port {options.port} of 127.0.0.1 is not to be had ({error.strerror}): give --port"
            ) from None
    try:
        if not served.exists():
            tsdb.link_copy(snapshot, served)
        if not config.exists():
            config.write_text(CONFIG)
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    console = Console(highlight=False, stderr=True)
    console.print(f"{snapshot.name}: {contents}", soft_wrap=True)
    console.print(
        f"http://127.0.0.1:{options.port} until Ctrl-C; the data ends there: choose that time", soft_wrap=True
    )
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise BenchError(f"cannot start {command[0]}: {error.strerror}") from error


def _chosen(folder: Path, name: str | None) -> Path:
    """The snapshot of that name, or the newest: their names begin with their time."""
    there = (
        sorted(path for path in folder.iterdir() if path.suffix not in (".part", _SERVED) and tsdb.is_snapshot(path))
        if folder.is_dir()
        else []
    )
    if name is not None:
        if folder / name not in there:
            has = f"it has {', '.join(path.name for path in there)}" if there else "it has none"
            raise UsageError(f"{folder} has no snapshot {name}: {has}")
        return folder / name
    if not there:
        raise UsageError(f"{folder} has no snapshot: kn-bench prometheus snapshot --output-dir {folder}")
    return there[-1]


def _runtime(wanted: str) -> tuple[str, str]:
    """Which, and the path of its program."""
    for kind, program in (("binary", "prometheus"), ("docker", "docker")):
        path = shutil.which(program) if wanted in ("auto", kind) else None
        if path is not None:
            return kind, path
    lacking = {"auto": "neither prometheus nor docker is", "binary": "prometheus is not", "docker": "docker is not"}
    raise UsageError(f"{lacking[wanted]} installed: prometheus is at https://prometheus.io/download/")


def _command(runtime: tuple[str, str], image: str, served: Path, config: Path, port: int) -> list[str]:
    kind, program = runtime
    flags = ["--storage.tsdb.retention.time=1000d", "--web.enable-lifecycle"]
    if kind == "binary":
        paths = [f"--config.file={config}", f"--storage.tsdb.path={served}", f"--web.listen-address=127.0.0.1:{port}"]
        return [program, *paths, *flags]
    return [
        program, "run", "--rm", "--name=knative-bench-prometheus", f"--user={os.getuid()}:{os.getgid()}",
        f"--publish=127.0.0.1:{port}:9090", f"--volume={served}:/prometheus",
        f"--volume={config}:/etc/prometheus/prometheus.yml:ro", image,
        "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", *flags,
    ]  # fmt: skip
