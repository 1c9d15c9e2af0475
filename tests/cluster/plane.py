"""A Kubernetes control plane on loopback: the real parts, with nodes that kwok simulates.

Rules:
- all its files are in one folder, which is deleted with the plane; the logs of a failed plane are kept
- its processes end with the process that started it, even if that is killed
- it listens on 127.0.0.1 only, on ports below the ephemeral ones
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import urllib3
import yaml

from tests.cluster import cluster
from tests.cluster.api import Api, Refused
from tests.cluster.credentials import ADMIN, Credentials
from tests.ports import free_port
from workload_generator.base.subprocesses import die_with_parent

START_S = 120.0
PLUGINS = "PodNodeSelector,PodTolerationRestriction"
"""Admission plugins for the placement annotations of our namespaces; disabled by default."""
SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
METRICS_HOST = "metrics-server.kube-system.svc"
NODES = Path(__file__).with_name("nodes.yaml")
HOST_POD = "this-machine"


class PlaneFailed(Exception):
    """A part did not start; the message has the path and the end of its log."""


class Plane:
    """etcd, the API server, controllers, scheduler, kwok and metrics-server; a context manager."""

    def __init__(self, program: Path, folder: Path | None = None, plugins: str = PLUGINS) -> None:
        """`folder` is created, and emptied at the end; the default is a folder in memory."""
        self._program = program
        self.plugins = plugins
        where = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="knative-bench-plane-", dir=where))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = False
        self.behind_pod = 0
        """A free port of this machine, to which ports of a pod named HOST_POD are forwarded."""
        self.kubeconfig = self.folder / f"{ADMIN[0]}.kubeconfig"

    def __enter__(self) -> Plane:
        try:
            self._start()
        except BaseException:
            self.stop(keep_logs=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(keep_logs=kind is not None)

    def stop(self, keep_logs: bool = False) -> None:
        """Stop all parts, the API server last; delete the folder unless `keep_logs`. Can be called twice."""
        if self._stopped:
            return
        self._stopped = True
        for name in reversed(self._processes):
            # The data is deleted anyway, so the parts may be killed.
            self._processes[name].send_signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not (keep_logs and path.suffix == ".log"):
                path.unlink()
        if keep_logs:
            sys.stderr.write(f"the logs of the control plane are in {self.folder}\n")
        else:
            self.folder.rmdir()

    def check(self) -> None:
        """Raises PlaneFailed if a part has exited."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self.folder / f"{name}.log"
                end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise PlaneFailed(f"{name} exited with {process.returncode}; its log is {log}:\n{end}")

    def _start(self) -> None:
        credentials = Credentials(self.folder)
        etcd, peer, api = free_port(), free_port(), free_port()
        server = f"https://127.0.0.1:{api}"
        self._start_etcd(f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}")
        self._start_api_server(credentials, api, f"http://127.0.0.1:{etcd}")
        admin = Api(credentials.kubeconfig(server, *ADMIN))
        self._wait("kube-apiserver", lambda: _answers(admin, "/readyz"))
        # Before the controllers, since the garbage collector discovers new kinds only every 30 s.
        cluster.add_crds(admin)
        self._wait("Knative's CRDs", lambda: cluster.crds_established(admin))
        self._start_controllers(credentials, server, free_port())
        self._start_scheduler(credentials, server, free_port())
        kubelet, metrics = free_port(), free_port()
        self.behind_pod = free_port()
        self._start_kwok(credentials, server, kubelet)
        cluster.add_nodes(admin, kubelet)
        cluster.add_agents(admin)
        cluster.add_volumes(admin)
        cluster.add_metrics(admin, metrics, self._start_metrics_server(credentials, server, metrics), METRICS_HOST)
        self._wait("kwok's nodes", lambda: cluster.nodes_ready(admin))
        self._wait("the controllers", lambda: cluster.has_accounts(admin))

    def _start_etcd(self, clients: str, peers: str) -> None:
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )  # fmt: skip

    def _start_api_server(self, credentials: Credentials, port: int, etcd: str) -> None:
        certificate, key = credentials.serving("kube-apiserver")
        private, public = credentials.signing_key()
        proxy = credentials.client("front-proxy")
        self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            f"--client-ca-file={credentials.authority}", "--anonymous-auth=false", "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}", f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--enable-admission-plugins={self.plugins}", "--endpoint-reconciler-type=none", "--allow-privileged=true",
            f"--requestheader-client-ca-file={credentials.authority}", "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy[0]}", f"--proxy-client-key-file={proxy[1]}",
            "--kubelet-preferred-address-types=InternalIP",
            # No client-side rate limits: tests send bursts.
            "--enable-priority-and-fairness=false", "--max-requests-inflight=2000", "--profiling=false",
        )  # fmt: skip

    def _start_controllers(self, credentials: Credentials, server: str, port: int) -> None:
        config = credentials.kubeconfig(server, "system:kube-controller-manager")
        certificate, key = credentials.serving("kube-controller-manager")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1", f"--secure-port={port}", f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}", "--leader-elect=false", "--use-service-account-credentials",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={credentials.authority}", "--kube-api-qps=500", "--kube-api-burst=1000",
            "--pvclaimbinder-sync-period=1s",
            # The nodes are simulated: no addresses to allocate, and no cloud.
            "--allocate-node-cidrs=false", "--profiling=false",
        )  # fmt: skip

    def _start_scheduler(self, credentials: Credentials, server: str, port: int) -> None:
        config = credentials.kubeconfig(server, "system:kube-scheduler")
        certificate, key = credentials.serving("kube-scheduler")
        self._run(
            "kube-scheduler",
            f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1", f"--secure-port={port}", f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}", "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000",
        )  # fmt: skip

    def _start_kwok(self, credentials: Credentials, server: str, port: int) -> None:
        config = credentials.kubeconfig(server, "kwok", "system:masters")
        certificate, key = credentials.serving("kwok")
        self._run(
            "kwok",
            f"--kubeconfig={config}", f"--config={NODES}", f"--config={self._add_host_pod()}",
            "--manage-all-nodes=true", f"--cidr={POD_RANGE}",
            "--node-ip=127.0.0.1", f"--node-port={port}", f"--server-address=127.0.0.1:{port}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", "--node-lease-duration-seconds=40",
        )  # fmt: skip

    def _add_host_pod(self) -> Path:
        """For a pod of this name, all ports are forwarded to `behind_pod`, and exec runs commands on this machine."""
        selector = {"matchNames": [HOST_POD]}
        target = {"port": self.behind_pod, "address": "127.0.0.1"}
        kinds = {
            "ClusterPortForward": {"selector": selector, "forwards": [{"target": target}]},
            "ClusterExec": {"selector": selector, "execs": [{"local": {"workDir": "/"}}]},
        }
        path = self.folder / "host-pod.yaml"
        documents = [
            {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": {"name": "host"}, "spec": spec}
            for kind, spec in kinds.items()
        ]
        path.write_text(yaml.safe_dump_all(documents))
        return path

    def _start_metrics_server(self, credentials: Credentials, server: str, port: int) -> Path:
        config = credentials.kubeconfig(server, "metrics-server", "system:masters")
        certificate, key = credentials.serving("metrics-server", METRICS_HOST)
        self._run(
            "metrics-server",
            f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1", f"--secure-port={port}", f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}", f"--kubelet-certificate-authority={credentials.authority}",
            "--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port", "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",
        )  # fmt: skip
        return credentials.authority

    def _run(self, part: str, *flags: str) -> None:
        # A separate HOME, since kwok reads a configuration from the user's.
        with (self.folder / f"{part}.log").open("wb") as log:
            self._processes[part] = subprocess.Popen(
                [self._program, part, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=self.folder, env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin", "GOMAXPROCS": "2"},
                preexec_fn=die_with_parent(signal.SIGKILL),
            )  # fmt: skip

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise PlaneFailed(f"{what} is not ready after {START_S:.0f} s; the logs are in {self.folder}")
            time.sleep(0.05)


def _answers(api: Api, path: str) -> bool:
    try:
        api.call("GET", path)
    except (Refused, urllib3.exceptions.HTTPError):
        return False  # it is starting
    return True
