"""So many triggers of one broker that all lead to one receiver, each by its own path: by flags, or for scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.emulator.settings import BrokerSettings, PlatformConfig, TriggerSettings
from workload_generator.experiment.fields import read
from workload_generator.experiment.yaml_lines import Scalar, YamlDocument

BROKER = "default/default"
RECEIVER = "http://127.0.0.1:8081"
PARALLELISM = 10  # as the manifests' triggers have it


@dataclass(frozen=True, slots=True)
class FanOut:
    """`receiver-0`, `receiver-1`, …: to `<receiver>/t/<name>`, with so many deliveries at a time each."""

    triggers: int
    receiver: str = RECEIVER
    parallelism: int = PARALLELISM

    def settings(self) -> Mapping[str, Any]:
        """The triggers as the platform's file has them (docs/local.md), by name."""
        names = [f"receiver-{number}" for number in range(self.triggers)]
        base = self.receiver.rstrip("/")
        return {name: {"subscriber": f"{base}/t/{name}", "parallelism": self.parallelism} for name in names}

    def added_to(self, config: PlatformConfig) -> PlatformConfig:
        """The configuration with these triggers at the broker `default/default`, which is made when there is none.

        Raises UsageError for a name that the file has already, and for what no trigger can be.
        """
        broker = config.brokers.get(BROKER, BrokerSettings())
        made = self.settings()
        twice = [name for name in made if name in broker.triggers]
        if twice:
            raise UsageError(f"--triggers: the file's broker {BROKER} has {', '.join(twice)} already")
        triggers = {name: _as_in_a_file(own) for name, own in made.items()}
        whole = replace(broker, triggers={**broker.triggers, **triggers})
        return replace(config, brokers={**config.brokers, BROKER: whole})


def _as_in_a_file(own: Mapping[str, Any]) -> TriggerSettings:
    data = {name: Scalar(str(value)) for name, value in own.items()}
    trigger, problems = read(TriggerSettings, YamlDocument("--triggers", data, {}))
    if trigger is None:
        raise ExperimentError(problems)
    return trigger
