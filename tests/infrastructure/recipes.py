"""Runs recipes of a copy of `infrastructure/` in which every external command is a stand-in that records its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INFRASTRUCTURE = ROOT / "infrastructure"
TOOLS = ("gcloud", "terraform", "kops", "helm", "kubectl", "kind", "docker")
SYSTEM = ("bash", "sh", "env", "sed", "grep", "sort", "test", "rm", "mkdir", "cat")
FILLED = {
    "PROJECT": "bench-1234",
    "STATE_BUCKET": "bench-1234-state",
    "API_ACCESS": "203.0.113.7/32,198.51.100.0/24",
    "REGISTRY": "registry.example:5000/bench",
}


def filled_settings() -> str:
    """The committed settings.env, with the settings that every user must set."""
    text = (INFRASTRUCTURE / "settings.env").read_text()
    for key, value in FILLED.items():
        assert text.count(f"\n{key}=\n") == 1
        text = text.replace(f"\n{key}=\n", f"\n{key}={value}\n")
    return text


class Recipes:
    """The copy in `folder`. `answers` maps the beginning of a call to its output and exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "infrastructure"
        ignored = shutil.ignore_patterns("build", ".terraform", "*.tfstate*", "__pycache__")
        shutil.copytree(INFRASTRUCTURE, self.folder, ignore=ignored)
        shutil.copytree(ROOT / "k8s", folder / "k8s")
        (self.folder / "settings.env").write_text(filled_settings())
        self.data = folder / "data"
        (self.data / "logs").mkdir(parents=True)
        (self.data / "logs/serving-scenario-1_16000rps_go_2026-11-25_10-11-12.log").touch()
        self.state = folder / "state"
        self.state.mkdir()
        self.answers: dict[str, Any] = {}
        self.env: dict[str, str] = {}
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in (*TOOLS, "uv"):
            self.add(tool)
        for name in (*SYSTEM, "just"):
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)

    def add(self, tool: str, stand_in: str = "stand_in.sh") -> None:
        source = (Path(__file__).parent / stand_in).read_text()
        interpreter = f"#!{sys.executable}\n" if stand_in.endswith(".py") else ""
        (self.bin / tool).write_text(interpreter + source)
        (self.bin / tool).chmod(0o755)

    def with_access(self) -> Recipes:
        (self.folder / "build").mkdir(exist_ok=True)
        (self.folder / "build/kubeconfig").write_text("kind: Config\n")
        return self

    def run(self, *recipe: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        shutil.rmtree(self.state / "answers", ignore_errors=True)
        for number, beginning in enumerate(sorted(self.answers, key=len, reverse=True)):
            folder = self.state / f"answers/{number:03}"
            folder.mkdir(parents=True)
            answered = {"out": "", "err": "", "code": 0} | self.answers[beginning]
            for name, text in ({"beginning": beginning} | answered).items():
                (folder / name).write_text(f"{text}\n" if name in ("beginning", "code") else text)
        (self.state / "calls").unlink(missing_ok=True)
        env = {"PATH": str(self.bin), "HOME": str(self.state), "STAND_IN": str(self.state), "TMPDIR": str(self.state)}
        env["PYTHON"] = sys.executable
        if os.environ.get("LD_LIBRARY_PATH"):
            env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return subprocess.run(
            ["just", *recipe],
            cwd=self.folder,
            env=env | self.env,
            input=answer,
            capture_output=True,
            text=True,
            timeout=250,
        )

    @property
    def calls(self) -> list[str]:
        """The calls of the last run, one line each, with `…` for the folder of this copy."""
        path = self.state / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.replace(str(self.folder), "…") for line in lines]
