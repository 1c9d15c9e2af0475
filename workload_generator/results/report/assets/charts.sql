-- The statements of `chart_sql.py`, each behind its name. Words in braces are filled in there; others begin with
-- `arrivals` or `placed`.

-- # arrivals
WITH answers AS (  -- ms is infinite for failed and dropped arrivals
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
)

-- # placed
WITH widths (run, width_ms) AS (VALUES {widths}),
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
)

-- # curves
{arrivals},
shares (q) AS (VALUES {shares})
SELECT run, language, temperature, q AS share, ms
FROM ranked JOIN shares ON rank = {rank_of_q}
ORDER BY run, language, temperature, q;

-- # figures
{arrivals}
SELECT run, language, temperature,
       max(iif(rank = {rank_of_p50}, ms, 0)) AS p50,
       max(iif(rank = {rank_of_p99}, ms, 0)) AS p99,
       avg(ms = 9e999) AS failed, max(n) AS arrivals
FROM ranked GROUP BY run, language, temperature ORDER BY run, language, temperature;

-- # timeline
{placed},
ranked AS (
  SELECT run, language, t, ttfb, row_number() OVER (PARTITION BY run, language, t ORDER BY ttfb) AS rank,
         count(*) OVER (PARTITION BY run, language, t) AS n
  FROM binned WHERE good
),
latency AS (
  SELECT run, language, t, max(iif(rank = {rank_of_p50}, ttfb, 0)) AS p50,
         max(iif(rank = {rank_of_p99}, ttfb, 0)) AS p99
  FROM ranked GROUP BY run, language, t
)
SELECT run, language, t, p50, p99, sum(good) * 1000.0 / width_ms AS ok,
       sum(NOT good) * 1000.0 / width_ms AS failed, sum(good AND is_cold IS 1) AS cold
FROM binned LEFT JOIN latency USING (run, language, t)
GROUP BY run, language, t ORDER BY run, language, t;

-- # heat
-- a level begins at 10^(level / {per_decade} - 2) ms
{placed}
SELECT run, language, t,
       CAST((log10(max(ttfb, 0.01)) + 2) * {per_decade} + 1e-9 AS INTEGER) AS level,
       count(*) AS answers
FROM binned WHERE good GROUP BY run, language, t, level ORDER BY run, language, t, level;

-- # outcomes
SELECT r.experiment_id AS run, {language} AS language,
       coalesce(r.error_kind, r.status) AS outcome, count(*) AS arrivals
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE e.id IN ({runs}) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- # cold
SELECT r.experiment_id AS run, {language} AS language, r.ttfb AS ms
FROM requests AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.ok AND r.is_cold = 1 AND e.id IN ({runs}) ORDER BY run, language, ms;

-- # phases
SELECT r.experiment_id AS run, {language} AS language, r.seq, r.phase, r.begin, r."end", r.ms,
       r.error, r.grid, r.ready
FROM cold_start_phases AS r JOIN experiments AS e ON e.id = r.experiment_id
WHERE r.cold_proven = 1 AND e.id IN ({runs}) ORDER BY run, language, r.seq, r.number;

-- # achieved
SELECT id AS run, language, rps, planned, sent, 1.0 * sent / planned AS share, duration
FROM experiments WHERE id IN ({runs}) ORDER BY id;

-- # scaling
-- shown from half a minute before to half a minute after each of the runs {runs}
SELECT timestamp, namespace, service, revision, desired, actual, NULL AS pending, NULL AS running, NULL AS ready,
       NULL AS terminating FROM scales
UNION ALL
SELECT timestamp, namespace, service, revision, NULL, NULL, pending, running, ready, terminating FROM replicas
ORDER BY 1, 2, 3, 4;

-- # usage
-- shown from half a minute before to half a minute after each of the runs {runs}
-- (of two sources the kubelets')
{readings}
ORDER BY at, kind, name, part;
