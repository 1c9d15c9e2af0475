"""The SQL that a chart shows below itself, for any SQLite shell: it gives the same numbers, and the tests prove it.

The report itself does not run it (see `request_rows`). Figures of several runs are medians over its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workload_generator.functions import languages
from workload_generator.results.report.nodes_and_pods import usage_sql
from workload_generator.results.report.samples import CURVE_SHARES

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


def curves(runs: Iterable[int]) -> str:
    """Quantiles of TTFB of each run at `CURVE_SHARES`."""
    shares = ", ".join(f"({share!r})" for share in CURVE_SHARES)
    return f"""{_arrivals(runs)},
shares (q) AS (VALUES {shares})
SELECT run, language, temperature, q AS share, ms
FROM ranked JOIN shares ON rank = {_AT}
ORDER BY run, language, temperature, q;"""


def figures(runs: Iterable[int]) -> str:
    """p50, p99 and the share of failed arrivals of each run."""
    return f"""{_arrivals(runs)}
SELECT run, language, temperature,
       max(iif(rank = {_AT.replace("q", "0.5")}, ms, 0)) AS p50,
       max(iif(rank = {_AT.replace("q", "0.99")}, ms, 0)) AS p99,
       avg(ms = 9e999) AS failed, max(n) AS arrivals
FROM ranked GROUP BY run, language, temperature ORDER BY run, language, temperature;"""


def timeline(widths_ms: Mapping[int, int]) -> str:
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
       sum(NOT good) * 1000.0 / width_ms AS failed, sum(good AND is_cold IS 1) AS cold
FROM binned LEFT JOIN latency USING (run, language, t)
GROUP BY run, language, t ORDER BY run, language, t;"""


def heat(widths_ms: Mapping[int, int], per_decade: int) -> str:
    """The number of answers in each interval of time and latency."""
    return f"""-- a level begins at 10^(level / {per_decade} - 2) ms
{_placed(widths_ms)}
SELECT run, language, t,
       CAST((log10(max(ttfb, 0.01)) + 2) * {per_decade} + 1e-9 AS INTEGER) AS level,
       count(*) AS answers
FROM binned WHERE good GROUP BY run, language, t, level ORDER BY run, language, t, level;"""


def outcomes(runs: Iterable[int]) -> str:
    """How arrivals ended."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language,
       coalesce(r.error_kind, r.status) AS outcome, count(*) AS arrivals
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE e.id IN ({listed(runs)}) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;"""


def cold(runs: Iterable[int]) -> str:
    """Every cold start."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language, r.ttfb AS ms
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.ok AND r.is_cold = 1 AND e.id IN ({listed(runs)}) ORDER BY run, language, ms;"""


def phases(runs: Iterable[int]) -> str:
    """Every phase of every proven cold start."""
    return f"""SELECT r.experiment_id AS run, {language_sql()} AS language, r.seq, r.phase, r.begin, r."end", r.ms,
       r.error, r.grid, r.ready
FROM cold_start_phases AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.cold_proven = 1 AND e.id IN ({listed(runs)}) ORDER BY run, language, r.seq, r.number;"""


def achieved(runs: Iterable[int]) -> str:
    """Planned and sent arrivals."""
    return f"""SELECT id AS run, language, rps, planned, sent, 1.0 * sent / planned AS share, duration
FROM experiments WHERE id IN ({listed(runs)}) ORDER BY id;"""


def usage(runs: Iterable[int], columns: Mapping[str, set[str]]) -> str:
    """Readings of nodes and pods; the SQL of latency is that of the charts over time."""
    parts = [
        f"SELECT '{kind}' AS kind, * FROM ({usage_sql(columns[table], table)})"
        for kind, table in (("node", "node_metrics"), ("pod", "pod_metrics"))
        if columns.get(table)
    ]
    return (
        f"-- shown from half a minute before to half a minute after each of the runs {listed(runs)}\n"
        "-- (of two sources the kubelets')\n" + "\nUNION ALL\n".join(parts) + "\nORDER BY at, kind, name, part;"
    )


def scaling(runs: Iterable[int]) -> str:
    """Pods and scales; a row holds until the next one of its revision."""
    return f"""-- shown from half a minute before to half a minute after each of the runs {listed(runs)}
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
    return _ARRIVALS.format(language=language_sql(), runs=listed(runs))


def _placed(widths_ms: Mapping[int, int]) -> str:
    pairs = ", ".join(f"({run}, {width})" for run, width in sorted(widths_ms.items()))
    return _PLACED.format(language=language_sql(), runs=listed(widths_ms), widths=pairs)


def listed(runs: Iterable[int]) -> str:
    """The ids of runs, in order, as SQL has them between brackets."""
    return ", ".join(str(run) for run in sorted(set(runs)))
