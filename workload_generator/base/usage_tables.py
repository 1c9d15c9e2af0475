"""The tables of what nodes, pods and functions did meanwhile: `top` writes them, `combine` merges them.

`metrics.sql` is their schema, with a word on each column; the classes here are their rows, field by column.
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
"""Where a row comes from: metrics.k8s.io, a kubelet's own summary, or (gaps only) a watch."""


class NodeSample(NamedTuple):
    """What a node used."""

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
    """What a container of a pod used."""

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
    """What was not to be had."""

    timestamp: str
    source: str
    subject: str
    ticks: int
    reason: str


class PodState(NamedTuple):
    """A function's pod came into a state."""

    timestamp: str
    namespace: str
    pod_name: str
    node_name: str | None
    service: str | None
    revision: str
    state: str
    listed: int


class Replicas(NamedTuple):
    """How many pods of a revision are in each state."""

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
    """What the autoscaler wants and has."""

    timestamp: str
    namespace: str
    service: str | None
    revision: str
    desired: int | None
    actual: int | None
    listed: int


class Condition(NamedTuple):
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


Row = NodeSample | PodSample | Gap | PodState | Replicas | Scale | Condition

TABLES: dict[type[Row], str] = {
    NodeSample: "node_metrics",
    PodSample: "pod_metrics",
    Gap: "metric_gaps",
    PodState: "pod_states",
    Replicas: "replicas",
    Scale: "scales",
    Condition: "conditions",
}


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@functools.cache
def schema_of(table: str) -> tuple[str, ...]:
    """The statements that make a table and its indexes."""
    script = resources.files(__package__).joinpath("usage_tables.sql").read_text("utf-8")
    return tuple(each for each in statements(script) if f"TABLE {table} (" in each or f"ON {table} (" in each)


@functools.cache
def columns_of(table: str) -> dict[str, tuple[str, bool]]:
    """The declared type of each column, and whether it has to have a value; `id` is left out."""
    with closing(sqlite3.connect(":memory:")) as empty:
        for statement in schema_of(table):
            empty.execute(statement)
        rows: list[Any] = empty.execute(f"PRAGMA table_info({table})").fetchall()
    return {row[1]: (row[2], bool(row[3])) for row in rows if row[1] != "id"}


def stamp(wall_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds, the original's form for nodes."""
    return rfc3339(wall_ns // NS_PER_MS * NS_PER_MS)[:-4] + "Z"
