-- Cold starts: whether each is proven, and its phases.

-- A line `cold_start` of the log. Points are ms since the send on the generator's clock; NULL is not observed.
CREATE TABLE cold_starts (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    shard         INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    timestamp     TEXT,    -- of the send, or of giving it up
    target        TEXT,
    source        TEXT,    -- of the observation: local or kubernetes
    zero          INTEGER, -- 1 when there was no instance just before the send
    zero_for      REAL,    -- for how long there had been no instance
    waited        REAL,    -- for zero
    instance      TEXT,    -- that answered
    is_cold       INTEGER, -- the function's own answer
    cold_proven   INTEGER, -- NULL is unknown
    reason        TEXT,    -- why it is not proven
    scale         REAL,    -- the decision to have an instance
    created       REAL,
    scheduled     REAL,
    pulled        REAL,
    started       REAL,
    listening     REAL,
    queue_ready   REAL,
    ready         REAL,
    first_byte    REAL,
    error         REAL,    -- largest error of a point, ms
    errors        TEXT,    -- JSON object: the error of each point, ms
    grid          TEXT,    -- JSON array: points that are known to whole seconds only (1 s grid)
    clock_offset  REAL,    -- lead of the API server's clock over the generator's, ms; NULL: there is no other clock
    clock_error   REAL     -- its largest error, ms
);
CREATE UNIQUE INDEX cold_starts_once ON cold_starts (experiment_id, shard, seq);

-- The phases of each cold start in ms: they add up to the time to the first byte. A phase ends at the point of its name;
-- one that ends before another one began, within the clocks' error, counts as 0. A point that was not seen, or only after
-- the first byte, makes no phase: its time is part of the next one. In a cluster the activator probes the pod itself, and
-- does not wait until Kubernetes knows that the pod is ready: from `started` to the first byte is the phase
-- `application_start_and_probe`, with `ready` (ms since the send) beside it. `error` is that of the point.
CREATE VIEW cold_start_phases AS
WITH points AS (
    SELECT experiment_id, shard, seq, target, cold_proven, grid, n.key AS number, first_byte,
           iif(source = 'kubernetes' AND n.value = 'first_byte', 'application_start_and_probe', n.value) AS phase,
           iif(source = 'kubernetes' AND n.value = 'first_byte', ready, NULL) AS ready,
           coalesce(json_extract(errors, '$.' || n.value), error) AS error,
           CASE n.value WHEN 'scale' THEN scale WHEN 'created' THEN created WHEN 'scheduled' THEN scheduled
                        WHEN 'pulled' THEN pulled WHEN 'started' THEN started WHEN 'listening' THEN listening
                        WHEN 'queue_ready' THEN queue_ready WHEN 'ready' THEN ready ELSE first_byte END AS at
    FROM cold_starts, json_each('["scale","created","scheduled","pulled","started","listening","queue_ready","ready","first_byte"]') AS n
    WHERE source IS NOT 'kubernetes' OR n.value NOT IN ('queue_ready', 'ready')
),
reached AS (
    SELECT *, min(max(at, coalesce(max(at) OVER earlier, 0), 0), coalesce(first_byte, 9e999)) AS until
    FROM points WHERE at IS NOT NULL AND (first_byte IS NULL OR at - coalesce(error, 0) <= first_byte)
    WINDOW earlier AS (PARTITION BY experiment_id, shard, seq ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT experiment_id, shard, seq, target, cold_proven, phase, number,
       coalesce(lag(until) OVER steps, 0) AS begin, until AS end, until - coalesce(lag(until) OVER steps, 0) AS ms,
       error, ready, EXISTS (SELECT 1 FROM json_each(reached.grid) WHERE value = phase) AS grid
FROM reached
WINDOW steps AS (PARTITION BY experiment_id, shard, seq ORDER BY number);

-- The number of cold-start requests that are proven cold, by run and target; `skipped` were not sent: no zero before.
CREATE VIEW cold_start_proofs AS
SELECT experiment_id, target, count(*) AS requests, sum(cold_proven IS 1) AS proven, sum(cold_proven IS 0) AS refuted,
       sum(cold_proven IS NULL) AS unknown, sum(first_byte IS NULL AND instance IS NULL AND zero IS NOT 1) AS skipped,
       1.0 * sum(cold_proven IS 1) / count(*) AS share
FROM cold_starts
GROUP BY experiment_id, target;
