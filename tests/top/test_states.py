"""Rows of watched pods, PodAutoscalers and Revisions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.top.clusters import autoscaler, pod
from workload_generator.base.usage_tables import ConditionChange, PodState, Replicas, Scale
from workload_generator.cluster.top.states import PodObserver, StatusObserver, state_of

THEN, NOW = "2026-11-25T10:00:00.000Z", "2026-11-25T10:00:01.000Z"


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (pod("p", "Pending"), "pending"),
        (pod("p"), "running"),
        (pod("p", ready=True), "ready"),
        (pod("p", ready=True, deletionTimestamp=THEN), "terminating"),
        (pod("p", "Failed", deletionTimestamp=THEN), "ended"),
        (pod("p", "Succeeded"), "ended"),
        ({"metadata": {"name": "p", "namespace": "n", "resourceVersion": "1"}}, "pending"),
    ],
)
def test_a_pods_state(obj: dict[str, Any], state: str) -> None:
    assert state_of(PodObserver.shrink(obj)) == state


def small(*args: Any, **more: Any) -> dict[str, Any]:
    return PodObserver.shrink(pod(*args, **more))


def test_the_rows_of_a_pod_from_creation_to_deletion() -> None:
    pods = PodObserver()
    assert pods.replace([], THEN) == []
    seen = []
    for obj, gone in (
        (small("p", "Pending"), False), (small("p"), False), (small("p"), False), (small("p", ready=True), False),
        (small("p", ready=True, deletionTimestamp=NOW), False), (small("p", ready=True, deletionTimestamp=NOW), True),
    ):  # fmt: skip
        seen.append(pods.change(obj, is_deleted=gone, now=NOW, listed=False))
    flat = [row for rows in seen for row in rows]
    told = [row for row in flat if isinstance(row, PodState)]
    assert [row.state for row in told] == ["pending", "running", "ready", "terminating", "gone"]
    assert [row.node_name for row in told] == [None, "node-1", "node-1", "node-1", "node-1"]
    counts = [row[4:] for row in flat if isinstance(row, Replicas)]
    assert counts == [(1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 0)]
    assert pods == PodObserver()  # nothing of it is kept


def test_one_row_of_counts_for_many_changes() -> None:
    pods = PodObserver()
    objects = [small(f"p-{number}", ready=number > 0) for number in range(3)] + [small("other", revision="g-00007")]
    rows = pods.replace(objects, THEN)
    assert [row[3:] for row in rows if isinstance(row, Replicas)] == [
        ("f-00001", 0, 1, 2, 0, 1),
        ("g-00007", 0, 1, 0, 0, 1),
    ]
    assert pods.replace(objects, NOW) == []  # listed again, and nothing is different
    rows = pods.replace(objects[1:], NOW)
    assert [(row.pod_name, row.state) for row in rows if isinstance(row, PodState)] == [("p-0", "gone")]


def test_pods_without_a_revision_give_no_rows() -> None:
    assert PodObserver().replace([small("dns", revision=None)], THEN) == []
    assert PodObserver().change(small("dns", revision=None), is_deleted=False, now=NOW, listed=False) == []


def test_scale_and_conditions() -> None:
    known = StatusObserver("PodAutoscaler")

    def heard(*args: Any, **more: Any) -> list[Any]:
        return known.change(StatusObserver.shrink(autoscaler(*args, **more)), is_deleted=False, now=NOW, listed=False)

    first = known.replace([StatusObserver.shrink(autoscaler(None, None, "Unknown"))], THEN)
    assert first == [
        ConditionChange(
            THEN, "functions", "PodAutoscaler", "f-00001", "f", "Active", "Unknown", "Because", None, None, 1
        )
    ]
    assert heard(None, None, active="Unknown") == []
    assert heard(3, 1, active="Unknown") == [Scale(NOW, "functions", "f", "f-00001", 3, 1, 0)]
    changed = heard(3, 3)
    assert [type(row) for row in changed] == [ConditionChange, Scale] and changed[0].status == "True"
    gone = known.change(StatusObserver.shrink(autoscaler(3, 3)), is_deleted=True, now=NOW, listed=False)
    assert [(type(row), row[-1]) for row in gone] == [(ConditionChange, 0), (Scale, 0)]
    assert gone[0].status == "Deleted" and gone[1][4:6] == (0, 0)
    assert known == StatusObserver("PodAutoscaler")


def test_an_object_deleted_between_two_lists() -> None:
    known = StatusObserver("Revision")
    known.replace([StatusObserver.shrink(autoscaler(1, 1))], THEN)
    (row,) = known.replace([], NOW)
    assert isinstance(row, ConditionChange) and (row.status, row.listed) == ("Deleted", 1)
