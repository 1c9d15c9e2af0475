"""Numbered triggers that deliver to one receiver: `kn-bench local --triggers N`, and the triggers of scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from workload_generator.base.errors import UsageError
from workload_generator.emulator.settings import BrokerSettings, PlatformConfig, TriggerSettings

BROKER = "default/default"
RECEIVER = "http://127.0.0.1:8081"
PARALLELISM = 10  # as in the triggers of k8s/eventing


def receiver_triggers(number: int, receiver: str, parallelism: int) -> dict[str, TriggerSettings]:
    """`receiver-0`, `receiver-1`, …, each with its own path `/t/<name>` of the receiver."""
    base = receiver.rstrip("/")
    names = [f"receiver-{each}" for each in range(number)]
    return {name: TriggerSettings(subscriber=f"{base}/t/{name}", parallelism=parallelism) for name in names}


def with_triggers(config: PlatformConfig, triggers: Mapping[str, TriggerSettings]) -> PlatformConfig:
    """The configuration with more triggers of `BROKER`. Raises UsageError for a name that it has already."""
    broker = config.brokers.get(BROKER, BrokerSettings())
    twice = [name for name in triggers if name in broker.triggers]
    if twice:
        raise UsageError(f"--triggers: the broker {BROKER} of the file already has {', '.join(twice)}")
    broker = replace(broker, triggers={**broker.triggers, **triggers})
    return replace(config, brokers={**config.brokers, BROKER: broker})
