"""Functions as Knative Services: copies of the manifests', with images, concurrency and autoscaling as asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from workload_generator.base.errors import UsageError
from workload_generator.experiment.yaml_lines import closest
from workload_generator.kube.names import AUTOSCALING, NAME_LABEL
from workload_generator.kube.resources import SERVICES, Object, name_of

FIRST = "-0"


@dataclass(frozen=True, slots=True)
class Images:
    """Where images come from: a registry in the place of the manifests', and a tag in the place of theirs."""

    registry: str | None = None
    tag: str | None = None

    def of(self, image: str) -> str:
        """`dev.local/empty-go-http:0.1.0` as it is called there."""
        place, slash, rest = image.rpartition("/")
        name, _, tag = rest.partition("@")[0].partition(":")
        if self.tag is not None:
            rest = f"{name}:{self.tag}"
        elif self.registry is not None and tag:
            rest = f"{name}:{tag}"
        return f"{self.registry}/{rest}" if self.registry else f"{place}{slash}{rest}"

    def put_into(self, objects: Iterable[Object]) -> None:
        """Change the images of all pod templates."""
        for obj in objects:
            template = obj.get("spec", {}).get("template", {})
            for container in template.get("spec", {}).get("containers", ()):
                container["image"] = self.of(container["image"])


@dataclass(frozen=True, slots=True)
class Tuning:
    """What decides how a function scales. `annotations` are named without `autoscaling.knative.dev/`: `max-scale`."""

    container_concurrency: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def put_into(self, service: Object) -> None:
        """Set it in a Service's template; what it does not say stays."""
        template = service["spec"]["template"]
        if self.container_concurrency is not None:
            template["spec"]["containerConcurrency"] = self.container_concurrency
        if self.annotations:
            about = template.setdefault("metadata", {}).setdefault("annotations", {})
            about.update({AUTOSCALING + key: value for key, value in self.annotations.items()})


def is_function(obj: Object) -> bool:
    """Whether a manifest is a Service of a function of the catalog."""
    return (
        obj["apiVersion"] == SERVICES.api_version
        and obj["kind"] == SERVICES.kind
        and NAME_LABEL in obj["metadata"].get("labels", {})
    )


def functions_of(manifests: Iterable[Object]) -> dict[str, Object]:
    """The functions' Services by the functions' names: `empty-go-http` is `empty-go-http-0`."""
    return {obj["metadata"]["labels"][NAME_LABEL]: obj for obj in manifests if is_function(obj)}


def chosen(functions: Iterable[str], names: Sequence[str]) -> list[str]:
    """The functions that are named, all of them without names. Raises UsageError for one that there is not."""
    known = list(functions)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = closest(unknown[0], known)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{unknown[0]} is no function of the manifests{hint} There are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def copies(service: Object, count: int, tuning: Tuning) -> list[Object]:
    """`count` Services of a function: `<name>-0` as the experiments name it, `<name>-1`, …"""
    base = name_of(service).removesuffix(FIRST)
    made = []
    for number in range(count):
        each = copy.deepcopy(service)
        each["metadata"]["name"] = f"{base}-{number}"
        tuning.put_into(each)
        made.append(each)
    return made
