"""Scenario, language and rate of a run, from the names of its log and experiment and from its targets' hosts.

`serving-scenario-1_2000rps_go_2025-02-09_10-11-12.log` is scenario `serving-scenario-1` in go at 2000 rps, started at
that time (UTC); shards add `_s<i>`. Words are separated by `_` or `-`, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from workload_generator.functions import languages

_RECEIVER = "receiver"
_INGRESS = "broker-ingress"

_FILE = re.compile(r"(.*)_([0-9]{4}-[0-9]{2}-[0-9]{2})_([0-9]{2}-[0-9]{2}-[0-9]{2})(?:_s[0-9]+)?\.log", re.DOTALL)
_SCENARIO = re.compile(r"(?:serving|eventing)-scenario-[0-9]+(?![0-9])")
_FIGURE = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?)(rps|triggers?|workers?|concurrency)")
_FIGURES = {"rp": "rps", "trigger": "triggers", "worker": "workers", "concurrency": "concurrency"}
_ONE_AT_A_TIME = "serving-scenario-3"  # the scenario is containerConcurrency 1


def read_file_name(name: str) -> tuple[str, datetime | None]:
    """Prefix and time of a log's name; without a time the prefix is the name without `.log`."""
    match = _FILE.fullmatch(name)
    if match is not None:
        try:
            return match[1], datetime.strptime(f"{match[2]} {match[3]}", "%Y-%m-%d %H-%M-%S").replace(tzinfo=UTC)
        except ValueError:
            pass
    return name.removesuffix(".log"), None


def read_name(name: str) -> dict[str, str | float]:
    """The facts in a prefix or in an experiment's name, as columns of the table `experiments`."""
    found: dict[str, str | float] = {}
    if scenario := _SCENARIO.search(name):
        found["scenario"] = scenario[0]
        name = name.replace(scenario[0], "", 1)
        if scenario[0] == _ONE_AT_A_TIME:
            found["concurrency"] = 1
    words = re.split(r"[_-]+", name)
    if language := next((word for word in words if word == languages.ALL or languages.language_of(word)), None):
        found["language"] = language
    for figure in filter(None, map(_FIGURE.fullmatch, words)):
        column = _FIGURES[figure[2].rstrip("s")]
        found[column] = float(figure[1]) if column == "rps" else int(float(figure[1]))
    return found


def language_of(targets: Iterable[str]) -> str | None:
    """The language of the functions in the URLs: `all` when there are several, None when it is unknown."""
    seen = {_language_of_host(target) for target in targets}
    if len(seen) == 1:
        return seen.pop()
    return languages.ALL if seen else None


def sink_of(target: str) -> str | None:
    """The destination of events, the same for all runs: `broker eventing/default`, or a service's name, `receiver`.

    Brokers' addresses are those of Knative's (`broker-ingress…/<namespace>/<name>`), of RabbitMQ's
    (`<name>-broker-ingress.<namespace>.svc`) and of the embedded platform (`/broker/<namespace>/<name>`).
    """
    try:
        parts = urlsplit(target)
        host = parts.hostname
    except ValueError:
        return None
    if not host:
        return None
    labels = host.split(".")
    path = [word for word in parts.path.split("/") if word]
    if len(path) == 3 and path[0] == "broker":
        return f"broker {path[1]}/{path[2]}"
    if labels[0].endswith(_INGRESS):
        name = labels[0].removesuffix(_INGRESS).rstrip("-")
        if len(path) == 2:
            return f"broker {path[0]}/{path[1]}"
        return f"broker {labels[1]}/{name}" if len(labels) > 1 and name else f"broker {name or host}"
    if len(path) == 2 and path[0] == "t":
        return _RECEIVER  # at any address
    is_address = ":" in host or labels[-1].isdecimal()
    return host if is_address else labels[0]


def _language_of_host(target: str) -> str | None:
    try:
        host = urlsplit(target).hostname or ""
    except ValueError:
        return None
    return languages.language_of(host.partition(".")[0])
