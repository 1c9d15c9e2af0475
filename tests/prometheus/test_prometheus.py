"""`kn-bench prometheus` with a real Prometheus, behind a kubectl of ours."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.kube.fake_api import FakeApi, in_thread
from tests.ports import free_port
from workload_generator.base.errors import BenchError
from workload_generator.base.no_proxy import open_directly
from workload_generator.cluster.prometheus import tsdb
from workload_generator.cluster.prometheus.snapshot import server_of
from workload_generator.commands import kn_bench
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object

PROMETHEUS = shutil.which("prometheus")
COMMAND = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 40
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return seen


def query(port: int, path: str, **params: Any) -> Any:
    try:
        with open_directly(f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(params)}", 30) as response:
            body = response.read()
    except (urllib.error.URLError, ConnectionError):
        return None
    return json.loads(body)["data"]["result"] if path.endswith("query") else body


def pod(storage: Path, *flags: str, ready: bool = True, name: str = "prometheus-0") -> Object:
    args = [f"--storage.tsdb.path={storage}", *flags]
    return {
        "metadata": {"name": name, "namespace": "metrics", "labels": {"app.kubernetes.io/name": "prometheus"}},
        "spec": {"containers": [{"name": "config-reloader"}, {"name": "prometheus", "args": args}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class Cluster:
    """An API with a pod of Prometheus, and a kubectl that leads to it."""

    def __init__(self, api: FakeApi, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.storage, self.log, self.cut = api, folder / "storage", folder / "log", folder / "cut"
        self.out = folder / "out"
        self.config = api.write_kubeconfig(folder / "kubeconfig")
        monkeypatch.setenv("PATH", f"{Path(__file__).parent}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setenv("FAKE_CUT", str(self.cut))
        self.put()

    def put(self, *flags: str, **more: Any) -> None:
        self.api.put(kinds.PODS, pod(self.storage, *flags, **more))

    def snapshot(self, *flags: str) -> int:
        return kn_bench.main(
            ["prometheus", "snapshot", f"--kubeconfig={self.config}", f"--output-dir={self.out}", *flags]
        )

    def found(self) -> list[Path]:
        return sorted(self.out.iterdir()) if self.out.is_dir() else []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with in_thread(FakeApi()) as api:
        yield Cluster(api, tmp_path, monkeypatch)


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A Prometheus that has scraped itself; its port."""
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(
        "global: {scrape_interval: 200ms}\n"
        f"scrape_configs: [{{job_name: itself, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    assert PROMETHEUS is not None
    command = [
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={cluster.storage}",
        "--web.enable-admin-api",
    ]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        wait_for("a scrape", lambda: query(port, "/api/v1/query", query='up{job="itself"} == 1'))
        cluster.put("--web.enable-admin-api")
        monkeypatch.setenv("FAKE_PORT", str(port))
        yield port
    finally:
        process.terminate()
        process.wait()


@needs.mark(needs.PROMETHEUS)
def test_a_snapshot_is_copied_and_served(cluster: Cluster, server: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.snapshot("--context=fake") == 0
    (folder,) = cluster.found()
    out = capsys.readouterr().out
    contents = tsdb.read_contents(folder)
    assert out == f"{folder}: {contents}\n" and contents.samples > 100
    assert list((cluster.storage / "snapshots").iterdir()) == [], "it is removed from the pod"
    assert f"--kubeconfig={cluster.config} --context=fake --namespace=metrics port-forward" in cluster.log.read_text()

    before = tsdb.checksums(folder)
    port = free_port()
    command = [sys.executable, "-c", COMMAND, "prometheus", "local", f"--output-dir={cluster.out}", f"--port={port}"]
    process = subprocess.Popen([*command, "--runtime=binary"], stderr=subprocess.PIPE, text=True)
    try:
        wait_for("the local server", lambda: query(port, "/-/ready"))
        at = contents.to_ms / 1000
        assert query(port, "/api/v1/query", query='up{job="itself"}', time=at)[0]["value"][1] == "1"
        assert kn_bench.main(["prometheus", "local", f"--output-dir={cluster.out}", f"--port={port}"]) == 2
        assert f"port {port} on 127.0.0.1 is in use" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert f"{folder.name}: {contents}" in said and f"http://127.0.0.1:{port}" in said
    assert process.returncode == 0
    assert tsdb.checksums(folder) == before, "the server has its own folder"


@needs.mark(needs.PROMETHEUS)
def test_a_broken_stream_is_retried(cluster: Cluster, server: int, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.cut.write_text("2")
    assert cluster.snapshot("--keep") == 0
    assert capsys.readouterr().err.count(": retrying") == 2
    (folder,) = cluster.found()
    assert tsdb.checksums(folder) == tsdb.checksums(cluster.storage / "snapshots" / folder.name), "and is kept"
    cluster.cut.write_text("9")
    assert cluster.snapshot() == 1
    assert "the copy was incomplete in 3 attempts" in capsys.readouterr().err
    assert [path for path in cluster.found() if path.suffix != ".part"] == [folder]


@needs.mark(needs.PROMETHEUS)
def test_a_server_without_admin_api(cluster: Cluster, server: int, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.put()
    assert cluster.snapshot() == 1
    said = capsys.readouterr().err
    assert "the admin API of Prometheus in pod prometheus-0 is off" in said and "enableAdminAPI: true" in said
    assert not cluster.log.exists(), "nothing was asked of the pod"


def test_a_missing_pod_port_or_kubectl(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.snapshot("--namespace=other") == 2
    assert "namespace other has no pod with the label app.kubernetes.io/name=prometheus" in capsys.readouterr().err
    cluster.put("--web.enable-admin-api", ready=False)
    assert cluster.snapshot() == 1
    assert "no Prometheus is ready in namespace metrics: prometheus-0" in capsys.readouterr().err
    cluster.put("--web.enable-admin-api")
    assert cluster.snapshot() == 1
    assert "kubectl port-forward to prometheus-0: error: unable to forward port" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cluster.snapshot() == 2
    assert "kubectl is not on PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((503, b"admin APIs disabled"), "admin APIs disabled (503): start it with --web.enable-admin-api"),
        ((200, b'{"status":"success","data":{"name":"../../etc"}}'), "an invalid snapshot name: '../../etc'"),
        ((500, b'{"status":"error","error":"disk full"}'), "refused the snapshot: disk full (500)"),
        ((200, b"{not json"), "does not answer at the forwarded port"),
    ],
)
def test_unexpected_responses_of_the_admin_api(
    cluster: Cluster, answer: tuple[int, bytes], complaint: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            pass

    port = free_port()
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer) as odd:
        thread = threading.Thread(target=odd.serve_forever)
        thread.start()
        monkeypatch.setenv("FAKE_PORT", str(port))
        cluster.put("--web.enable-admin-api")
        try:
            assert cluster.snapshot() == 1
        finally:
            odd.shutdown()
            thread.join()
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_the_flags_of_a_server() -> None:
    def found(*args: str, **container: Any) -> Any:
        containers = [{"name": "prometheus", "args": list(args), **container}]
        return server_of({"metadata": {"name": "p"}, "spec": {"containers": containers}})

    plain = found()
    assert (plain.port, plain.prefix, plain.storage, plain.has_admin_api) == (9090, "/", "/prometheus", False)
    whole = found(
        "--web.listen-address=:9091",
        "--web.route-prefix=/prom/",
        "--storage.tsdb.path=/data/",
        "--web.enable-admin-api",
    )
    assert (whole.port, whole.prefix, whole.storage, whole.has_admin_api) == (9091, "/prom", "/data", True)
    assert found(ports=[{"name": "http-web", "containerPort": 9095}]).port == 9095
    with pytest.raises(BenchError, match="has no container prometheus"):
        server_of({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}})


def block(folder: Path, ulid: str = "01J", **meta: Any) -> Path:
    path = folder / ulid
    (path / "chunks").mkdir(parents=True)
    (path / "chunks" / "000001").write_bytes(b"x")
    (path / "index").write_bytes(b"x")
    stats = {"numSamples": 5, "numSeries": 2, "numChunks": 2}
    (path / "meta.json").write_text(
        json.dumps({"ulid": ulid, "minTime": 1000, "maxTime": 2000, "stats": stats, **meta})
    )
    return path


def test_the_contents_of_a_snapshot(tmp_path: Path) -> None:
    block(tmp_path)
    block(tmp_path, "01K", minTime=3000, maxTime=4000)
    text = "2 blocks, 10 samples of 4 series, 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:04.000Z"
    assert str(tsdb.read_contents(tmp_path)) == text


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: (path / "index").unlink(), "has no index"),
        (lambda path: (path / "chunks" / "000001").unlink(), "has no chunks"),
        (lambda path: (path / "meta.json").write_text("{"), "is not valid"),
        (lambda path: path.rename(path.with_name("other")), "is not valid: it belongs to another block"),
        (lambda path: shutil.rmtree(path), "it has no blocks"),
    ],
)
def test_an_invalid_snapshot(damage: Callable[[Path], Any], complaint: str, tmp_path: Path) -> None:
    damage(block(tmp_path))
    with pytest.raises(BenchError, match=complaint):
        tsdb.read_contents(tmp_path)


def local(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = kn_bench.main(["prometheus", "local", *flags])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_local_chooses_snapshot_and_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"--output-dir={tmp_path}"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    assert local(capsys, where) == (
        2,
        f"kn-bench: {tmp_path} has no snapshot: run kn-bench prometheus snapshot {where[:12]} {tmp_path}\n",
    )
    older, newer = (tmp_path / f"2026112{day}T100000Z-0a1b" for day in (4, 5))
    block(older)
    block(newer)
    code, text = local(capsys, where)
    assert code == 2 and "neither prometheus nor docker is installed" in text
    (tmp_path / "bin" / "docker").write_text("")
    (tmp_path / "bin" / "docker").chmod(0o755)
    code, text = local(capsys, where, "--print", "--port=9099")
    assert code == 0 and text.startswith(f"{tmp_path}/bin/docker run --rm")
    assert f"--publish=127.0.0.1:9099:9090 --volume={newer}.served:/prometheus " in text
    assert "prom/prometheus --config.file=/etc/prometheus/prometheus.yml" in text and "retention.time=1000d" in text
    assert not (tmp_path / f"{newer.name}.served").exists(), "nothing is made by --print"
    (tmp_path / "bin" / "prometheus").write_text("")
    (tmp_path / "bin" / "prometheus").chmod(0o755)
    code, text = local(capsys, where, "--print", f"--snapshot={older.name}")
    assert code == 0 and f"--storage.tsdb.path={older}.served --web.listen-address=127.0.0.1:9090" in text
    assert local(capsys, where, "--print", "--runtime=docker")[1].startswith(f"{tmp_path}/bin/docker")
    code, text = local(capsys, where, "--snapshot=another")
    assert code == 2 and f"snapshots there: {older.name}, {newer.name}" in text
