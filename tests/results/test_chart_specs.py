"""Colours and dashes of languages and sinks."""

from __future__ import annotations

import re
from importlib import resources

from workload_generator.results.report.chart_specs import language_scales


def test_a_sink_has_a_colour_of_the_page_and_its_own_dashes() -> None:
    names = ["go", "broker default/default", "receiver"]
    colour, dash = language_scales(names)
    page = resources.files("workload_generator.results.report").joinpath("assets/page.css").read_text("utf-8")
    defined = {f"var({name})" for name in re.findall(r"(--lang-[a-z]+):", page)}
    assert colour["domain"] == dash["domain"] == names and set(colour["range"]) <= defined
    assert len({tuple(each) for each in dash["range"][1:]}) == 2
