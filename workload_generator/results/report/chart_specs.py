"""The Vega-Lite specification of each chart: marks and axes. The page's script adds data and sizes.

Rules:
- colours are CSS variables: light, dark and print are in the style sheet; a language has one colour everywhere
- a line's language also shows in its dashes, for prints without colours and for readers who do not see them
- every axis has a title with its unit
- a layer named `needs:…` is left out of a panel whose rows have no value in that column, or no row in that dataset

Colours of languages: M. Okabe, K. Ito, Color Universal Design (2008), distinct under the common colour blindnesses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from workload_generator.functions import languages
from workload_generator.results.report.chart_data import RECEIVED, SENT
from workload_generator.results.report.cold_starts import PHASE_NAMES

Spec = dict[str, Any]

_DASHES = {
    "go": [1, 0], "rust": [8, 3], "python": [1, 0], "ts": [4, 2], "node": [2, 2], "quarkus": [8, 2, 2, 2],
    "springboot": [6, 2, 2, 2, 2, 2], "unknown": [1, 0], "all": [1, 0],
}  # fmt: skip
OUTCOMES = ("2xx", "3xx", "4xx", "5xx", "timeout", "dropped", "other error")

# A process starts to listen where the containers of a pod start: these two share a colour.
_PHASES = {
    "scale": 1, "created": 2, "scheduled": 3, "pulled": 4, "started": 5, "listening": 5, "queue_ready": 6, "ready": 7,
    "first_byte": 8, "application_start_and_probe": 8,
}  # fmt: skip

_KNOWN = {"error": "± (ms):,.1f", "ready": "ready, as Kubernetes knew (ms):,.1f"}
_MS = "TTFB (ms, log scale)"
_LOG = {"type": "log", "nice": False}
_PERCENT = {"format": "%"}
_DOT = {"type": "point", "filled": True, "size": 60}


def css_word(word: str) -> str:
    """A part of the name of a CSS variable, as the page's script makes it too."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", word)


def css_name(word: str) -> str:
    """The CSS variable of a language or an outcome."""
    return f"var(--{css_word(word)})"


def new_languages() -> list[str]:
    """The languages of the catalog that the style sheet does not name: they have the next colours of the palette."""
    return [name for name in languages.languages() if name not in _DASHES]


def language_dashes(names: Sequence[str]) -> dict[str, list[int]]:
    """The dash of each language, in the order of `names`; sinks, whose names are arbitrary, have one each."""
    dashes = _DASHES | {name: [6 + 4 * at, 2, 4, 2] for at, name in enumerate(new_languages())}
    sinks = [name for name in names if name not in dashes]
    dashes |= {name: [1, 0] if at == 0 else [2 + 2 * at, 3] for at, name in enumerate(sinks)}
    return {name: dashes[name] for name in names}


def language_scales(names: Sequence[str]) -> tuple[Spec, Spec]:
    """Colour and dash of each language; all sinks share a colour."""
    known = {*_DASHES, *new_languages()}
    colours = [css_name(f"lang-{name if name in known else 'unknown'}") for name in names]
    dashes = list(language_dashes(names).values())
    return {"domain": list(names), "range": colours}, {"domain": list(names), "range": dashes}


class ChartSpecs:
    """The specifications for these languages."""

    def __init__(self, names: Sequence[str]) -> None:
        colour, dash = language_scales(names)
        self._colour = _nominal("language", scale=colour, legend=None)
        self._run_colour = {"condition": {"test": "datum.state != ''", "value": css_name("muted")}, **self._colour}
        self._dash = _nominal("language", scale=dash, legend=None)

    def ecdf(self) -> Spec:
        """The share of arrivals answered within a time, with bands."""
        x, y = _log("ms", _MS), _number("share", "share of all arrivals", axis=_PERCENT, scale={"domain": [0, 1]})
        band = _layer(
            {"type": "area", "orient": "horizontal", "opacity": 0.18},
            x=_log("low", _MS), x2={"field": "high"}, y=y, color=self._colour,
        )  # fmt: skip
        hover = _hover(x, y, "language", "band", ms="TTFB (ms)", share="share:%")
        return {"layer": [band, self._line(x, y, "share"), hover]}

    def tail(self) -> Spec:
        """Quantiles towards the slow end."""
        x, y = _log("nines", "quantile (the slow end stretched)"), _log("ms", _MS)
        names = {1: "min", 2: "p50", 10: "p90", 100: "p99", 1000: "p99.9", 10_000: "p99.99"}
        x["scale"] = {**_LOG, "domain": [1, 10_000]}
        labels = "".join(f"datum.value == {at} ? '{name}' : " for at, name in names.items())
        x["axis"] = {"values": list(names), "labelExpr": f"{labels}''"}
        band = _layer(
            {"type": "area", "opacity": 0.18}, x=x, y=_log("low", _MS), y2={"field": "high"}, color=self._colour
        )
        tips = {"share": "quantile:.2%", "ms": "TTFB (ms)", "low": "low", "high": "high"}
        layers = [band, self._line(x, y, "share"), _hover(x, y, "language", "band", **tips)]
        return {"transform": [{"filter": "datum.nines != null"}], "layer": layers}

    def forest(self) -> Spec:
        """Intervals of groups and the points of their runs."""
        run, group = ([{"filter": f"datum.what {test} 'one run'"}] for test in ("==", "!="))
        tips = _tips("language", "what", "run", ms="TTFB (ms)", low="low", high="high", confidence="confidence:.1%")
        x = _log("ms", _MS)
        interval = _layer({"type": "rule", "strokeWidth": 3}, x=_log("low", _MS), x2={"field": "high"}, tooltip=tips)
        point = _layer({"type": "point", "filled": False, "size": 45, "strokeWidth": 1.2}, x=x, tooltip=tips)
        middle = _layer({**_DOT, "size": 90, "opacity": 1}, x=x, tooltip=tips)
        point["encoding"]["shape"], middle["encoding"]["shape"] = _beyond_shape("circle"), _beyond_shape("diamond")
        y = _nominal("language", title=None, sort={"field": "ms", "op": "min"})
        return {
            "encoding": {"y": y, "color": self._colour},
            "layer": [{"transform": group, **interval}, {"transform": run, **point}, {"transform": group, **middle}],
        }

    def latency(self) -> Spec:
        """p50 and p99 over time; the ramp is shaded, cold requests are marked."""
        x, run = _time(), {"color": self._run_colour, "detail": _nominal("run")}
        tail = {"type": "line", "strokeWidth": 1, "opacity": 0.7, "strokeDash": [3, 2]}
        triangle = {**_DOT, "shape": "triangle-down", "size": 40, "color": css_name("cold")}
        tips = _tips("run", t="cold request at (s):,.1f", ms="TTFB (ms)")
        cold = _layer(triangle, x=x, y=_log("ms", _MS), tooltip=tips)
        return {
            "layer": [
                _ramp(),
                _layer(tail, x=x, y=_log("p99", _MS), **run),
                _layer({"type": "line", "strokeWidth": 2}, x=x, y=_log("p50", _MS), **run),
                _hover(x, _log("p99", _MS), "run", t="time (s):,.1f", p50="p50 (ms)", p99="p99 (ms)"),
                {"name": "needs:cold_marks", "data": {"name": "cold_marks"}, **cold},
            ]
        }

    def throughput(self) -> Spec:
        """Answers and losses per second, against the plan."""
        x, run = _time(), _nominal("run")
        planned, failed, ok = (_number(name, "arrivals per second") for name in ("planned", "failed", "ok"))
        plan = {"type": "line", "strokeDash": [2, 3], "strokeWidth": 1.5, "color": css_name("muted")}
        loss = {"type": "area", "opacity": 0.5, "color": css_name("bad"), "interpolate": "step"}
        line = {"type": "line", "strokeWidth": 1.5, "interpolate": "step"}
        tips = {"t": "time (s):,.1f", "ok": "ok (1/s)", "failed": "failed (1/s)", "planned": "planned (1/s)"}
        measured = [{"filter": "datum.t >= 0 && datum.planned != null"}]
        return {
            "layer": [
                _ramp(),
                {"name": "needs:planned", "transform": measured, **_layer(plan, x=x, y=planned)},
                _layer(loss, x=x, y={**failed, "stack": None}, detail=run),
                _layer(line, x=x, y=ok, color=self._run_colour, detail=run),
                _hover(x, ok, "run", **tips),
            ]
        }

    def heat(self) -> Spec:
        """Answers by time and latency."""
        tips = {"t": "from (s):,.1f", "end": "to (s):,.1f", "low": "TTFB from (ms)", "high": "to (ms)"}
        legend = {"title": "answers/s", "gradientLength": 90, "tickCount": 3, "format": ",.2~r"}
        colour = _quantitative("per_s", scale={"type": "log", "scheme": "viridis"}, legend=legend)
        return _layer(
            {"type": "rect"},
            x=_time(), x2={"field": "end"}, y=_log("low", _MS), y2={"field": "high"},
            color=colour, tooltip=_tips(**tips, per_s="answers/s"),
        )  # fmt: skip

    def cold(self) -> Spec:
        """Each cold start as a dot, the quartiles of a language below the dots."""
        quartiles, dots = ([{"filter": f"datum.what {test} 'quartiles'"}] for test in ("==", "!="))
        tips = _tips("language", "what", ms="TTFB (ms)", low="p25", high="p75", count="cold starts")
        x = _log("ms", "TTFB of cold starts (ms, log scale)")
        offset = _quantitative("offset", scale={"domain": [-0.75, 0.75]})
        bar, dot = {"type": "bar", "height": 24, "opacity": 0.25}, {"type": "circle", "size": 14, "opacity": 0.75}
        tick = {"type": "tick", "thickness": 3, "size": 24, "opacity": 1}
        return {
            "encoding": {"y": _nominal("language", title=None), "color": self._colour},
            "layer": [
                {"transform": quartiles, **_layer(bar, x={**x, "field": "low"}, x2={"field": "high"}, tooltip=tips)},
                {"transform": dots, **_layer(dot, x=x, yOffset=offset, tooltip=tips)},
                {"transform": quartiles, **_layer(tick, x=x, tooltip=tips)},
            ],
        }

    def phases(self, present: Sequence[str]) -> Spec:
        """The phases of a cold start stacked, a bar for each language."""
        tips = {"ms": "mean (ms):,.1f", "p50": "p50:,.1f", "p90": "p90:,.1f", "starts": "cold starts"} | _KNOWN
        return _layer(
            {"type": "bar", "height": 22, "stroke": css_name("card"), "strokeWidth": 0.5},
            x=_number("ms", "mean time since the send (ms)", stack="zero"), y=_nominal("language", title=None),
            color=_phase_colour(present), order=_quantitative("number"), tooltip=_tips("language", "phase", **tips),
        )  # fmt: skip

    def waterfall(self, present: Sequence[str]) -> Spec:
        """One cold start, a line for each phase."""
        begin, end = (_number(name, "time since the send (ms)") for name in ("begin", "end"))
        times = {"begin": "from (ms):,.1f", "end": "to (ms):,.1f", "ms": "duration (ms):,.1f"}
        tips = _tips("start", "phase", **times, **_KNOWN)
        bar, tick = {"type": "bar", "height": 14, "minBandSize": 1}, {"type": "tick", "thickness": 2, "size": 14}
        colour = {**_phase_colour(present), "legend": None}
        return {
            "encoding": {"y": _nominal("phase", title=None, sort={"field": "number", "op": "min"}), "tooltip": tips},
            "layer": [
                _layer(bar, x=begin, x2={"field": "end"}, color=colour),
                _layer({**tick, "color": css_name("ink")}, x=end),
            ],
        }

    def outcomes(self) -> Spec:
        """How arrivals ended, as shares."""
        scale = {"domain": list(OUTCOMES), "range": [css_name(f"end-{name}") for name in OUTCOMES]}
        return _layer(
            {"type": "bar", "stroke": css_name("card"), "strokeWidth": 0.5},
            x=_number("arrivals", "share of measured arrivals", stack="normalize", axis=_PERCENT),
            y=_nominal("language", title=None), color=_nominal("ended", scale=scale, legend=None),
            tooltip=_tips("language", "outcome", arrivals="arrivals:,", share="share:.3%"),
        )  # fmt: skip

    def load(self, measure: str) -> Spec:
        """One measure of the load curve."""
        x = _log("rps", "planned rate (requests per second, log scale)")
        times = {"rps": "rate (rps)", "p50": "p50 (ms)", "p99": "p99 (ms)"}
        tips = _tips("language", **times, failed="failed:.2%", achieved="achieved:.2%")
        y = {
            "failed": _number("failed", "failed and dropped", axis=_PERCENT),
            "achieved": _number("achieved", "achieved of the planned rate", axis=_PERCENT, scale={"zero": False}),
        }.get(measure) or _log(measure, f"TTFB {measure} (ms, log scale)")
        point = _layer(_DOT, x=x, y=y, color=self._colour, tooltip=tips)
        if measure == "p99":
            point["encoding"]["shape"] = _beyond_shape("circle")
        layers = [self._line(x, y, "rps"), point]
        if measure in ("p50", "p99"):
            low, rule = {**y, "field": f"{measure}_low"}, {"type": "rule", "strokeWidth": 2, "opacity": 0.6}
            layers.insert(0, _layer(rule, x=x, y=low, y2={"field": f"{measure}_high"}, color=self._colour))
        return {"layer": layers}

    def series(self) -> Spec:
        """One metric of one run over time."""
        x, y = _time(), _number("value", "")
        name = _nominal("name", legend=None, scale={"range": [css_name(f"series-{n}") for n in range(1, 9)]})
        line = _layer({"type": "line", "strokeWidth": 1.5, "interpolate": "step-after"}, x=x, y=y, color=name)
        return {"layer": [line, _hover(x, y, "name", t="time (s):,.1f", value="value")]}

    def delays(self) -> Spec:
        """The delay of events."""
        x = _log("ms", "from request to first receipt (ms, log scale)")
        y = _number("share", "share of accepted events", axis=_PERCENT, scale={"domain": [0, 1]})
        line = self._line(x, y, "share")
        line["encoding"]["detail"] = [_nominal("run"), _nominal("trigger")]
        return {"layer": [line, _hover(x, y, "run", "trigger", ms="delay (ms)", share="share:.1%")]}

    def delivery_rates(self) -> Spec:
        """Events sent, and receipts by trigger, over time."""
        x, y = _number("t", "time since the first event (s)"), _number("per_s", "events per second")
        scale = {"domain": [SENT, RECEIVED], "range": [css_name("series-1"), css_name("series-2")]}
        colour = _nominal("what", legend={"orient": "top", "title": None}, scale=scale)
        detail = [_nominal("run"), _nominal("trigger")]
        line = _layer({"type": "line", "interpolate": "step"}, x=x, y=y, color=colour, detail=detail)
        return {"layer": [line, _hover(x, y, "what", "trigger", "run", t="time (s):,.1f", per_s="per second")]}

    def _line(self, x: Spec, y: Spec, order: str) -> Spec:
        mark = {"type": "line", "strokeWidth": 2}
        return _layer(mark, x=x, y=y, color=self._colour, strokeDash=self._dash, order=_quantitative(order))


def _layer(mark: Spec, **encoding: Any) -> Spec:
    return {"mark": mark, "encoding": encoding}


def _hover(x: Spec, y: Spec, *names: str, **fields: str) -> Spec:
    """Invisible points for the pointer; the nearest one appears with its tooltip."""
    select = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    opacity = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
    colour = {"value": css_name("ink")}
    points = _layer(_DOT, x=x, y=y, color=colour, opacity=opacity, tooltip=_tips(*names, **fields))
    return {"params": [{"name": "near", "select": select}], **points}


def _phase_colour(present: Sequence[str]) -> Spec:
    """The colours of the phases that occur."""
    colours = {PHASE_NAMES[name]: css_name(f"series-{number}") for name, number in _PHASES.items() if name in present}
    legend = {"orient": "top", "title": None, "columns": 8, "symbolType": "square"}
    return _nominal("phase", scale={"domain": list(colours), "range": list(colours.values())}, legend=legend)


def _nominal(field: str, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", **more}


def _quantitative(field: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", **more}


def _number(field: str, title: str, **more: Any) -> Spec:
    return _quantitative(field, title=title, **more)


def _log(field: str, title: str) -> Spec:
    return _number(field, title, scale=_LOG, axis={"format": ",~g", "labelOverlap": True})


def _time(field: str = "t") -> Spec:
    return _number(field, "time since the start of the measure phase (s)", scale={"zero": False, "nice": False})


def _ramp() -> Spec:
    """A shade over the time before the measure phase."""
    shade = {"type": "rect", "color": css_name("ramp"), "opacity": 0.5}
    layer = _layer(shade, x=_time("begin"), x2={"field": "end"})
    return {"name": "needs:ramps", "data": {"name": "ramps"}, **layer}


def _beyond_shape(usual: str) -> Spec:
    return {"condition": {"test": "datum.beyond == 1", "value": "triangle-right"}, "value": usual}


def _tips(*names: str, **fields: str) -> list[Spec]:
    """Tooltips: plain fields by name, numbers as `title:format`."""
    tips = [_nominal(name) for name in names]
    for name, text in fields.items():
        title, _, form = text.partition(":")
        tips.append(_number(name, title, format=form or ",.4~g"))
    return tips
