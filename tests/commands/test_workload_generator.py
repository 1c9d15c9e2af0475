"""The command without a run: checks, flags, and what surrounds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import warm
from tests.engine import servers
from tests.support import BRIEF, Generator, one_result_each, valid_but_for_the_machine
from workload_generator.base.errors import UsageError
from workload_generator.commands import workload_generator
from workload_generator.experiment.bundled import bundled_experiments
from workload_generator.run.resources import check_disk


@pytest.mark.parametrize("name", sorted(bundled_experiments()))
def test_every_bundled_experiment_shows_its_schedule(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--cold-start"] if "scenario-2" in name else []
    assert workload_generator.main([f"--config={name}.yaml", "--check", "--seed=1", *flags]) == 0
    shown = capsys.readouterr().out
    assert name in shown and "seed 1" in shown
    assert ("round" if flags else "measure:") in shown


@pytest.mark.parametrize("flag", ["--check", "--check=true", "--check=1", "-check=T"])
def test_booleans_as_go_has_them(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert workload_generator.main(["-config=serving-scenario-1-go", flag, "--cold-start=false"]) == 0
    assert "(open)" in capsys.readouterr().out


def test_overrides_replace_the_files_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert workload_generator.main(["--config=serving-scenario-1-go", "--check", "--rps=50", "--duration=2m"]) == 0
    assert "6,000 arrivals" in capsys.readouterr().out


def test_the_default_experiment_is_config_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("targets: [{url: http://a}]\nrate: {requestsPerSecond: 0, duration: 7s}\n")
    assert workload_generator.main(["--check"]) == 0
    shown = capsys.readouterr().out
    assert "config (closed)" in shown and "100 connections for 7s" in shown


async def test_dev_sends_to_localhost_and_the_log_goes_where_the_file_says(tmp_path: Path) -> None:
    assert workload_generator.DEV_URL == "http://localhost:8080"
    generator = Generator(tmp_path)
    generator.logs = tmp_path / "own"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    async with servers.serve(servers.answers()) as server:
        url = "http://a.functions.svc.cluster.local"
        path = generator.experiment(url, rate=BRIEF, store={"logDirPath": str(generator.logs)})
        dev = {"commands.workload_generator.DEV_URL": f"http://localhost:{server.port}"}
        process = await warm.start(
            "workload_generator", f"--config={path}", "--dev", "--progress=none", environment=environment, constants=dev
        )
        valid_but_for_the_machine(await generator.finish(process))
        asked, *sent = server.requests
        assert (asked.method, asked.path) == ("HEAD", "/_platform")  # whether it is the embedded platform
        assert len(sent) == 100
    (log,) = generator.logs.iterdir()
    assert log.name.startswith("workload-generator_20")


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--dev-url=", "not an http:// or https:// URL"),
        ("--dev-url=http://a/path", "scheme, host and port only"),
        ("--rps=1/3", "is not a number"),
        ("--processes=0", "neither auto nor a number"),
        ("--processes=many", "neither auto nor a number"),
        ("--shard=2/2", "2/2 is not a valid shard"),
        ("--shard=-1/2", "-1/2 is not a valid shard"),
        ("--shard=0/0", "0/0 is not a valid shard"),
        ("--shard=a/2", "a/2 is not a valid shard"),
        ("--shard=/2", "JOB_COMPLETION_INDEX is not set"),
        ("--start-at=tomorrow", "is not a valid time"),
        ("--start-at=2026-11-25T08:00:00", "has no time zone"),
        ("--run-id=a b", "letters, digits"),
        ("--rps=1e9999999", "is not a number"),
        ("--rps=-1", "negative"),
    ],
)
def test_flags_are_read_as_strictly_as_the_file(flag: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        workload_generator.main(["--config=serving-scenario-1-go", "--check", flag])
    assert stopped.value.code == 2 and complaint in capsys.readouterr().err


def test_an_experiment_may_come_through_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"targets: [{url: http://a}]\nrate: {requestsPerSecond: 1, duration: 7s}\n")
    os.close(write_end)
    assert workload_generator.main([f"--config=/dev/fd/{read_end}", "--check"]) == 0
    os.close(read_end)
    assert "7 arrivals" in capsys.readouterr().out


def test_a_path_that_cannot_be_looked_at_is_a_bad_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert workload_generator.main([f"--config={'a' * 300}", "--check"]) == 2
    assert "File name too long" in capsys.readouterr().err


def test_all_problems_of_a_file_are_shown_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("targets:\n  - url: ftp://a\n    weigth: 1\nrate:\n  requestsPerSecond: fast\n  duration: 10\n")
    assert workload_generator.main([f"--config={path}", "--check"]) == 2
    complaints = capsys.readouterr().err
    for part in ("bad.yaml:2: targets[0].url", "bad.yaml:3: targets[0].weigth", "did you mean weight", ":5:", ":6:"):
        assert part in complaints


def test_a_log_that_does_not_fit_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    check_disk(tmp_path, 1000)
    with pytest.raises(UsageError, match=r"has [0-9.]+ [KMGT]iB free, .* needs about [0-9]+ PiB"):
        check_disk(tmp_path, 10**15)


@pytest.mark.parametrize("where", ["tls.caFile", "K_CA_CERTS", "nowhere"])
async def test_https_trusts_whom_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    generator, certificates = Generator(tmp_path), servers.Certificates()
    (tmp_path / "ca.pem").write_bytes(certificates.pem)
    if where == "K_CA_CERTS":
        monkeypatch.setenv("K_CA_CERTS", certificates.pem.decode())
    async with servers.serve(servers.answers(), tls=certificates.server()) as server:
        path = generator.experiment(server.url, rate={"duration": "200ms"})
        if where == "tls.caFile":
            path.write_text(path.read_text().replace("- url", "- tls: {caFile: ca.pem}\n  url"))
        ran = await generator.run(f"--config={path}")
    one_result_each(ran)
    assert {doc.get("error") for doc in ran.requests()} == {"tls" if where == "nowhere" else None}
    if where != "nowhere":
        assert ran.requests()[0]["tls"] > 0 and ran.summary["ok"] == 20


async def test_weights_are_shares_of_the_arrivals(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with servers.serve(servers.answers()) as one, servers.serve(servers.answers()) as two:
        path = generator.experiment([one.url, two.url], rate=BRIEF)
        path.write_text(path.read_text().replace(f"- url: {one.url}", f"- url: {one.url}\n  weight: 3"))
        await generator.run(f"--config={path}")
        assert (len(one.requests), len(two.requests)) == (75, 25)
