"""Event mode: the sink and its overrides from the environment, and the experiment with its target replaced by the sink.

`K_SINK` is the destination of events, `K_CE_OVERRIDES` has extensions for all of them; a ContainerSource or SinkBinding
sets both (https://knative.dev/docs/eventing/custom-event-source/sinkbinding/). `targets` reads `K_CA_CERTS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

import orjson

from workload_generator.base.errors import UsageError
from workload_generator.cloudevents.encode import PLACEHOLDER, Draft, data_of_size
from workload_generator.experiment.field_kinds import url
from workload_generator.experiment.model import EventSettings, Experiment
from workload_generator.experiment.yaml_lines import Scalar

DEFAULT_SOURCE = "/workload-generator"
_OURS = frozenset({"id", "specversion", "time", "type", "source", "sequence", "datacontenttype"})
_CONTEXT = _OURS - {"sequence"} | {"subject", "dataschema", "data"}
_EXTENSION = re.compile(r"[a-z0-9]+")
_CHECK = "check that the ContainerSource is Ready and was created after its sink (`kn-bench doctor` does)"


def sink_url(environment: Mapping[str, str] = os.environ) -> str:
    """The URL in `K_SINK`. Raises UsageError."""
    sink = environment.get("K_SINK", "")
    if not sink:
        raise UsageError(f"--event: no destination for events: K_SINK is not set; {_CHECK}")
    try:
        return url(Scalar(sink))
    except ValueError as error:
        raise UsageError(f"--event: K_SINK: {error}; {_CHECK}") from None


def overrides(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The extensions in `K_CE_OVERRIDES`. Raises UsageError."""
    text = environment.get("K_CE_OVERRIDES", "")
    if not text.strip():
        return {}
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--event: K_CE_OVERRIDES is not JSON: {error}") from None
    extensions = document.get("extensions") if isinstance(document, dict) else document
    if extensions is None:  # as Knative itself reads it
        return {}
    if not isinstance(extensions, dict) or not all(isinstance(value, str) for value in extensions.values()):
        raise UsageError('--event: K_CE_OVERRIDES: must be {"extensions": {name: text}}')
    for name in extensions:
        if not _EXTENSION.fullmatch(name) or name in _CONTEXT:
            raise UsageError(f"--event: K_CE_OVERRIDES: {name!r} is not a valid extension name")
    return extensions


def for_events(experiment: Experiment, sink: str) -> Experiment:
    """The experiment with one target: the sink, with the headers of the first target; any 2xx is a success.

    The defaults of the `event` section are the first target's `ce-*` headers and body. Raises UsageError.
    """
    first = experiment.targets[0]
    section = experiment.event or EventSettings()
    draft = draft_of(experiment, {})
    event = replace(section, type=draft.type, source=draft.source, mode=draft.mode)
    target = replace(first, url=sink, method="POST", weight=1, expect_status=("2xx",))
    return replace(experiment, targets=(target,), event=event, base_url="")


def draft_of(experiment: Experiment, extensions: Mapping[str, str]) -> Draft:
    """The attributes and the data of all events. Raises UsageError when they have no type."""
    first, section = experiment.targets[0], experiment.event or EventSettings()
    headers = {name.lower(): value.strip() for name, value in first.headers.items()}
    given = {name.removeprefix("ce-"): value for name, value in headers.items() if name.startswith("ce-")}
    kind = section.type or given.get("type")
    if not kind:
        raise UsageError("--event: events have no type: set event.type, or a ce-type header of the first target")
    data, is_template = first.body, False
    if section.size is not None:
        data = data_of_size(section.size) or None
    elif section.data is not None:
        data, is_template = section.data, PLACEHOLDER.search(section.data) is not None
    content_type = headers.get("content-type")
    if content_type is not None and content_type.startswith("application/cloudevents"):
        raise UsageError("--event: Content-Type must be that of the data; set the encoding of events with event.mode")
    return Draft(
        type=kind,
        source=section.source or given.get("source") or DEFAULT_SOURCE,
        mode=section.mode,
        content_type=content_type or "application/json",
        data=data or None,
        is_template=is_template,
        attributes={**{name: value for name, value in given.items() if name not in _OURS}, **extensions},
    )


def other_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a target that do not belong to the event."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() != "content-type" and not name.lower().startswith("ce-")
    }
