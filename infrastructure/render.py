"""Renders the templates with the settings into `build/`, whose files each run replaces.

    python render.py FILE kops|knative|kind

`kops.yaml` is the cluster with its instance groups, `knative/` the settings of Knative, `kind/` metrics-server for the
local cluster. A template is text with ${KEY}; an unknown key is an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from string import Template

from settings import SettingsError, load

HERE = Path(__file__).resolve().parent
ASSETS = "kops/reserved-cgroups"


def kops(values: dict[str, str]) -> str:
    """The cluster and its instance groups, one YAML document each."""
    zone = values["ZONE"]
    more = {
        "REGION": zone.rpartition("-")[0],
        "API_ACCESS_LIST": "\n".join(f"    - {address}" for address in values["API_ACCESS"].split(",")),
        "RESERVED_CGROUPS_SH": indented(HERE / f"{ASSETS}.sh", 8),
        "RESERVED_CGROUPS_CONF": indented(HERE / f"{ASSETS}.conf", 8),
    }
    documents = [filled(HERE / "kops/cluster.yaml", values | more)]
    group = HERE / "kops/group.yaml"
    for name, size, count, role, placement in (
        (f"control-plane-{zone}", values["CONTROL_PLANE_SIZE"], "1", "Master", ""),
        ("metrics", values["METRICS_SIZE"], "1", "Node", dedicated("metrics")),
        ("workload-generator", values["GENERATOR_SIZE"], "1", "Node", dedicated("workload-generator")),
        ("knative", values["KNATIVE_SIZE"], "1", "Node", dedicated("knative")),
        ("functions", values["FUNCTIONS_SIZE"], values["FUNCTIONS_NODES"], "Node", ""),
    ):
        own = {"NAME": name, "SIZE": size, "COUNT": count, "ROLE": role, "PLACEMENT": placement}
        documents.append(filled(group, values | more | own))
    return "---\n".join(documents)


def dedicated(to: str) -> str:
    return f"\n  nodeLabels:\n    dedicated: {to}\n  taints:\n    - dedicated={to}:NoSchedule"


def filled(path: Path, values: dict[str, str]) -> str:
    try:
        return Template(path.read_text(encoding="utf-8")).substitute(values)
    except (KeyError, ValueError) as problem:
        raise SettingsError([f"{path}: {problem}: unknown setting, or a $ that is not doubled"]) from None


def indented(path: Path, columns: int) -> str:
    return "\n".join(f"{' ' * columns}{line}".rstrip() for line in path.read_text(encoding="utf-8").splitlines())


def folder(source: Path, values: dict[str, str], build: Path) -> None:
    """Render every YAML file under `source`."""
    fresh(build)
    for path in sorted(source.rglob("*.yaml")):
        target = build / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(filled(path, values), encoding="utf-8")


def fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Renders the templates into build/.")
    parser.add_argument("file", type=Path)
    parser.add_argument("what", choices=["kops", "knative", "kind"])
    args = parser.parse_args(argv)
    build = HERE / "build"
    try:
        if args.what == "kops":
            text = kops(load(args.file, ["cloud", "install"]))
            build.mkdir(exist_ok=True)
            (build / "kops.yaml").write_text(text, encoding="utf-8")
        elif args.what == "knative":
            folder(HERE / "knative", load(args.file, ["install"]), build / "knative")
        else:
            folder(HERE / "kind/metrics-server", load(args.file, ["kind"]), build / "kind")
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
