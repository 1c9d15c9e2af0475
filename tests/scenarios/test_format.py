"""Scenario files: their values, and the errors of invalid ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.experiment.bundled import find_scenario
from workload_generator.scenarios.model import RunMode, Scenario, WaitCondition, fingerprint, load_scenario, order

WARM = """
scenario: serving-scenario-1
experiment: serving-scenario-1-go
services: empty-{language}-http-0
languages: [go, rust]
rates: [100, 0.5]
"""


def load(tmp_path: Path, text: str, **flags: Any) -> Scenario:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load_scenario(path, flags)


def problems(tmp_path: Path, text: str, **flags: Any) -> list[str]:
    with pytest.raises(ExperimentError) as failed:
        load(tmp_path, text, **flags)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in failed.value.problems]


def test_a_grid_and_the_names_of_its_logs(tmp_path: Path) -> None:
    scenario = load(tmp_path, WARM)
    assert [scenario.prefix_of(cell) for cell in scenario.cells()] == [
        "serving-scenario-1_100rps_go",
        "serving-scenario-1_0.5rps_go",
        "serving-scenario-1_100rps_rust",
        "serving-scenario-1_0.5rps_rust",
    ]
    assert [scenario.services_of(cell) for cell in scenario.cells()][2:] == [("empty-rust-http-0",)] * 2


def test_flags_replace_the_files_values(tmp_path: Path) -> None:
    scenario = load(tmp_path, WARM, languages=["python"], rates=["7"], repeats="2", duration="90s")
    assert (scenario.languages, scenario.repeats, scenario.duration_ns) == (("python",), 2, 90 * 10**9)
    assert list(map(int, scenario.rates)) == [7]


def test_the_bundled_scenarios_are_those_of_the_original() -> None:
    one, two, three = (load_scenario(find_scenario(f"serving-{number}"), {}) for number in (1, 2, 3))
    assert one.languages == ("go", "rust", "ts") and list(map(int, one.rates)) == [16000] and one.mode is RunMode.WARM
    assert two.mode is RunMode.COLD and two.repeats == 7 and len(two.cells()) == 1
    assert two.prefix_of(two.cells()[0]) == "serving-scenario-2_all"
    assert two.patch.autoscaler == {"stable-window": "10s", "scale-to-zero-grace-period": "10s"}
    assert WaitCondition.ZERO in two.wait and len(two.services_of(two.cells()[0])) == 6
    assert list(map(int, three.rates)) == [300, 400] and three.patch.container_concurrency == 1
    assert three.patch.annotations == {"max-scale": "400"} and three.services_of(three.cells()[0]) == (
        "sleep-go-http-0",
    )


def test_eventing_names(tmp_path: Path) -> None:
    grid = "scenario: eventing-scenario-{}\nmode: event\nexperiment: cloudevent-250\nrates: [3000]\n"
    for number, axis, prefix in (
        (2, "triggers: [4]", "eventing-scenario-2_4triggers_3000rps"),
        (3, "parallelism: [5]", "eventing-scenario-3_3000rps_5workers"),
    ):
        scenario = load(tmp_path, grid.format(number) + axis)
        assert [scenario.prefix_of(cell) for cell in scenario.cells()] == [prefix]


def test_a_path_is_an_annotation_of_warm_services(tmp_path: Path) -> None:
    text = "scenario: s\nexperiment: serving-scenario-1-go\nservices: empty-go-http-0\n"
    text += "patch: {annotations: {max-scale: '3'}}\n"
    path = tmp_path / "s.yaml"
    path.write_text(text)
    assert load_scenario(path, {}).annotations() == {"max-scale": "3"}
    direct = load_scenario(path, {"path": "direct"})
    assert direct.annotations() == {"max-scale": "3", "target-burst-capacity": "0"}
    path.write_text(text + "path: activator\n")
    assert load_scenario(path, {}).annotations()["target-burst-capacity"] == "-1"
    path.write_text(text + "path: activator\nmode: cold-start\n")
    with pytest.raises(ExperimentError, match="path needs mode: warm; a cold start always goes through the activator"):
        load_scenario(path, {})


def test_one_language_together_has_its_own_name(tmp_path: Path) -> None:
    text = WARM.replace("rates: [100, 0.5]", "together: true")
    assert [
        load(tmp_path, text, languages=["go"]).prefix_of(cell)
        for cell in load(tmp_path, text, languages=["go"]).cells()
    ] == ["serving-scenario-1_go"]


@pytest.mark.parametrize(
    ("change", "flags", "expected"),
    [
        ("repeat: 3", {}, ["s.yaml:7: repeat: unknown key; did you mean repeats?"]),
        ("repeats: 0", {}, ["s.yaml:7: repeats: must be at least 1"]),
        ("patch: {autoscalr: {}}", {}, ["s.yaml:7: patch.autoscalr: unknown key; did you mean autoscaler?"]),
        (
            "wait: [zero, redy]",
            {},
            ["s.yaml:7: wait[1]: 'redy' is not one of ready, drained, zero; did you mean ready?"],
        ),
        ("mode: hot", {}, ["s.yaml:7: mode: 'hot' is not one of warm, cold-start, event"]),
        ("duration: soon\nrepeats: x", {}, None),
        ("triggers: [2]", {}, ["s.yaml:2: triggers and parallelism need mode: event"]),
        ("", {"rates": ["1", "x"]}, ["--rates: 'x' is not a number"]),
        ("", {"languages": ["go", "go"]}, ["s.yaml:2: languages contains a value twice; increase repeats instead"]),
    ],
)  # fmt: skip
def test_every_problem_names_its_key(
    tmp_path: Path, change: str, flags: dict[str, Any], expected: list[str] | None
) -> None:
    found = problems(tmp_path, WARM + change, **flags)
    if expected is None:
        assert [each.split(": ")[:2] for each in found] == [["s.yaml:7", "duration"], ["s.yaml:8", "repeats"]]
    else:
        assert found == expected


def test_an_empty_file_and_one_without_its_keys(tmp_path: Path) -> None:
    assert problems(tmp_path, "# nothing") == [
        "s.yaml: the file is empty: a scenario needs at least scenario and experiment"
    ]
    assert problems(tmp_path, "rates: [1]\n") == ["s.yaml:1: scenario: is missing", "s.yaml:1: experiment: is missing"]


def test_an_unknown_name_lists_the_bundled_scenarios() -> None:
    with pytest.raises(UsageError, match="did you mean serving-1.\nThe bundled scenarios are ") as caught:
        find_scenario("servin-1")
    assert str(caught.value).endswith("serving-1, serving-2, serving-3.")


def test_each_repeat_runs_every_cell_once_in_its_own_order(tmp_path: Path) -> None:
    scenario = load(tmp_path, WARM, rates=["1", "2", "3"], repeats="20")
    runs = order(scenario, 5)
    assert len(runs) == 120
    repeats = [runs[first : first + 6] for first in range(0, 120, 6)]
    assert all(Counter(cells) == Counter(scenario.cells()) for cells in repeats)
    assert len({tuple(cells) for cells in repeats}) > 15, "each shuffled anew"
    assert order(scenario, 5) == runs and order(scenario, 6) != runs


def test_every_change_changes_the_fingerprint(tmp_path: Path) -> None:
    scenario = load(tmp_path, WARM)
    prints = {
        fingerprint(scenario, "local", {"a": b"1"}),
        fingerprint(scenario, "cluster", {"a": b"1"}),
        fingerprint(scenario, "local", {"a": b"2"}),
        fingerprint(load(tmp_path, WARM, repeats="2"), "local", {"a": b"1"}),
        fingerprint(load(tmp_path, WARM + "patch: {containerConcurrency: 1}"), "local", {"a": b"1"}),
    }
    assert len(prints) == 5
    assert fingerprint(load(tmp_path, WARM), "local", {"a": b"1"}) in prints
