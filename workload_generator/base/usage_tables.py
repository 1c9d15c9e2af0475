"""The tables of the usage of nodes, pods and functions during runs: `top` writes them, `combine` merges them.

`usage_tables.sql` is their schema, with a comment for each column; each class is a row of a table, field by column.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from typing import Any, NamedTuple

from workload_generator.base.clock import NS_PER_MS, rfc3339

METRICS, KUBELET, WATCH = "metrics", "kubelet", "watch"
"""The source of a row: metrics.k8s.io, the summary of a kubelet, or (gaps only) a watch."""


class NodeSample(NamedTuple):
    """The usage of a node."""

    node_name: str
    cpu_usage: str
    memory_usage: str
    cpu_percentage: float | None
    memory_percentage: float | None
    timestamp: str
    cpu_millicores: float
    memory_bytes: int
    sample_timestamp: str
    sample_window: float | None
    source: str


class PodSample(NamedTuple):
    """The usage of a container of a pod."""

    pod_name: str
    node_name: str | None
    container_name: str
    cpu_usage: str
    memory_usage: str
    cpu_percentage: float | None
    memory_percentage: float | None
    timestamp: str
    namespace: str
    cpu_millicores: float
    memory_bytes: int
    sample_timestamp: str
    sample_window: float | None
    source: str


class Gap(NamedTuple):
    """Samples that are missing."""

    timestamp: str
    source: str
    subject: str
    ticks: int
    reason: str


class PodState(NamedTuple):
    """A pod of a function entered a state."""

    timestamp: str
    namespace: str
    pod_name: str
    node_name: str | None
    service: str | None
    revision: str
    state: str
    listed: int


class Replicas(NamedTuple):
    """The number of pods of a revision in each state."""

    timestamp: str
    namespace: str
    service: str | None
    revision: str
    pending: int
    running: int
    ready: int
    terminating: int
    listed: int


class Scale(NamedTuple):
    """The desired and the actual scale of a revision."""

    timestamp: str
    namespace: str
    service: str | None
    revision: str
    desired: int | None
    actual: int | None
    listed: int


class ConditionChange(NamedTuple):
    """A condition of a Revision or a PodAutoscaler changed."""

    timestamp: str
    namespace: str
    kind: str
    name: str
    service: str | None
    type: str
    status: str
    reason: str | None
    message: str | None
    transition: str | None
    listed: int


Row = NodeSample | PodSample | Gap | PodState | Replicas | Scale | ConditionChange

TABLES: dict[type[Row], str] = {
    NodeSample: "node_metrics",
    PodSample: "pod_metrics",
    Gap: "metric_gaps",
    PodState: "pod_states",
    Replicas: "replicas",
    Scale: "scales",
    ConditionChange: "conditions",
}


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one, since `executescript` ends the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@functools.cache
def schema_of(table: str) -> tuple[str, ...]:
    """The statements that create a table and its indexes."""
    script = resources.files(__package__).joinpath("usage_tables.sql").read_text("utf-8")
    return tuple(each for each in statements(script) if f"TABLE {table} (" in each or f"ON {table} (" in each)


@functools.cache
def columns_of(table: str) -> dict[str, tuple[str, bool]]:
    """The declared type of each column but `id`, and whether it is NOT NULL."""
    with closing(sqlite3.connect(":memory:")) as empty:
        for statement in schema_of(table):
            empty.execute(statement)
        rows: list[Any] = empty.execute(f"PRAGMA table_info({table})").fetchall()
    return {row[1]: (row[2], bool(row[3])) for row in rows if row[1] != "id"}


def stamp(wall_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds, as the original writes it for nodes."""
    return rfc3339(wall_ns // NS_PER_MS * NS_PER_MS)[:-4] + "Z"
