"""The command without a run: checks, flags, and what surrounds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load import servers
from tests.support import Generator, one_result_each
from workload_generator import cli
from workload_generator.errors import UsageError
from workload_generator.experiment import bundled_experiments
from workload_generator.load.limits import check_disk


@pytest.mark.parametrize("name", sorted(bundled_experiments()))
def test_every_bundled_experiment_shows_its_schedule(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--cold-start"] if "scenario-2" in name else []
    assert cli.main([f"--config={name}.yaml", "--check", "--seed=1", *flags]) == 0
    shown = capsys.readouterr().out
    assert name in shown and "seed 1" in shown
    assert ("round" if flags else "measure:") in shown


@pytest.mark.parametrize("flag", ["--check", "--check=true", "--check=1", "-check=T"])
def test_booleans_as_go_has_them(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-config=serving-scenario-1-go", flag, "--cold-start=false"]) == 0
    assert "(open)" in capsys.readouterr().out


def test_overrides_replace_the_files_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config=serving-scenario-1-go", "--check", "--rps=50", "--duration=2m"]) == 0
    assert "6,000 arrivals" in capsys.readouterr().out


def test_all_problems_of_a_file_are_shown_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("targets:\n  - url: ftp://a\n    weigth: 1\nrate:\n  requestsPerSecond: fast\n  duration: 10\n")
    assert cli.main([f"--config={path}", "--check"]) == 2
    complaints = capsys.readouterr().err
    for part in ("bad.yaml:2: targets[0].url", "bad.yaml:3: targets[0].weigth", "did you mean weight", ":5:", ":6:"):
        assert part in complaints


def test_a_log_that_does_not_fit_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    check_disk(tmp_path, 1000)
    with pytest.raises(UsageError, match="MiB free"):
        check_disk(tmp_path, 10**15)


@pytest.mark.parametrize("where", ["tls.caFile", "K_CA_CERTS", "nowhere"])
async def test_https_trusts_whom_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    generator, certificates = Generator(tmp_path), servers.Certificates()
    (tmp_path / "ca.pem").write_bytes(certificates.pem)
    if where == "K_CA_CERTS":
        monkeypatch.setenv("K_CA_CERTS", certificates.pem.decode())
    async with servers.serve(servers.answers(), tls=certificates.server()) as server:
        path = generator.experiment(server.url, rate={"requestsPerSecond": 20})
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
        path = generator.experiment([one.url, two.url])
        path.write_text(path.read_text().replace(f"- url: {one.url}", f"- url: {one.url}\n  weight: 3"))
        await generator.run(f"--config={path}")
        assert (len(one.requests), len(two.requests)) == (75, 25)
