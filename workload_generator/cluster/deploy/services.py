"""Functions as Knative Services: copies of the manifests', with images, concurrency and autoscaling as asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.tuning import Values, put
from workload_generator.experiment.yaml_lines import did_you_mean
from workload_generator.kube.names import NAME_LABEL
from workload_generator.kube.resources import SERVICES, Object, name_of

FIRST = "-0"


@dataclass(frozen=True, slots=True)
class Images:
    """A registry and a tag that replace those of the manifests' images."""

    registry: str | None = None
    tag: str | None = None

    def of(self, image: str) -> str:
        """The name of `dev.local/empty-go-http:0.1.0` with this registry and tag."""
        place, slash, rest = image.rpartition("/")
        name, _, tag = rest.partition("@")[0].partition(":")
        if self.tag is not None:
            rest = f"{name}:{self.tag}"
        elif self.registry is not None and tag:
            rest = f"{name}:{tag}"
        return f"{self.registry}/{rest}" if self.registry else f"{place}{slash}{rest}"

    def put_into(self, objects: Iterable[Object]) -> None:
        """Replace the images in all pod templates."""
        for obj in objects:
            template = obj.get("spec", {}).get("template", {})
            for container in template.get("spec", {}).get("containers", ()):
                container["image"] = self.of(container["image"])


def is_function(obj: Object) -> bool:
    """Whether a manifest is the Service of a function of the catalog."""
    return (
        obj["apiVersion"] == SERVICES.api_version
        and obj["kind"] == SERVICES.kind
        and NAME_LABEL in obj["metadata"].get("labels", {})
    )


def functions_of(manifests: Iterable[Object]) -> dict[str, Object]:
    """The functions' Services by the functions' names: `empty-go-http` is `empty-go-http-0`."""
    return {obj["metadata"]["labels"][NAME_LABEL]: obj for obj in manifests if is_function(obj)}


def chosen(functions: Iterable[str], names: Sequence[str]) -> list[str]:
    """The named functions; all of them without names. Raises UsageError for an unknown name."""
    known = list(functions)
    unknown = [name for name in names if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known, ".")
        raise UsageError(f"{unknown[0]} is not a function of the manifests{hint} The functions are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def copies(template: Object, count: int, values: Values) -> list[Object]:
    """`count` copies of a Service or Trigger with these values: `<name>-0`, which the experiments use, `<name>-1`, …

    Each trigger has its name in its subscriber's path.
    """
    base = name_of(template).removesuffix(FIRST)
    made = []
    for number in range(count):
        each = copy.deepcopy(template)
        each["metadata"]["name"] = f"{base}-{number}"
        subscriber = each["spec"].get("subscriber", {})
        if "uri" in subscriber:
            subscriber["uri"] = subscriber["uri"].removesuffix(f"{base}{FIRST}") + f"{base}-{number}"
        for path, value in values.items():
            put(each, path, value)
        made.append(each)
    return made
