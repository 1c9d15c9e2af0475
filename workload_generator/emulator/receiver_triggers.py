"""`kn-bench local --triggers N`: numbered triggers of one broker that deliver to one receiver."""

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
PARALLELISM = 10  # as in the triggers of k8s/eventing


@dataclass(frozen=True, slots=True)
class ReceiverTriggers:
    """`receiver-0`, `receiver-1`, …, each with its own path `/t/<name>` of the receiver."""

    triggers: int
    receiver: str = RECEIVER
    parallelism: int = PARALLELISM

    def settings(self) -> Mapping[str, Any]:
        """The triggers by name, as in the platform's configuration (docs/local.md)."""
        names = [f"receiver-{number}" for number in range(self.triggers)]
        base = self.receiver.rstrip("/")
        return {name: {"subscriber": f"{base}/t/{name}", "parallelism": self.parallelism} for name in names}

    def added_to(self, config: PlatformConfig) -> PlatformConfig:
        """The configuration with these triggers at the broker `default/default`.

        Raises UsageError for a name that the configuration has already, ExperimentError for a wrong value.
        """
        broker = config.brokers.get(BROKER, BrokerSettings())
        made = self.settings()
        twice = [name for name in made if name in broker.triggers]
        if twice:
            raise UsageError(f"--triggers: the broker {BROKER} of the file already has {', '.join(twice)}")
        triggers = {name: _parse(settings) for name, settings in made.items()}
        extended = replace(broker, triggers={**broker.triggers, **triggers})
        return replace(config, brokers={**config.brokers, BROKER: extended})


def _parse(settings: Mapping[str, Any]) -> TriggerSettings:
    """Read the settings by the rules of a file. Raises ExperimentError."""
    data = {name: Scalar(str(value)) for name, value in settings.items()}
    trigger, problems = read(TriggerSettings, YamlDocument("--triggers", data, {}))
    if trigger is None:
        raise ExperimentError(problems)
    return trigger
