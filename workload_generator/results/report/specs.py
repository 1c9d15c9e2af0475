"""The pictures as Vega-Lite: marks and axes, without data and sizes, which the page's script adds.

Rules:
- colours are CSS variables, so that light, dark and print are the style sheet's; a language has one colour everywhere
- a line's language also shows in its dashes, for print without colours and for eyes that do not tell these apart
- every axis has a title with its unit
- a layer named `needs:…` is left out of a panel whose rows have nothing in that column, or that dataset nothing for it

Colours of languages: M. Okabe, K. Ito, Color Universal Design (2008), which the common colour blindnesses tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workload_generator.functions import languages as catalog

Spec = dict[str, Any]

DASHES = {
    "go": [1, 0], "rust": [8, 3], "python": [1, 0], "ts": [4, 2], "node": [2, 2], "quarkus": [8, 2, 2, 2],
    "springboot": [6, 2, 2, 2, 2, 2], "unknown": [1, 0], "all": [1, 0],
}  # fmt: skip
OUTCOMES = ("2xx", "3xx", "4xx", "5xx", "timeout", "dropped", "other error")

SENT, RECEIVED = "events sent", "receipts"

PHASES = {
    "scale": ("scale decision", 1), "created": ("instance created", 2), "scheduled": ("scheduled", 3),
    "pulled": ("image pulled", 4), "started": ("containers started", 5), "listening": ("listens", 5),
    "queue_ready": ("queue-proxy ready", 6), "ready": ("ready", 7), "first_byte": ("first byte", 8),
}  # fmt: skip
"""Words and colours of a cold start's phases; a process listens where a pod's containers start."""

_MS = "TTFB (ms, log scale)"
_BY_TRIGGER: list[Spec] = [{"field": name, "type": "nominal"} for name in ("run", "trigger")]


def css_name(word: str) -> str:
    """The CSS variable of a language or an ending."""
    return f"var(--{word.replace(' ', '-')})"


def new_languages() -> list[str]:
    """The languages of the catalog without a colour of their own: they get the next ones of the palette."""
    return [name for name in catalog.languages() if name not in DASHES]


def language_dashes() -> dict[str, list[int]]:
    """The dashes of every language."""
    return DASHES | {name: [6 + 4 * at, 2, 4, 2] for at, name in enumerate(new_languages())}


def language_scales(languages: Sequence[str]) -> tuple[Spec, Spec]:
    """Colour and dash of each language; sinks, whose names are anybody's, share a colour and differ in their dashes."""
    known = language_dashes()
    colours = [name if name in known else "unknown" for name in languages]
    sinks = [name for name in languages if name not in known]
    dashes = known | {name: [1, 0] if at == 0 else [2 + 2 * at, 3] for at, name in enumerate(sinks)}
    colour = {"domain": list(languages), "range": [css_name(f"lang-{name}") for name in colours]}
    dash = {"domain": list(languages), "range": [dashes[name] for name in languages]}
    return colour, dash


class Pictures:
    """Makes the specs for these languages."""

    def __init__(self, languages: Sequence[str]) -> None:
        colour, dash = language_scales(languages)
        self._colour: Spec = {"field": "language", "type": "nominal", "scale": colour, "legend": None}
        self._run_colour: Spec = {
            "condition": {"test": "datum.state != ''", "value": css_name("muted")},
            **self._colour,
        }
        self._dash: Spec = {"field": "language", "type": "nominal", "scale": dash, "legend": None}

    def ecdf(self) -> Spec:
        """Share of arrivals answered within a time, with bands."""
        share = _y("share", "share of all arrivals", format="%", scale={"domain": [0, 1]})
        return {
            "layer": [
                {
                    "mark": {"type": "area", "orient": "horizontal", "opacity": 0.18},
                    "encoding": {"x": _log_x("low", _MS), "x2": {"field": "high"}, "y": share, "color": self._colour},
                },
                self._line(_log_x("ms", _MS), share, "share"),
                self._hover(_log_x("ms", _MS), share, _tips("language", ms="TTFB (ms)", share="share:%"), "band"),
            ]
        }

    def tail(self) -> Spec:
        """Quantiles towards the slow end."""
        x = _log_x("nines", "quantile (the slow end stretched)")
        x["scale"]["domain"] = [1, 10_000]
        x["axis"] = {
            "values": [1, 2, 10, 100, 1000, 10_000],
            "labelExpr": "datum.value == 1 ? 'min' : datum.value == 2 ? 'p50' : datum.value == 10 ? 'p90' : "
            "datum.value == 100 ? 'p99' : datum.value == 1000 ? 'p99.9' : 'p99.99'",
        }
        y = _log_y("ms", _MS)
        return {
            "transform": [{"filter": "datum.nines != null"}],
            "layer": [
                {
                    "mark": {"type": "area", "opacity": 0.18},
                    "encoding": {"x": x, "y": _log_y("low", _MS), "y2": {"field": "high"}, "color": self._colour},
                },
                self._line(x, y, "share"),
                self._hover(
                    x, y, _tips("language", share="quantile:.2%", ms="TTFB (ms)", low="low", high="high"), "band"
                ),
            ],
        }

    def forest(self) -> Spec:
        """Intervals of cells and the points of their runs."""
        y: Spec = {"field": "language", "type": "nominal", "title": None, "sort": {"field": "ms", "op": "min"}}
        one = {"filter": "datum.what == 'one run'"}
        cell = {"filter": "datum.what != 'one run'"}
        tips = _tips("language", "what", "run", ms="TTFB (ms)", low="low", high="high", confidence="confidence:.1%")
        return {
            "encoding": {"y": y, "color": self._colour},
            "layer": [
                {
                    "transform": [cell],
                    "mark": {"type": "rule", "strokeWidth": 3},
                    "encoding": {"x": _log_x("low", _MS), "x2": {"field": "high"}, "tooltip": tips},
                },
                {
                    "transform": [one],
                    "mark": {"type": "point", "filled": False, "size": 45, "strokeWidth": 1.2},
                    "encoding": {"x": _log_x("ms", _MS), "tooltip": tips, "shape": _beyond_shape("circle")},
                },
                {
                    "transform": [cell],
                    "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                    "encoding": {"x": _log_x("ms", _MS), "tooltip": tips, "shape": _beyond_shape("diamond")},
                },
            ],
        }

    def latency(self) -> Spec:
        """p50 and p99 over time; the ramp is shaded, cold requests are marked."""
        x = _time_x()
        tips = _tips("run", t="time (s):,.1f", p50="p50 (ms)", p99="p99 (ms)")
        by_run = {"field": "run", "type": "nominal"}
        return {
            "layer": [
                _ramp(),
                {
                    "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.7, "strokeDash": [3, 2]},
                    "encoding": {"x": x, "y": _log_y("p99", _MS), "color": self._run_colour, "detail": by_run},
                },
                {
                    "mark": {"type": "line", "strokeWidth": 2},
                    "encoding": {"x": x, "y": _log_y("p50", _MS), "color": self._run_colour, "detail": by_run},
                },
                self._hover(x, _log_y("p99", _MS), tips),
                {
                    "name": "needs:cold_marks",
                    "data": {"name": "cold_marks"},
                    "mark": {
                        "type": "point",
                        "shape": "triangle-down",
                        "filled": True,
                        "size": 40,
                        "color": css_name("cold"),
                    },
                    "encoding": {
                        "x": x,
                        "y": _log_y("ms", _MS),
                        "tooltip": _tips("run", t="cold request at (s):,.1f", ms="TTFB (ms)"),
                    },
                },
            ]
        }

    def throughput(self) -> Spec:
        """Answers and losses a second, against the plan."""
        x = _time_x()
        by_run = {"field": "run", "type": "nominal"}
        tips = _tips("run", t="time (s):,.1f", ok="ok (1/s)", lost="lost (1/s)", planned="planned (1/s)")
        title = "arrivals a second"
        return {
            "layer": [
                _ramp(),
                {
                    "name": "needs:planned",
                    "mark": {"type": "line", "strokeDash": [2, 3], "strokeWidth": 1.5, "color": css_name("muted")},
                    "transform": [{"filter": "datum.t >= 0 && datum.planned != null"}],
                    "encoding": {"x": x, "y": _y("planned", title)},
                },
                {
                    "mark": {"type": "area", "opacity": 0.5, "color": css_name("bad"), "interpolate": "step"},
                    "encoding": {"x": x, "y": {**_y("lost", title), "stack": None}, "detail": by_run},
                },
                {
                    "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step"},
                    "encoding": {"x": x, "y": _y("ok", title), "color": self._run_colour, "detail": by_run},
                },
                self._hover(x, _y("ok", title), tips),
            ]
        }

    def heat(self) -> Spec:
        """Answers by time and latency."""
        return {
            "mark": {"type": "rect"},
            "encoding": {
                "x": {**_time_x("t"), "scale": {"zero": False, "nice": False}},
                "x2": {"field": "end"},
                "y": _log_y("low", _MS),
                "y2": {"field": "high"},
                "color": {
                    "field": "per_s",
                    "type": "quantitative",
                    "scale": {"type": "log", "scheme": "viridis"},
                    "legend": {"title": "answers/s", "gradientLength": 90, "tickCount": 3, "format": ",.2~r"},
                },
                "tooltip": _tips(
                    t="from (s):,.1f", end="to (s):,.1f", low="TTFB from (ms)", high="to (ms)", per_s="answers/s"
                ),
            },
        }

    def cold(self) -> Spec:
        """Each cold start as a dot, the quartiles of a language under them."""
        y: Spec = {"field": "language", "type": "nominal", "title": None}
        tips = _tips("language", "what", ms="TTFB (ms)", low="p25", high="p75", count="cold starts")
        x = _log_x("ms", "TTFB of cold starts (ms, log scale)")
        return {
            "encoding": {"y": y, "color": self._colour},
            "layer": [
                {
                    "transform": [{"filter": "datum.what == 'quartiles'"}],
                    "mark": {"type": "bar", "height": 24, "opacity": 0.25},
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "tooltip": tips},
                },
                {
                    "transform": [{"filter": "datum.what != 'quartiles'"}],
                    "mark": {"type": "circle", "size": 14, "opacity": 0.75},
                    "encoding": {
                        "x": x,
                        "yOffset": {"field": "offset", "type": "quantitative", "scale": {"domain": [-0.75, 0.75]}},
                        "tooltip": tips,
                    },
                },
                {
                    "transform": [{"filter": "datum.what == 'quartiles'"}],
                    "mark": {"type": "tick", "thickness": 3, "size": 24, "opacity": 1},
                    "encoding": {"x": x, "tooltip": tips},
                },
            ],
        }

    def phases(self, present: Sequence[str]) -> Spec:
        """The phases of a cold start on each other, a bar a language."""
        tips = _tips("language", "phase", ms="mean (ms)", p50="p50", p90="p90", starts="cold starts", error="± (ms)")
        return {
            "mark": {"type": "bar", "height": 22, "stroke": css_name("card"), "strokeWidth": 0.5},
            "encoding": {
                "y": {"field": "language", "type": "nominal", "title": None},
                "x": _x("ms", "mean time since the send (ms)", stack="zero"),
                "color": _phase_colour(present),
                "order": {"field": "number", "type": "quantitative"},
                "tooltip": tips,
            },
        }

    def waterfall(self, present: Sequence[str]) -> Spec:
        """One cold start, a line a phase."""
        tips = _tips("start", "phase", begin="from (ms)", end="to (ms)", ms="it took (ms)", error="± (ms)")
        y: Spec = {"field": "phase", "type": "nominal", "title": None, "sort": {"field": "number", "op": "min"}}
        return {
            "encoding": {"y": y, "tooltip": tips},
            "layer": [
                {
                    "mark": {"type": "bar", "height": 14, "minBandSize": 1},
                    "encoding": {
                        "x": _x("begin", "time since the send (ms)"),
                        "x2": {"field": "end"},
                        "color": {**_phase_colour(present), "legend": None},
                    },
                },
                {
                    "mark": {"type": "tick", "thickness": 2, "size": 14, "color": css_name("ink")},
                    "encoding": {"x": _x("end", "time since the send (ms)")},
                },
            ],
        }

    def outcomes(self) -> Spec:
        """How arrivals ended, as shares."""
        return {
            "mark": {"type": "bar", "stroke": css_name("card"), "strokeWidth": 0.5},
            "encoding": {
                "y": {"field": "language", "type": "nominal", "title": None},
                "x": _x("arrivals", "share of measured arrivals", stack="normalize", axis={"format": "%"}),
                "color": {
                    "field": "ended",
                    "type": "nominal",
                    "scale": {"domain": list(OUTCOMES), "range": [css_name(f"end-{name}") for name in OUTCOMES]},
                    "legend": None,
                },
                "tooltip": _tips("language", "outcome", arrivals="arrivals:,", share="share:.3%"),
            },
        }

    def load(self, measure: str) -> Spec:
        """One measure of the load curve."""
        x = _log_x("rps", "planned rate (requests a second, log scale)")
        tips = _tips(
            "language", rps="rate (rps)", p50="p50 (ms)", p99="p99 (ms)", lost="lost:.2%", achieved="achieved:.2%"
        )
        if measure in ("p50", "p99"):
            y = _log_y(measure, f"TTFB {measure} (ms, log scale)")
            ranges: list[Spec] = [
                {
                    "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
                    "encoding": {
                        "x": x,
                        "y": {**y, "field": f"{measure}_low"},
                        "y2": {"field": f"{measure}_high"},
                        "color": self._colour,
                    },
                }
            ]
        else:
            title = "failed and dropped" if measure == "lost" else "achieved of the planned rate"
            y, ranges = _y(measure, title, format="%"), []
            if measure == "achieved":
                y["scale"] = {"zero": False}
        return {
            "layer": [
                *ranges,
                self._line(x, y, "rps"),
                {
                    "mark": {"type": "point", "filled": True, "size": 60},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "color": self._colour,
                        "tooltip": tips,
                        **({"shape": _beyond_shape("circle")} if measure == "p99" else {}),
                    },
                },
            ]
        }

    def machines(self) -> Spec:
        """One measure of one run over time."""
        tips = _tips("name", t="time (s):,.1f", value="value")
        name: Spec = {"field": "name", "type": "nominal", "legend": None}
        name["scale"] = {"range": [css_name(f"series-{n}") for n in range(1, 9)]}
        return {
            "layer": [
                {
                    "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step-after"},
                    "encoding": {"x": _time_x(), "y": _y("value", ""), "color": name},
                },
                self._hover(_time_x(), _y("value", ""), tips),
            ]
        }

    def delays(self) -> Spec:
        """The delay of events."""
        x = _log_x("ms", "from request to first receipt (ms, log scale)")
        y = _y("share", "share of accepted events", format="%", scale={"domain": [0, 1]})
        line = self._line(x, y, "share")
        line["encoding"]["detail"] = _BY_TRIGGER
        return {"layer": [line, self._hover(x, y, _tips("run", "trigger", ms="delay (ms)", share="share:.1%"))]}

    def delivery_rates(self) -> Spec:
        """Events sent, and receipts by trigger, over time."""
        x, y = _x("t", "time since the first event (s)"), _y("per_s", "a second")
        what: Spec = {"field": "what", "type": "nominal", "legend": {"orient": "top", "title": None}}
        what["scale"] = {
            "domain": [SENT, RECEIVED],
            "range": [css_name("series-1"), css_name("series-2")],
        }
        line = {
            "mark": {"type": "line", "interpolate": "step"},
            "encoding": {"x": x, "y": y, "color": what, "detail": _BY_TRIGGER},
        }
        return {
            "layer": [line, self._hover(x, y, _tips("what", "trigger", "run", t="time (s):,.1f", per_s="a second"))]
        }

    def _line(self, x: Spec, y: Spec, order: str) -> Spec:
        return {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {
                "x": x,
                "y": y,
                "color": self._colour,
                "strokeDash": self._dash,
                "order": {"field": order, "type": "quantitative"},
            },
        }

    def _hover(self, x: Spec, y: Spec, tips: list[Spec], *more: str) -> Spec:
        """Invisible points that answer to the pointer; the nearest one shows itself and its tooltip."""
        tips = [*tips, *({"field": name, "type": "nominal"} for name in more)]
        return {
            "params": [
                {
                    "name": "near",
                    "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"},
                }
            ],
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {
                "x": x,
                "y": y,
                "color": {"value": css_name("ink")},
                "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
                "tooltip": tips,
            },
        }


def phase_word(name: str) -> str:
    """What comes to an end with a point of a cold start."""
    return PHASES[name][0]


def _phase_colour(present: Sequence[str]) -> Spec:
    colours = {word: css_name(f"series-{number}") for name, (word, number) in PHASES.items() if name in present}
    return {
        "field": "phase",
        "type": "nominal",
        "scale": {"domain": list(colours), "range": list(colours.values())},
        "legend": {"orient": "top", "title": None, "columns": 8, "symbolType": "square"},
    }


def _x(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _y(field: str, title: str, format: str | None = None, **more: Any) -> Spec:
    axis: Spec = {"format": format} if format else {}
    return {"field": field, "type": "quantitative", "title": title, "axis": axis, **more}


def _log_x(field: str, title: str) -> Spec:
    return _x(field, title, scale={"type": "log", "nice": False}, axis={"format": ",~g", "labelOverlap": True})


def _log_y(field: str, title: str) -> Spec:
    return _x(field, title, scale={"type": "log", "nice": False}, axis={"format": ",~g", "labelOverlap": True})


def _time_x(field: str = "t") -> Spec:
    return _x(field, "time since the start of the measure phase (s)", scale={"zero": False, "nice": False})


def _ramp() -> Spec:
    """A shade over what lies before the measure phase."""
    return {
        "name": "needs:ramps",
        "data": {"name": "ramps"},
        "mark": {"type": "rect", "color": css_name("ramp"), "opacity": 0.5},
        "encoding": {"x": _time_x("begin"), "x2": {"field": "end"}},
    }


def _beyond_shape(usual: str) -> Spec:
    return {"condition": {"test": "datum.beyond == 1", "value": "triangle-right"}, "value": usual}


def _tips(*names: str, **fields: str) -> list[Spec]:
    """Tooltips: plain fields by name, numbers as `title:format`."""
    tips: list[Spec] = [{"field": name, "type": "nominal"} for name in names]
    for name, text in fields.items():
        title, _, form = text.partition(":")
        tips.append({"field": name, "type": "quantitative", "title": title, "format": form or ",.4~g"})
    return tips
