"""A snapshot from a cluster: kubectl, a real API server, kwok's kubelet, and a real Prometheus behind the pod."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import needs
from tests.cluster.api import Api, wait_for
from tests.cluster.plane import HOST_POD, Plane
from tests.cluster.test_plane import pod
from tests.prometheus.test_prometheus import query
from workload_generator.cluster.prometheus import tsdb
from workload_generator.commands import kn_bench


@needs.mark(needs.PROMETHEUS, needs.KUBECTL)
def test_a_snapshot_through_the_api_server(
    plane: Plane, kube: Api, kubeconfig: Path, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, storage = plane.behind_pod, tmp_path / "storage"
    config = tmp_path / "config.yml"
    config.write_text(
        "global: {scrape_interval: 200ms}\n"
        f"scrape_configs: [{{job_name: itself, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    flags = [f"--storage.tsdb.path={storage}", "--web.enable-admin-api"]
    doc = pod(namespace, HOST_POD)
    doc["metadata"]["labels"] = {"app.kubernetes.io/name": "prometheus"}
    doc["spec"]["containers"][0] |= {"name": "prometheus", "args": flags}
    kube.create(doc)
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", f"--config.file={config}", *flags, listen], stdout=log, stderr=log)
    try:
        wait_for("a scrape", lambda: query(port, "/api/v1/query", query='up{job="itself"} == 1'))
        wait_for("the pod", lambda: _is_ready(kube, namespace))
        out = tmp_path / "out"
        command = ["prometheus", "snapshot", f"--kubeconfig={kubeconfig}", f"--namespace={namespace}"]
        assert kn_bench.main([*command, f"--output-dir={out}", "--keep"]) == 0, capsys.readouterr().err
        (folder,) = out.iterdir()
        assert tsdb.read_contents(folder).samples > 100
        assert tsdb.checksums(folder) == tsdb.checksums(storage / "snapshots" / folder.name)
    finally:
        process.terminate()
        process.wait()


def _is_ready(kube: Api, namespace: str) -> bool:
    conditions = kube.get("v1", "Pod", namespace, HOST_POD)["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
