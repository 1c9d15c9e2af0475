"""One cluster for all tests of this folder: our own plane, or the cluster of KUBECONFIG.

`just test-cluster` runs them. Fixtures:
- `kubeconfig`: a path; `kube`: an administrator's Api
- `plane`: the Plane; skips the test on another cluster, which has no kwok nodes
- `own_planes`: for tests that start planes; skips the test on another cluster
- `namespaces`: those of the session, deleted at its end; `namespace`: the name of a new one for the test
- `has_knative`: skips the test without Knative's CRDs
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.cluster import build, cluster
from tests.cluster.api import Api, wait_for
from tests.cluster.namespaces import Namespaces
from tests.cluster.plane import Plane

HERE = Path(__file__).parent


LONGEST = ("test_scenario.py", "test_recipes.py")
"""Start the long files first: each file runs in one worker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE not in item.path.parents or item.path.name not in LONGEST)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(needs.mark(needs.PLANE))


@pytest.fixture(scope="session")
def _plane(request: pytest.FixtureRequest) -> Iterator[Plane | None]:
    if os.environ.get("KUBECONFIG"):
        yield None
        return
    with Plane(build.build()) as plane:
        yield plane
        plane.check()
        plane.stop(keep_logs=request.session.testsfailed > 0)


@pytest.fixture
def plane(_plane: Plane | None) -> Plane:
    if _plane is None:
        pytest.skip(needs.OWN_PLANE.reason)
    _plane.check()
    return _plane


@pytest.fixture(scope="session")
def own_planes() -> None:
    """For tests that start planes: they are skipped on another cluster."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip(needs.OWN_PLANE.reason)


@pytest.fixture(scope="session")
def kubeconfig(_plane: Plane | None) -> Path:
    if _plane is not None:
        return _plane.kubeconfig
    return Path(os.environ["KUBECONFIG"].split(os.pathsep)[0])


@pytest.fixture(scope="session")
def kube(kubeconfig: Path) -> Api:
    return Api(kubeconfig)


@pytest.fixture(scope="session")
def namespaces(kube: Api, _plane: Plane | None) -> Iterator[Namespaces]:
    made = Namespaces(kube)
    yield made
    if _plane is None:  # our plane is deleted as a whole
        made.clean_up()


@pytest.fixture
def namespace(namespaces: Namespaces) -> Iterator[str]:
    name = namespaces.make("test")
    yield name
    namespaces.delete(name)


@pytest.fixture(scope="session")
def has_knative(kube: Api) -> None:
    """Skip the test if the cluster has no Knative CRDs."""
    groups = {each["name"] for each in kube.call("GET", "/apis")["groups"]}
    if not {"serving.knative.dev", "sources.knative.dev"} <= groups:
        pytest.skip(needs.CRDS.reason)
    wait_for("Knative's CRDs", lambda: cluster.crds_established(kube))
