-- Cold starts under load: bursts of requests at zero, and instances started for them.

-- A line `cold_burst` of the log: `requests` arrivals from `seq` on were sent at once. Times in ms.
CREATE TABLE cold_bursts (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    shard         INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    requests      INTEGER NOT NULL,
    timestamp     TEXT,
    target        TEXT,
    source        TEXT,
    zero          INTEGER,
    zero_for      REAL,
    waited        REAL
);
CREATE UNIQUE INDEX cold_bursts_once ON cold_bursts (experiment_id, shard, seq);

-- An instance between the send and the next zero. Points are ms since the send; NULL is not observed.
CREATE TABLE cold_burst_instances (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    shard         INTEGER NOT NULL,
    seq           INTEGER NOT NULL, -- the burst's
    instance      TEXT NOT NULL,
    created       REAL,
    ready         REAL,
    gone          REAL,
    error         REAL
);
CREATE UNIQUE INDEX cold_burst_instances_once ON cold_burst_instances (experiment_id, shard, seq, instance);

-- Each request of a burst: `wait` is its time until the instance that answered it was ready, 0 when that was ready
-- before, and NULL without an answer or an observation of the instance.
CREATE VIEW cold_burst_requests AS
SELECT b.experiment_id, b.shard, b.seq AS burst, b.target, r.seq, r.status, r.ok, r.ttfb, r.instance,
       iif(r.ttfb IS NULL, NULL, min(max(i.ready, 0), r.ttfb)) AS wait
FROM cold_bursts AS b
JOIN results AS r ON r.experiment_id = b.experiment_id AND r.shard = b.shard
                 AND r.seq BETWEEN b.seq AND b.seq + b.requests - 1
LEFT JOIN cold_burst_instances AS i ON i.experiment_id = b.experiment_id AND i.shard = b.shard AND i.seq = b.seq
                                   AND i.instance = r.instance;

-- The cost of each burst. `needed` instances answered at least one of its requests, `overshoot` is the number of others
-- that were started; `wasted_s` are the seconds of these, `instance_s` those of all. Both are NULL unless every instance
-- was observed from its creation to its end.
CREATE VIEW cold_burst_costs AS
WITH lives AS (
    SELECT i.*, EXISTS (SELECT 1 FROM results AS r
                        WHERE r.experiment_id = i.experiment_id AND r.shard = i.shard AND r.instance = i.instance
                          AND r.seq BETWEEN b.seq AND b.seq + b.requests - 1) AS needed
    FROM cold_burst_instances AS i JOIN cold_bursts AS b USING (experiment_id, shard, seq)
),
costs AS (
    SELECT experiment_id, shard, seq, count(*) AS started, sum(needed) AS needed, sum(NOT needed) AS overshoot,
           iif(count(gone - created) = count(*), sum(gone - created) / 1000, NULL) AS instance_s,
           iif(count(gone - created) = count(*), total(iif(needed, 0, gone - created)) / 1000, NULL) AS wasted_s
    FROM lives GROUP BY experiment_id, shard, seq
),
waits AS (
    SELECT experiment_id, shard, burst AS seq, sum(ok) AS ok, sum(wait > 0) AS waiting, sum(wait IS NULL) AS unknown,
           avg(wait) AS wait_mean, max(wait) AS wait_max
    FROM cold_burst_requests GROUP BY experiment_id, shard, burst
)
SELECT b.experiment_id, b.shard, b.seq, b.target, b.source, b.requests, w.ok, w.waiting, w.unknown, w.wait_mean, w.wait_max,
       coalesce(c.started, 0) AS started, coalesce(c.needed, 0) AS needed, coalesce(c.overshoot, 0) AS overshoot,
       c.instance_s, c.wasted_s
FROM cold_bursts AS b LEFT JOIN costs AS c USING (experiment_id, shard, seq)
LEFT JOIN waits AS w USING (experiment_id, shard, seq);
