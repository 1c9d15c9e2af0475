"""The charts of each section: title, caption, data, drawing, and the SQL that gives its numbers.

The report reads the rows of a run once (`request_rows.ROWS_SQL`) and makes all of its numbers from them. The SQL here
is shown below a chart, for any SQLite shell: it gives the same numbers, and the tests prove it. Figures of several runs
are medians over its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workload_generator.functions import languages
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.chart_data import languages_of
from workload_generator.results.report.chart_specs import ChartSpecs, Spec
from workload_generator.results.report.deliveries import DELAYS_SQL, RATES_SQL
from workload_generator.results.report.nodes_and_pods import usage_sql
from workload_generator.results.report.samples import CURVE_SHARES, HEAT_PER_DECADE

LANGUAGE, OUTCOME, NAMES, NO_LEGEND = "language", "outcome", "name", ""

_PANEL, _RUN = ("panel", "language"), ("panel", "language", "run")


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart, drawn once for each `panel` of its dataset, or, with `rows`, once for each row of a panel.

    `see` is its caption, `sql` gives its numbers, `columns` are those of its data table.
    """

    key: str
    title: str
    see: str
    dataset: str
    spec: Spec
    sql: str
    columns: tuple[str, ...]
    height: int = 260
    wide: bool = False
    half: bool = False
    rows: str = ""
    legend: str = LANGUAGE
    also: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the page's script; the page itself has words and SQL."""
        names = ("key", "dataset", "spec", "columns", "height", "rows", "legend", "also")
        return {name: getattr(self, name) for name in names}


def comparison_charts(answers: Answers) -> Iterable[Chart]:
    """Intervals of the compared figures."""
    yield Chart(
        "forest",
        "Medians and tails, run by run",
        "Each circle is one run, the diamond their median, the bar its interval. Overlapping bars are not a ranking; "
        "the bar of a single run is not evidence about the next run. A triangle is beyond the timeout.",
        "groups",
        _specs(answers).forest(),
        _figures_sql(_compared(answers)),
        (*_RUN, "quantile", "what", "ms", "low", "high", "confidence"),
        height=0,
        legend=NO_LEGEND,
    )


def distribution_charts(answers: Answers) -> Iterable[Chart]:
    """The whole distribution, and its slow end."""
    specs, sql = _specs(answers), _curves_sql(_compared(answers))
    columns = (*_PANEL, "band", "share", "ms", "low", "high")
    see = (
        "The further left and the steeper, the better. A curve that ends below 100 % lost the rest: failed and dropped "
        "arrivals rank slower than any limit. A step or a kink is a second population."
    )
    yield Chart("ecdf", "Share of arrivals answered within a time", see, "curves", specs.ecdf(), sql, columns)
    see = (
        "Each step to the right is ten times rarer. A flat curve is even; where it rises, that share of requests waits "
        "for something else: a queue, a pause, a cold start. It ends where arrivals were lost."
    )
    yield Chart("tail", "The slow end, to p99.99", see, "curves", specs.tail(), sql, columns)


def load_charts(answers: Answers) -> Iterable[Chart]:
    """The load curve, a chart for each measure."""
    specs, runs = _specs(answers), _compared(answers)
    for measure, title, see in (
        ("p50", "Median by rate", "A flat line has capacity left; where it bends, requests begin to queue."),
        (
            "p99",
            "p99 by rate",
            "The knee is where p99 leaves the plateau for good. A triangle is beyond the timeout: over 1 % were lost.",
        ),
        ("lost", "Lost by rate", "Above zero the system refuses or loses requests, and low latency means little."),
        (
            "achieved",
            "Achieved rate",
            "Of the plan. Below 100 % the generator did not send everything, and the other figures are too good.",
        ),
    ):
        own = tuple(f"{measure}{end}" for end in ("", "_low", "_high")) if measure[0] == "p" else (measure,)
        sql = _achieved_sql(runs) if measure == "achieved" else _figures_sql(runs)
        columns = (*_PANEL, "rps", *own)
        yield Chart(f"load_{measure}", title, see, "load", specs.load(measure), sql, columns, height=220, half=True)


def cold_start_charts(answers: Answers) -> Iterable[Chart]:
    """Times and phases of cold starts."""
    specs, runs = _specs(answers), _compared(answers)
    present = list({name for each in answers.starts for start in each.starts for name in start.phases})
    yield Chart(
        "cold",
        "Cold starts, one by one",
        "A dot is a cold start, the bar the middle half, the tick the median. Separate clusters of dots have different "
        "causes (an image pulled, a probe's period), and a median between them describes neither.",
        "cold",
        specs.cold(),
        _cold_sql(runs),
        (*_PANEL, "what", "ms", "low", "high"),
        height=0,
        legend=NO_LEGEND,
    )
    yield Chart(
        "phases",
        "Phases of proven cold starts",
        "Each bar is the mean time to the first byte, divided at the platform's own points. Work on the widest part: "
        "before the instance is created it is the autoscaler, up to containers started the node and the image, up to "
        "ready the function and its probes, after that the proxies and the response.",
        "phases",
        specs.phases(present),
        _phases_sql(runs),
        (*_PANEL, "phase", "ms", "p50", "p90", "starts", "error"),
        height=0,
        wide=True,
        legend=NO_LEGEND,
    )
    yield Chart(
        "waterfall",
        "One cold start, step by step",
        "The median proven cold start of each language. A step begins where the one before it ends; a step as short as "
        "the error (in the tooltip) may lie anywhere within it.",
        "waterfall",
        specs.waterfall(present),
        _phases_sql(runs),
        (*_PANEL, "phase", "start", "begin", "end", "ms", "error"),
        height=180,
        legend=NO_LEGEND,
    )


def failure_charts(answers: Answers) -> Iterable[Chart]:
    """How arrivals ended."""
    yield Chart(
        "outcomes",
        "How the measured arrivals ended",
        "Any colour but that of 2xx is a loss. Refused connections and 503s mean a full system, timeouts a stuck one, "
        "dropped arrivals the generator's own limit.",
        "outcomes",
        _specs(answers).outcomes(),
        _outcomes_sql(_compared(answers)),
        (*_PANEL, "outcome", "arrivals", "share"),
        height=0,
        legend=OUTCOME,
    )


def time_charts(answers: Answers) -> Iterable[Chart]:
    """Latency and rates of each run over time."""
    specs = _specs(answers)
    widths = {
        each.run.id: int(max(line.width_s for line in each.timelines) * 1000) for each in answers.data if each.timelines
    }
    yield Chart(
        "latency",
        "TTFB over time",
        "Solid is p50, dashed p99, one line per run; grey lines are invalid or incomplete runs. The shaded part is "
        "the ramp, which enters no figure; triangles are cold requests. A line that rises to the right has not "
        "settled: the run was too short or the load too high.",
        "timeline",
        specs.latency(),
        _timeline_sql(widths),
        (*_RUN, "t", "p50", "p99"),
        height=200,
        also=("cold_marks", "ramps"),
    )
    yield Chart(
        "throughput",
        "Throughput over time",
        "The dotted line is the plan, the solid line the answers, the red area failed and dropped arrivals. A gap "
        "between line and plan without red was not sent by the generator.",
        "timeline",
        specs.throughput(),
        _timeline_sql(widths),
        (*_RUN, "t", "ok", "lost", "planned"),
        height=200,
        also=("ramps",),
    )
    yield Chart(
        "heat",
        "Latency heat map",
        "Most answers are in the bright cells. Two bright bands are two populations; a vertical smear is a stall of "
        "all requests at once; a slope is a growing queue.",
        "heat",
        specs.heat(),
        _heat_sql(widths, HEAT_PER_DECADE),
        (*_PANEL, "t", "end", "low", "high", "per_s"),
        height=220,
        legend=NO_LEGEND,
    )


def eventing_charts(answers: Answers) -> Iterable[Chart]:
    """Delays and rates of event delivery."""
    specs, runs = _specs(answers), _listed(run.id for run in answers.runs)
    delays, rates = (sql.replace("= :id", f"IN ({runs})") + ";" for sql in (DELAYS_SQL, RATES_SQL))
    yield Chart(
        "delays",
        "Delay of delivery",
        "From the request to the first receipt, a curve for each trigger. A curve that ends below 100 % lost the "
        "rest; a long foot is a queue.",
        "delivery",
        specs.delays(),
        delays,
        (*_RUN, "trigger", "share", "ms"),
        half=True,
    )
    yield Chart(
        "delivery_rates",
        "Sent and received over time",
        "The receipts of each trigger should match the events sent (without named triggers: a multiple of them); "
        "receipts after the last event are a backlog.",
        "delivery_rates",
        specs.delivery_rates(),
        rates,
        (*_RUN, "trigger", "what", "t", "per_s"),
        half=True,
        legend=NO_LEGEND,
    )


def cluster_charts(answers: Answers) -> Iterable[Chart]:
    """Autoscaling, nodes and pods below the latency of each run."""
    spec, runs = _specs(answers).series(), [run.id for run in answers.runs]
    see = (
        "Where desired is above ready, requests wait for pods; pending pods wait for a node, running ones for their "
        "first successful probe. Desired that lags behind the load is the autoscaler's window."
    )
    autoscaling = ("scaling", "Autoscaling and latency", see, "scaling", spec, _scaling_sql(runs))
    see = (
        "On one time axis: does latency rise when replicas are few, or when a node's CPU is at its limit? Replicas "
        "that lag behind the load are the autoscaler's."
    )
    usage = ("machines", "Nodes, pods and latency", see, "machines", spec, _usage_sql(runs, answers.usage_columns))
    columns = (*_RUN, "metric", "name", "t", "value")
    for chart in (autoscaling, usage):
        yield Chart(*chart, columns, height=110, wide=True, rows="metric", legend=NAMES)


def _specs(answers: Answers) -> ChartSpecs:
    return ChartSpecs(languages_of(answers))


def _compared(answers: Answers) -> list[int]:
    return [sample.run.id for group in answers.groups for sample in group.samples]


_ARRIVALS = """WITH answers AS (  -- ms is infinite for failed and dropped arrivals
  SELECT r.experiment_id AS run, e.mode,
         {language} AS language,
         iif(r.ok AND r.ttfb IS NOT NULL, r.ttfb, 9e999) AS ms,
         CASE WHEN NOT r.ok OR r.ttfb IS NULL THEN NULL
              WHEN r.is_cold THEN 'cold' WHEN NOT r.is_cold THEN 'warm' ELSE 'unknown' END AS temperature
  FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
  WHERE e.id IN ({runs})
),
counts AS (
  SELECT run, language, max(mode) AS mode, total(temperature = 'cold') AS cold, total(temperature = 'warm') AS warm,
         total(temperature = 'unknown') AS unknown
  FROM answers GROUP BY run, language
),
homes AS (  -- the temperature of an arrival without an answer
  SELECT run, language, CASE WHEN mode = 'cold-start' THEN 'cold' WHEN unknown >= max(warm, cold) THEN 'unknown'
                             WHEN warm >= cold THEN 'warm' ELSE 'cold' END AS home
  FROM counts
),
arrivals AS (
  SELECT run, language, coalesce(temperature, home) AS temperature, ms FROM answers JOIN homes USING (run, language)
),
ranked AS (
  SELECT *, row_number() OVER (PARTITION BY run, language, temperature ORDER BY ms) AS rank,
         count(*) OVER (PARTITION BY run, language, temperature) AS n
  FROM arrivals
)"""

_AT = "max(1, CAST(q * n - 1e-9 AS INTEGER) + (q * n - 1e-9 > CAST(q * n - 1e-9 AS INTEGER)))"

_PLACED = """WITH widths (run, width_ms) AS (VALUES {widths}),
starts AS (
  SELECT experiment_id AS run, min(timestamp) AS start FROM requests WHERE experiment_id IN ({runs}) GROUP BY 1
),
placed AS (  -- at_ms counts from the start of the measure phase and is negative in the ramp
  SELECT r.experiment_id AS run, {language} AS language, width_ms, r.ttfb, r.is_cold, r.error_kind,
         r.ok AND r.ttfb IS NOT NULL AS good,
         CAST(round(86400 * (julianday(substr(r.timestamp, 1, 19)) - julianday(substr(start, 1, 19)))) AS INT) * 1000
           + CAST(substr(r.timestamp, 21, 3) AS INTEGER) - CAST(substr(start, 21, 3) AS INTEGER) AS at_ms
  FROM results AS r JOIN experiments AS e ON e.id = r.experiment_id
  JOIN starts ON starts.run = e.id JOIN widths ON widths.run = e.id
  WHERE r.phase IN ('ramp', 'measure')
),
binned AS (
  SELECT *, (at_ms - (at_ms % width_ms + width_ms) % width_ms) / 1000.0 AS t FROM placed
)"""


def _curves_sql(runs: Iterable[int]) -> str:
    """Quantiles of TTFB of each run at `CURVE_SHARES`."""
    shares = ", ".join(f"({share!r})" for share in CURVE_SHARES)
    return f"""{_arrivals(runs)},
shares (q) AS (VALUES {shares})
SELECT run, language, temperature, q AS share, ms
FROM ranked JOIN shares ON rank = {_AT}
ORDER BY run, language, temperature, q;"""


def _figures_sql(runs: Iterable[int]) -> str:
    """p50, p99 and the share of lost arrivals of each run."""
    return f"""{_arrivals(runs)}
SELECT run, language, temperature,
       max(iif(rank = {_AT.replace("q", "0.5")}, ms, 0)) AS p50,
       max(iif(rank = {_AT.replace("q", "0.99")}, ms, 0)) AS p99,
       avg(ms = 9e999) AS lost, max(n) AS arrivals
FROM ranked GROUP BY run, language, temperature ORDER BY run, language, temperature;"""


def _timeline_sql(widths_ms: Mapping[int, int]) -> str:
    """Rates and latency of each run over time."""
    return f"""{_placed(widths_ms)},
ranked AS (
  SELECT run, language, t, ttfb, row_number() OVER (PARTITION BY run, language, t ORDER BY ttfb) AS rank,
         count(*) OVER (PARTITION BY run, language, t) AS n
  FROM binned WHERE good
),
latency AS (
  SELECT run, language, t, max(iif(rank = {_AT.replace("q", "0.5")}, ttfb, 0)) AS p50,
         max(iif(rank = {_AT.replace("q", "0.99")}, ttfb, 0)) AS p99
  FROM ranked GROUP BY run, language, t
)
SELECT run, language, t, p50, p99, sum(good) * 1000.0 / width_ms AS ok,
       sum(NOT good) * 1000.0 / width_ms AS lost, sum(good AND is_cold IS 1) AS cold
FROM binned LEFT JOIN latency USING (run, language, t)
GROUP BY run, language, t ORDER BY run, language, t;"""


def _heat_sql(widths_ms: Mapping[int, int], per_decade: int) -> str:
    """The number of answers in each interval of time and latency."""
    return f"""-- a level begins at 10^(level / {per_decade} - 2) ms
{_placed(widths_ms)}
SELECT run, language, t,
       CAST((log10(max(ttfb, 0.01)) + 2) * {per_decade} + 1e-9 AS INTEGER) AS level,
       count(*) AS answers
FROM binned WHERE good GROUP BY run, language, t, level ORDER BY run, language, t, level;"""


def _outcomes_sql(runs: Iterable[int]) -> str:
    """How arrivals ended."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language,
       coalesce(r.error_kind, r.status) AS outcome, count(*) AS arrivals
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE e.id IN ({_listed(runs)}) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;"""


def _cold_sql(runs: Iterable[int]) -> str:
    """Every cold start."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language, r.ttfb AS ms
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.ok AND r.is_cold = 1 AND e.id IN ({_listed(runs)}) ORDER BY run, language, ms;"""


def _phases_sql(runs: Iterable[int]) -> str:
    """Every phase of every proven cold start."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language, r.seq, r.phase, r.begin, r."end", r.ms,
       r.error, r.grid
FROM cold_start_phases AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.cold_proven = 1 AND e.id IN ({_listed(runs)}) ORDER BY run, language, r.seq, r.number;"""


def _achieved_sql(runs: Iterable[int]) -> str:
    """Planned and sent arrivals."""
    return f"""SELECT id AS run, language, rps, planned, sent, 1.0 * sent / planned AS share, duration
FROM experiments WHERE id IN ({_listed(runs)}) ORDER BY id;"""


def _usage_sql(runs: Iterable[int], columns: Mapping[str, set[str]]) -> str:
    """Readings of nodes and pods; the SQL of latency is that of the charts over time."""
    parts = [
        f"SELECT '{kind}' AS kind, * FROM ({usage_sql(columns[table], table)})"
        for kind, table in (("node", "node_metrics"), ("pod", "pod_metrics"))
        if columns.get(table)
    ]
    return (
        f"-- shown from half a minute before to half a minute after each of the runs {_listed(runs)}\n"
        "-- (of two sources the kubelets')\n" + "\nUNION ALL\n".join(parts) + "\nORDER BY at, kind, name, part;"
    )


def _scaling_sql(runs: Iterable[int]) -> str:
    """Pods and scales; a row holds until the next one of its revision."""
    return f"""-- shown from half a minute before to half a minute after each of the runs {_listed(runs)}
SELECT timestamp, namespace, service, revision, desired, actual, NULL AS pending, NULL AS running, NULL AS ready,
       NULL AS terminating FROM scales
UNION ALL
SELECT timestamp, namespace, service, revision, NULL, NULL, pending, running, ready, terminating FROM replicas
ORDER BY 1, 2, 3, 4;"""


def language_sql() -> str:
    """The language of a request, from its run or from the name of its target."""
    spellings = languages.spellings()
    cases = [f"WHEN e.language = '{word}' THEN '{name}'" for word, name in spellings.items() if word != name]
    cases.append(f"WHEN e.language != '{languages.ALL}' THEN e.language")
    cases += [f"WHEN r.target LIKE '%-{word}-%' THEN '{name}'" for word, name in spellings.items()]
    return "\n              ".join(["CASE", *cases, "ELSE 'unknown' END"])


def _arrivals(runs: Iterable[int]) -> str:
    return _ARRIVALS.format(language=language_sql(), runs=_listed(runs))


def _placed(widths_ms: Mapping[int, int]) -> str:
    pairs = ", ".join(f"({run}, {width})" for run, width in sorted(widths_ms.items()))
    return _PLACED.format(language=language_sql(), runs=_listed(widths_ms), widths=pairs)


def _listed(runs: Iterable[int]) -> str:
    return ", ".join(str(run) for run in sorted(set(runs)))
