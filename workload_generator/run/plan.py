"""The plan of one run: the experiment with all overrides, how to run it, and its shard of a larger run."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from workload_generator import __version__
from workload_generator.base.clock import NS_PER_S, Anchor, format_duration, rfc3339
from workload_generator.experiment.model import Experiment
from workload_generator.experiment.schedule import (
    WHOLE,
    Schedule,
    Shard,
    closed_loop_connections,
    cold_start_rounds,
    make_schedule,
)
from workload_generator.log import format as log_format
from workload_generator.log.format import HOST
from workload_generator.log.wire import RELAY
from workload_generator.run import resources

_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The plan of one run. Limits of connections and of requests in flight are divided by the number of shards.

    `start_wall_ns` is the due time of the first arrival of all shards (None: as soon as this one is ready); `started`
    is the time in the log's name. `processes` share this shard; `elsewhere` is the URL that replaces the targets' hosts
    (`--dev`, `--dev-url`). In `event` mode `clock` is this clock against the event logger's: see `logger_clock`.
    """

    experiment: Experiment
    seed: int
    cold_start: bool
    ping: bool
    prefix: str
    log_dir: Path
    progress: str
    run_id: str
    started: datetime
    shard: Shard = WHOLE
    start_wall_ns: int | None = None
    precise: bool = False
    platform: str = HOST
    event: bool = False
    clock: Mapping[str, object] | None = None
    processes: int = 1
    elsewhere: str | None = None

    @property
    def event_prefix(self) -> str | None:
        """The prefix of event ids; the sequence number follows."""
        return f"{self.run_id}-" if self.event else None

    @property
    def mode(self) -> str:
        """`open`, `closed` or `cold-start`."""
        if self.cold_start:
            return "cold-start"
        return "closed" if self.experiment.rate.closed_loop else "open"

    @property
    def schedule(self) -> Schedule | None:
        """This shard's part of the open loop's schedule."""
        return make_schedule(self.experiment, self.seed, self.shard) if self.mode == "open" else None

    @property
    def planned_rps(self) -> float | None:
        """The mean rate of the measured phase of the open loop."""
        schedule = self.schedule
        if schedule is None:
            return None
        return schedule.planned_measured * NS_PER_S / (schedule.end_ns - schedule.measure_start_ns)

    def expected_requests(self) -> int:
        """The number of results that the logs of all processes will hold; 0 in the closed loop, where it is unknown.

        Raises UsageError when the processes cannot share the run.
        """
        last = self.shard_of(self.processes - 1)
        if last.mode == "cold-start":
            rounds = cold_start_rounds(last.experiment, last.shard)
            return rounds.count * len(rounds.targets) * (last.experiment.cold_start.burst or 1)
        schedule = last.schedule
        if schedule is not None:
            return schedule.planned * self.processes
        closed_loop_connections(last.experiment, last.shard)
        return 0

    def log_paths(self) -> Iterator[Path]:
        """The log's path, with the number of a shard, and the same a second later each, if that exists already.

        Runs with one log folder and a lock each, as in several pods, may start in the same second.
        """
        suffix = f"_s{self.shard[0]}" if self.shard[1] > 1 else ""
        for second in range(_MOST_NAMES):
            stamp = self.started + timedelta(seconds=second)
            yield self.log_dir / f"{self.prefix}_{stamp:%Y-%m-%d_%H-%M-%S}{suffix}.log"

    def shard_of(self, number: int) -> RunPlan:
        """The plan of a process of this run. The first one sends the pings."""
        (index, shards), processes = self.shard, self.processes
        shard = (index + shards * number, shards * processes)
        return replace(self, shard=shard, processes=1, ping=self.ping and not number, progress=RELAY)

    def share(self, limit: int) -> int:
        """This shard's share of a limit of the whole run, at least 1; 0, no limit, stays 0."""
        index, shards = self.shard
        return max(1, limit // shards + (index < limit % shards)) if limit else 0

    @property
    def end_ns(self) -> int:
        """The planned length of the schedule."""
        schedule = self.schedule
        return schedule.end_ns if schedule is not None else self.experiment.rate.duration_ns

    @property
    def view(self) -> dict[str, Any]:
        """The fields of the live view."""
        experiment, rate = self.experiment, self.experiment.rate
        rps, time = rate.arrival.display_rps(), format_duration(rate.duration_ns)
        return {
            "title": f"{experiment.name}: {rps} rps for {time} ({self.mode})",
            "total_ns": self.end_ns,
            "timeout": format_duration(rate.timeout_ns),
        }

    def start_frame(self, anchor: Anchor, max_in_flight: int) -> dict[str, Any]:
        """The first frame for the recorder, with the log's header."""
        experiment = self.experiment
        targets = experiment.targets
        return {
            "targets": [target.url for target in targets],
            "expected": [[status for status in range(100, 1000) if target.expects(status)] for target in targets],
            "start": {"wall_ns": anchor.wall_ns, "mono_ns": anchor.mono_ns},
            "progress": self.progress,
            "event_prefix": self.event_prefix,
            "view": self.view,
            "header": {
                "schema": log_format.SCHEMA,
                "run_id": self.run_id,
                "shard": {"index": self.shard[0], "count": self.shard[1]},
                "experiment": {
                    "name": experiment.name,
                    "sha256": experiment.sha256,
                    "mode": self.mode,
                    "config": experiment.resolved(),
                },
                "prefix": log_format.clean(self.prefix),
                **({"events": {"id_prefix": self.event_prefix, "clock": self.clock}} if self.event else {}),
                "seed": self.seed,
                "start": {"wall": rfc3339(anchor.wall_ns), "monotonic_ns": anchor.mono_ns},
                "max_in_flight": max_in_flight,
                "precise": self.precise,
                "version": __version__,
                "host": socket.gethostname(),
                "python": sys.version.split()[0],
                "platform": self.platform,
                "cpu_limit": resources.cpu_limit(),
            },
        }
