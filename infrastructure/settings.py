"""Validates the settings and reports all problems at once.

    python settings.py FILE GROUP... [--tools NAME...]

prints nothing and exits with 0 if all settings of the groups are valid and all tools are on the PATH. Otherwise it
reports each problem with file, line and key on stderr and exits with 2. Settings of other groups may be empty: a laptop
needs no project.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MINIMUM_KUBERNETES = {(1, 18): (1, 31), (1, 21): (1, 33), (1, 22): (1, 34)}
"""The minimum Kubernetes of a Knative version and the versions after it. Source: the release notes of Knative."""


class Kind(NamedTuple):
    """The form of a value, as a regular expression and in words."""

    pattern: str
    words: str


VERSION = Kind(r"\d+\.\d+\.\d+", "a version, such as 1.23.0")
SIZE = Kind(r"[a-z]\w+-[a-z]+-\d+", "a machine type, such as n2-standard-4")
LANGUAGES = Kind(
    r"(go|python|quarkus|rust|springboot|ts)(,(go|python|quarkus|rust|springboot|ts))*",
    "a comma-separated list of: go, python, quarkus, rust, springboot, ts",
)
RATES = Kind(r"(?=.*[1-9])\d+(\.\d+)?(,\d+(\.\d+)?)*", "a comma-separated list of rates in requests per second")
COUNT = Kind(r"[1-9]\d{0,3}", "a whole number from 1 to 9999")
BYTE = r"(25[0-5]|2[0-4]\d|1?\d?\d)"
ADDRESSES = rf"{BYTE}(\.{BYTE}){{3}}/(3[0-2]|[12]?\d)"

SETTINGS: dict[str, dict[str, Kind]] = {
    "cloud": {
        "PROJECT": Kind(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project id: 6 to 30 characters of a-z, 0-9 and -"),
        "ZONE": Kind(r"[a-z]+-[a-z]+\d+-[a-z]", "a zone, such as europe-west4-a"),
        "STATE_BUCKET": Kind(
            r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]", "a bucket name: 3 to 63 characters of a-z, 0-9, - and _"
        ),
        "CLUSTER": Kind(r"[a-z][a-z0-9-]{0,40}\.k8s\.local", "a name that ends in .k8s.local"),
        "API_ACCESS": Kind(
            rf"{ADDRESSES}(,{ADDRESSES})*", "a comma-separated list of CIDR ranges, such as 203.0.113.7/32"
        ),
        "REGISTRY": Kind(
            r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*", "a registry and a path, such as registry.example/bench"
        ),
        "CONTROL_PLANE_SIZE": SIZE,
        "METRICS_SIZE": SIZE,
        "GENERATOR_SIZE": SIZE,
        "KNATIVE_SIZE": SIZE,
        "FUNCTIONS_SIZE": SIZE,
        "FUNCTIONS_NODES": COUNT,
        "STATE_KMS_KEY": Kind(
            r"(projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+)?",
            "the full resource name of a key, or empty",
        ),
    },
    "install": {
        "KUBERNETES_VERSION": VERSION,
        "KNATIVE_SERVING_VERSION": VERSION,
        "KNATIVE_EVENTING_VERSION": VERSION,
        "KOURIER_VERSION": VERSION,
        "RABBITMQ_BROKER_VERSION": VERSION,
        "CERT_MANAGER_VERSION": VERSION,
        "RABBITMQ_CLUSTER_OPERATOR_VERSION": VERSION,
        "RABBITMQ_TOPOLOGY_OPERATOR_VERSION": VERSION,
        "PROMETHEUS_STACK_VERSION": VERSION,
        "MONITORING_COMMIT": Kind(r"[0-9a-f]{40}", "a commit hash of 40 hex digits"),
        "DOMAIN": Kind(r"[a-z0-9-]+(\.[a-z0-9-]+)+", "a domain, such as example.com"),
    },
    "run": {
        "SERVING_1_LANGUAGES": LANGUAGES,
        "SERVING_1_RATES": RATES,
        "SERVING_3_LANGUAGES": LANGUAGES,
        "SERVING_3_RATES": RATES,
        "EVENTING_1_RATES": RATES,
        "EVENTING_2_RATES": RATES,
        "EVENTING_3_RATES": RATES,
        "TOP_FREQUENCY": COUNT,
    },
    "kind": {
        "KIND_CLUSTER": Kind(r"[a-z][a-z0-9-]{0,40}", "a name of at most 41 characters of a-z, 0-9 and -"),
        "KIND_NODE_IMAGE": Kind(
            r"[^\s:]+(:\d+/[^\s:]+)?:v\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?",
            "an image with a version tag, such as kindest/node:v1.36.1",
        ),
        "METRICS_SERVER_VERSION": VERSION,
    },
}
KNOWN = {key: kind for group in SETTINGS.values() for key, kind in group.items()}


class SettingsError(Exception):
    """The settings are invalid; `problems` has a line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path, groups: Iterable[str]) -> dict[str, str]:
    """All settings of the file; those of `groups` are validated. Raises SettingsError with all problems."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise SettingsError([f"{path}: {problem.strerror}"]) from None
    values: dict[str, str] = {}
    where: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"([A-Z][A-Z0-9_]*)=(.*)", line)
        if not found:
            problems.append(f"{path}:{number}: not KEY=value: {line!r}")
            continue
        key, value = found.groups()
        if key not in KNOWN:
            problems.append(f"{path}:{number}: {key}: unknown setting")
        elif key in values:
            problems.append(f"{path}:{number}: {key}: already set on line {where[key]}")
        else:
            values[key], where[key] = value, number
    for key, kind in ((key, kind) for group in groups for key, kind in SETTINGS[group].items()):
        if re.fullmatch(kind.pattern, values.get(key, "")):
            continue
        if not values.get(key):
            at = f":{where[key]}" if key in where else ""
            problems.append(f"{path}{at}: {key} is missing: set it to {kind.words}")
        else:
            problems.append(f"{path}:{where[key]}: {key} is {values[key]!r}; it must be {kind.words}")
    if not problems and "install" in groups:
        problems = [f"{path}:{where[key]}: {text}" for key, text in incompatible(values)]
    if problems:
        raise SettingsError(problems)
    return values


def incompatible(values: dict[str, str]) -> Iterable[tuple[str, str]]:
    """The keys of versions that do not work together, each with the reason."""
    kubernetes = parts(values["KUBERNETES_VERSION"])
    for key in ("KNATIVE_SERVING_VERSION", "KNATIVE_EVENTING_VERSION", "KOURIER_VERSION"):
        knative = parts(values[key])
        least = max((least for since, least in MINIMUM_KUBERNETES.items() if knative >= since), default=(1, 31))
        if kubernetes < least:
            yield (
                key,
                f"{key} {values[key]} needs Kubernetes {least[0]}.{least[1]} or newer; KUBERNETES_VERSION is older",
            )
    if parts(values["KOURIER_VERSION"]) != parts(values["KNATIVE_SERVING_VERSION"]):
        yield "KOURIER_VERSION", "KOURIER_VERSION and KNATIVE_SERVING_VERSION must have the same minor version"


def parts(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Validates the settings and the tools that a recipe needs.")
    parser.add_argument("file", type=Path)
    parser.add_argument("groups", nargs="*", choices=[*SETTINGS, []], help="groups of settings to validate")
    parser.add_argument("--tools", nargs="*", default=[], help="programs that must be on the PATH")
    args = parser.parse_args(argv)
    problems = [f"{tool}: not found on the PATH" for tool in args.tools if not shutil.which(tool)]
    try:
        load(args.file, args.groups)
    except SettingsError as problem:
        problems += problem.problems
    for line in problems:
        sys.stderr.write(line + "\n")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
