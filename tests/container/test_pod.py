"""The image in a restricted container, with runs started by exec."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.container.conftest import ROOT, UID, Image, Pod, Podman, running

EXPERIMENT = """\
targets: [{url: "http://127.0.0.1:8080/healthz"}]
rate: {requestsPerSecond: %s, duration: %s, rampUp: 0s}
limits: {lag: 1h}
"""
UNCOMPILED = """
import sys
from workload_generator.commands.workload_generator import prepare
prepare(sys.argv[1:])
bare = []
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.has_location and spec.cached:
        try:
            with open(spec.cached, "rb") as file:
                if file.read(8)[4:] != bytes([1, 0, 0, 0]):
                    bare.append(spec.cached)
        except FileNotFoundError:
            bare.append(spec.origin)
print(bare, file=sys.stderr)
"""
PACKAGES = "/app/.venv/lib/python*/site-packages"
MOST_ADDED_BYTES = 120_000_000

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def shared_pod(podman: Podman, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with running(podman, image, tmp_path_factory.mktemp("pod"), "--cpus=1") as pod:
        pod.write("/tmp/short.yaml", EXPERIMENT % (100, "1s"))
        pod.write("/tmp/long.yaml", EXPERIMENT % (100, "60s"))
        yield pod


@pytest.fixture
def pod(shared_pod: Pod) -> Pod:
    shared_pod.clear()
    return shared_pod


def test_size(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\nimage: {image.bytes / 1e6:.0f} MB, of which {image.added_bytes / 1e6:.0f} MB are ours\n")
    assert image.added_bytes < MOST_ADDED_BYTES


def test_no_privileges_and_no_writable_files(pod: Pod) -> None:
    assert pod.exec("id", "-u").stdout.strip() == str(UID)
    status = pod.exec("cat", "/proc/1/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    limits = pod.exec("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max")
    assert int(limits.stdout) == 512 * 2**20
    writable = pod.exec("find", "/", "-xdev", "-type", "d", "-writable", "-not", "-path", "/proc/*").stdout.split()
    assert sorted(writable) == ["/logs", "/tmp"]
    for path in ("/app/x", "/x", "/var/tmp/x", "/run/x", "/home/x"):
        assert pod.exec("sh", "-c", f": > {path}").returncode, path
    assert pod.exec("sh", "-c", ": > /logs/x && : > /tmp/x && rm /logs/x /tmp/x").returncode == 0


def test_everything_that_a_command_loads_is_compiled(pod: Pod) -> None:
    """The bytecode is not compared with its source (PEP 552): bit 0 of the flags is set, bit 1 is not."""
    for command in ("--check --config=serving-scenario-1-go", "--self-test"):
        ran = pod.exec("/app/.venv/bin/python", "-c", UNCOMPILED, *command.split())
        assert ran.returncode == 0, ran
        assert ran.stderr.splitlines()[-1] == "[]", ran


def test_pid_1_serves_and_is_ready(pod: Pod) -> None:
    assert "--serve" in pod.exec("cat", "/proc/1/cmdline").stdout
    assert pod.get("/readyz") == (200, "ready\n\n")
    assert "workload_generator_run_in_progress 0.0" in pod.get("/metrics")[1]


@pytest.mark.parametrize("command", ["./workload-generator", "workload-generator", "/app/workload-generator"])
def test_the_originals_exec_line(pod: Pod, command: str) -> None:
    flags = ["--config=serving-scenario-2-go.yaml", "--prefix=serving-scenario-1_all", "--cold-start=true", "--check"]
    ran = pod.exec(command, *flags)
    assert ran.returncode == 0 and "(cold-start)" in ran.stdout, ran


def test_a_run_by_exec(pod: Pod) -> None:
    ran = pod.exec("./workload-generator", "--config=/tmp/short.yaml", "--prefix=by-exec")
    (log,) = pod.logs.iterdir()
    lines = pod.log_lines()
    assert log.name.startswith("by-exec_20") and log.stat().st_uid == UID
    assert lines[0]["cpu_limit"] == 1
    assert (lines[-1]["event"], lines[-1]["counts"]["measure"]["ok"]) == ("run_finished", 100)
    assert ran.returncode == (0 if lines[-1]["verdict"] == "valid" else 3), ran
    assert "100 / 0 / 0" in ran.stdout
    assert pod.exec("./workload-generator", "--config=/tmp/nothing").returncode == 2


def test_a_second_run_is_refused_and_the_first_one_shows_in_the_metrics(pod: Pod) -> None:
    first = pod.start_exec("./workload-generator", "--config=/tmp/long.yaml", stdout=subprocess.DEVNULL)
    pod.wait_for("progress")
    second = pod.exec("./workload-generator", "--config=/tmp/short.yaml")
    assert second.returncode == 2 and "another run is in progress (long, process" in second.stderr
    assert "workload_generator_run_in_progress 1.0" in pod.get("/metrics")[1]
    interrupt(pod, "INT")
    assert first.wait() == 130
    assert pod.log_lines()[-1]["event"] == "run_finished"


def test_a_cut_session_does_not_end_the_run(pod: Pod) -> None:
    pod.write("/tmp/some.yaml", EXPERIMENT % (100, "5s"))
    session = pod.start_exec(
        "./workload-generator", "--config=/tmp/some.yaml", "--progress=plain",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    pod.wait_for("request")
    session.kill()
    session.communicate()
    lines = pod.wait_for("run_finished")
    assert lines[-1]["counts"]["measure"]["planned"] == 500
    assert not any("stopped" in reason for reason in lines[-1]["reasons"])


def test_pid_1_reaps_the_processes_of_a_killed_run(pod: Pod) -> None:
    run = pod.start_exec("./workload-generator", "--config=/tmp/long.yaml", stdout=subprocess.DEVNULL)
    pod.wait_for("request")
    interrupt(pod, "KILL")
    assert run.wait() == 137
    while "workload_generator.log.recorder" in (processes := pod.exec("sh", "-c", PROCESSES).stdout):
        time.sleep(0.1)
    assert " Z " not in processes


PROCESSES = "for p in /proc/[0-9]*; do cat $p/stat; tr '\\0' ' ' < $p/cmdline; done 2>/dev/null"


def interrupt(pod: Pod, name: str) -> None:
    """Send a signal to the run in progress only."""
    script = f"kill -{name} $(sed -n 's/.*process \\([0-9]*\\), since.*/\\1/p' /tmp/workload-generator.lock)"
    assert pod.exec("sh", "-c", script).returncode == 0


def test_sigterm_of_pid_1_lets_the_run_close_its_log(podman: Podman, image: Image, tmp_path: Path) -> None:
    with running(podman, image, tmp_path, "--cpus=1") as pod:
        pod.write("/tmp/long.yaml", EXPERIMENT % (100, "60s"))
        run = pod.start_exec("./workload-generator", "--config=/tmp/long.yaml", stdout=subprocess.DEVNULL)
        pod.wait_for("progress")
        pod.signal("TERM")
        assert pod.wait() == 0
        run.wait()
        trailer = pod.log_lines()[-1]
        assert trailer["event"] == "run_finished"
        assert "stopped by SIGTERM" in trailer["reasons"][0]


def test_sigterm_without_a_run_and_an_eventing_pod_without_a_sink(podman: Podman, image: Image, tmp_path: Path) -> None:
    command = ("workload-generator", "--serve", "--event")
    with running(podman, image, tmp_path, command=command) as pod:
        status, text = pod.get("/readyz")
        assert status == 503 and "K_SINK is not set" in text
        pod.signal("TERM")
        assert pod.wait() == 0


def test_a_cpu_limit_that_is_too_small_makes_the_run_invalid(podman: Podman, image: Image, tmp_path: Path) -> None:
    with running(podman, image, tmp_path, "--cpus=0.2") as pod:
        pod.write("/tmp/much.yaml", EXPERIMENT % (10_000, "2s"))  # 1,000 need about 0.1 of a CPU
        ran = pod.exec("./workload-generator", "--config=/tmp/much.yaml", "--progress=none")
        assert ran.returncode == 3
        reasons = pod.log_lines()[-1]["reasons"]
        assert any("CPU limit" in reason for reason in reasons), reasons


def test_a_shard_of_the_job(podman: Podman, image: Image, tmp_path: Path) -> None:
    """The Job's command as PID 1: on SIGTERM the run closes its log, and its exit code becomes the pod's."""
    documents = yaml.safe_load_all((ROOT / "k8s" / "job" / "job.yaml").read_text())
    (job,) = [doc for doc in documents if doc["kind"] == "Job"]
    values = {
        "CONFIG": "serving-scenario-3-100rps-go", "PREFIX": "job", "RUN_ID": "r", "SHARDS": "2", "HOLD_SECONDS": "600",
        "START_AT": str(int(time.time()) + 1), "JOB_COMPLETION_INDEX": "1",
    }  # fmt: skip
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    flags = [f"--env={name}={value}" for name, value in values.items()]
    with running(podman, image, tmp_path, *flags, command=tuple(command), serves=False) as pod:
        pod.wait_for("progress")
        pod.signal("TERM")
        assert pod.wait() == 143
        (log,) = pod.logs.iterdir()
        lines = pod.log_lines()
    assert log.name.startswith("job_") and log.name.endswith("_s1.log")
    assert lines[0]["shard"] == {"index": 1, "count": 2}
    assert lines[-1]["event"] == "run_finished" and "SIGTERM" in " ".join(lines[-1]["reasons"])


def test_the_image_contains_only_what_it_needs(podman: Podman, image: Image) -> None:
    def look(script: str) -> list[str]:
        return podman.run("run", "--rm", "--network=none", image.id, "sh", "-c", script).stdout.split()

    assert look("ls -A /app") == [".venv", "workload-generator"]
    assert len(look(f"cd {PACKAGES}/workload_generator/_experiments && ls *.yaml")) == len(
        list((ROOT / "experiments").glob("*.yaml"))
    )
    libraries = {name.partition("-")[0] for name in look(f"cd {PACKAGES} && ls -d *.dist-info")}
    assert "knative_bench" in libraries
    assert not libraries & {"pytest", "mypy", "ruff", "hypothesis", "uvicorn", "checkov", "pip", "uv"}
    assert look("command -v gcc cc make uv git; true") == []
    assert look("find / -xdev \\( -name .git -o -name 'id_*' \\) 2>/dev/null; true") == []
    assert look(f"find {PACKAGES}/workload_generator -name 'test*'") == []
    assert look("ls -A /var/lib/apt/lists; ls -A /tmp; ls -A /logs") == []
    inspected = podman.run("image", "inspect", "--format={{json .Config}}", image.id).stdout
    assert '"org.opencontainers.image.version"' in inspected
    for name, value in os.environ.items():
        secret = any(word in name.upper() for word in ("TOKEN", "SECRET", "PASSWORD", "KEY"))
        assert not secret or len(value) < 8 or value not in inspected, name
