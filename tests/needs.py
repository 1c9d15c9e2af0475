"""Requirements of tests beyond Python, git and uv: how to install them, and whether this machine has them.

`@needs.mark(needs.KUSTOMIZE)` skips a test where the requirement is missing. A table at the end of a run lists what was
skipped; `-m needs` selects the marked tests.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from workload_generator.functions.catalog import load_catalog

_SEPARATOR = " | "


@dataclass(frozen=True)
class Need:
    """`what` is needed, `why` it is missing, and the command that installs it."""

    what: str
    why: str
    brought_by: str
    here: Callable[[], bool] = lambda: True

    @property
    def reason(self) -> str:
        """The reason of a skip, which `parts_of` splits into a row of the closing table."""
        return _SEPARATOR.join((self.what, self.why, self.brought_by))


def parts_of(reason: str) -> tuple[str, str, str]:
    """What, why and command of a skip's reason. A reason in another form becomes the first of them."""
    what, why, brought_by = [*reason.split(_SEPARATOR), "", ""][:3]
    return what, why, brought_by


def mark(*wanted: Need) -> pytest.MarkDecorator:
    """A mark for a test, a module or a parameter."""
    return pytest.mark.needs(*wanted)


def _program(*names: str, brought_by: str) -> Need:
    """All of these programs on the PATH."""
    return Need(" and ".join(names), "not on the PATH", brought_by, lambda: all(shutil.which(name) for name in names))


def built(function: str) -> Need:
    """A function that is built."""
    here = load_catalog()[function]
    return Need("functions of all languages", "not built", "uv run kn-bench functions build", lambda: here.built)


def _asked_for(variable: str, what: str, brought_by: str) -> Need:
    """A requirement that only a recipe enables, by an environment variable."""
    return Need(what, "needs its own recipe", brought_by, lambda: bool(os.environ.get(variable)))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


KUBECTL = _program("kubectl", brought_by="https://kubernetes.io/docs/tasks/tools/")
KUSTOMIZE = Need(
    "kubectl or kustomize",
    "not on the PATH",
    "go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
    lambda: bool(shutil.which("kubectl") or shutil.which("kustomize")),
)
BROWSER = _program("chromium", "chromedriver", brought_by="apt-get install chromium chromium-driver")
NODE = _program("node", "npm", brought_by="apt-get install nodejs npm")
BASH = _program("bash", "sed", "grep", brought_by="apt-get install bash sed grep")
GO = _program("go", brought_by="https://go.dev/doc/install")
TERRAFORM = _program("terraform", brought_by="https://developer.hashicorp.com/terraform/install")
PROMETHEUS = _program("prometheus", brought_by="apt-get install prometheus")
SCHEMAS = Need(
    "schemas of Kubernetes",
    "not installed",
    "uv run just test-manifests",
    lambda: find_spec("kubernetes_validate") is not None,
)
CRDS = Need(
    "schemas of Knative",
    "KNATIVE_CRDS is not set to a folder",
    "see k8s/README.md",
    lambda: os.path.isdir(os.environ.get("KNATIVE_CRDS", "")),
)
CHECKOV = _asked_for("BENCH_CHECKOV", "checkov", "uv run just test-all tools")
PLANE = _asked_for("BENCH_CLUSTER", "a Kubernetes control plane", "uv run just test-cluster")
IMAGE = _asked_for("BENCH_IMAGE", "containers", "uv run just test-image")
OWN_PLANE = Need(
    "our own control plane",
    "KUBECONFIG names another cluster",
    "unset KUBECONFIG",
    lambda: "KUBECONFIG" not in os.environ,
)
NOT_ROOT = Need(
    "an unprivileged user",
    "root may write everywhere",
    "run the tests as an unprivileged user",
    lambda: os.geteuid() != 0,
)
IPV6 = Need("IPv6", "not on the loopback interface", "-", _has_ipv6)

# Found missing only during the test: for `pytest.skip(NEED.reason)`
NPM_REGISTRY = Need("the CloudEvents SDK for JavaScript", "npm could not install it", "access to npm's registry")
BYTE_NAMES = Need("file names that are not UTF-8", "this file system has none", "another file system")
