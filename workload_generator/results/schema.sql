-- The database. Times are milliseconds, timestamps RFC 3339 in UTC, NULL is unknown.
--
-- The tables open with the columns of the original's database, in its order, so that queries for it still run; our
-- own columns follow. Such queries name `requests`, which is the measured part of `results`.

-- One run of one experiment, all its shards together. Counts are of the measure phase.
CREATE TABLE experiments (
    id                      INTEGER PRIMARY KEY,
    timestamp               TEXT,     -- when the run started
    language                TEXT,     -- of the functions; 'all' when there are several; in event mode, the destination
    scenario                TEXT,
    concurrency             INTEGER,  -- containerConcurrency, from the name
    rps                     NUMERIC,  -- from the name, else the experiment's
    requests_per_second     NUMERIC,  -- the experiment's, fractions kept
    duration                TEXT,     -- Go durations, here and below
    max_idle_conns          INTEGER,
    max_idle_conns_per_host INTEGER,
    idle_conn_timeout       TEXT,
    timeout                 TEXT,
    triggers                INTEGER,
    workers                 INTEGER,
    run_id                  TEXT,     -- NULL for the original's runs
    name                    TEXT,     -- the experiment's
    mode                    TEXT,     -- open, closed or cold-start
    prefix                  TEXT,
    seed                    INTEGER,
    config                  TEXT,     -- the resolved experiment as JSON
    config_sha256           TEXT,
    version                 TEXT,     -- of the generator
    platform                TEXT,
    shards                  INTEGER,  -- the number that the run has
    planned                 INTEGER,
    sent                    INTEGER,  -- ok + failed + missing
    ok                      INTEGER,
    failed                  INTEGER,
    dropped                 INTEGER,
    missing                 INTEGER,  -- started according to the last heartbeat, but without a result
    cold                    INTEGER,  -- responses of instances that had served none before
    complete                INTEGER,  -- 1 when the logs of all shards are there with their trailers
    verdict                 TEXT,     -- valid or invalid; NULL while it is unknown
    reasons                 TEXT      -- JSON array
);
CREATE UNIQUE INDEX experiments_by_run ON experiments (run_id);

-- Every result of every phase.
CREATE TABLE results (
    id            INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    timestamp     TEXT,             -- when the request started; in the original's logs, when it was logged
    status        INTEGER,          -- 0 without a response
    ttfb          REAL,
    total_time    REAL,
    is_cold       INTEGER,
    dns_time      REAL,
    connect_time  REAL,
    tls_time      REAL,
    error_message TEXT,
    event_id      TEXT,
    target        TEXT,
    seq           INTEGER,
    phase         TEXT NOT NULL DEFAULT 'measure',
    lag           REAL,             -- actual start − scheduled time
    error_kind    TEXT,
    reused        INTEGER,
    retries       INTEGER,
    bytes         INTEGER,
    stamp         TEXT,             -- source of the first byte's time: kernel or user
    instance      TEXT,
    shard         INTEGER,
    ok            INTEGER,          -- 1 for a complete response with an expected status
    segments      INTEGER           -- of the response; with more than one, a kernel stamp may be that of a later segment
);
CREATE UNIQUE INDEX results_once ON results (experiment_id, shard, seq); -- the original's have no seq

-- A log file, which is a shard of a run: how much of it was read, its origin, and its share of the counts.
CREATE TABLE shards (
    id            INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    shard         INTEGER NOT NULL,
    identity      TEXT NOT NULL UNIQUE, -- run_id/shard, or the SHA-256 of the first line for the original's logs
    format        TEXT NOT NULL,        -- workload-generator or original
    file          TEXT NOT NULL,
    offset        INTEGER NOT NULL,     -- bytes read, complete lines only
    lines         INTEGER NOT NULL,     -- lines read
    tail_sha256   TEXT NOT NULL,        -- of the last bytes before the offset
    rows          INTEGER NOT NULL,     -- results of all phases
    skipped_lines INTEGER NOT NULL,
    started       TEXT,
    host          TEXT,
    python        TEXT,
    cpu_limit     REAL,
    heartbeat     TEXT,                 -- the last one, JSON
    planned       INTEGER,
    sent          INTEGER,
    ok            INTEGER,
    failed        INTEGER,
    dropped       INTEGER,
    missing       INTEGER,
    cold          INTEGER,
    complete      INTEGER,
    verdict       TEXT,
    reasons       TEXT,
    counts        TEXT,                 -- the trailer's, all phases, JSON
    histograms    TEXT,                 -- the trailer's, JSON
    resources     TEXT,                 -- the trailer's, JSON
    clock_offset_ns   INTEGER,          -- event mode: lead of its clock over the event logger's,
    clock_half_rtt_ns INTEGER           -- plus or minus half a round trip
);
CREATE INDEX shards_by_experiment ON shards (experiment_id, shard);

-- What was observed in the cluster during a run: a line of an `…_environment.jsonl`, the columns named as its keys.
CREATE TABLE environment (
    run_id    TEXT NOT NULL,
    time      TEXT NOT NULL,
    event     TEXT NOT NULL, -- path
    service   TEXT,
    revision  TEXT,
    mode      TEXT,          -- of the ServerlessService: Proxy or Serve
    endpoints TEXT,          -- activator, pods or mixed
    path      TEXT,          -- activator or direct
    why       TEXT           -- the reason, when nothing could be observed
);
CREATE UNIQUE INDEX environment_once ON environment (run_id, ifnull(service, ''), time);

-- The original's table of this name.
CREATE VIEW requests AS SELECT * FROM results WHERE phase = 'measure';

-- Outcomes of the measured arrivals: a status, or a kind of error.
CREATE VIEW status_shares AS
SELECT experiment_id, status, error_kind, count(*) AS arrivals,
       1.0 * count(*) / sum(count(*)) OVER (PARTITION BY experiment_id) AS share
FROM requests
GROUP BY experiment_id, status, error_kind;

-- TTFB by nearest rank. A failed or dropped arrival ranks slower than any limit: a quantile among them is Inf.
CREATE VIEW ttfb_quantiles AS
SELECT experiment_id, max(arrivals) AS arrivals, sum(ttfb < 9e999) AS served,
       min(ttfb) AS min,
       max(iif(rank <= (arrivals * 25 + 99) / 100, ttfb, 0)) AS p25,
       max(iif(rank <= (arrivals * 50 + 99) / 100, ttfb, 0)) AS p50,
       max(iif(rank <= (arrivals * 75 + 99) / 100, ttfb, 0)) AS p75,
       max(iif(rank <= (arrivals * 90 + 99) / 100, ttfb, 0)) AS p90,
       max(iif(rank <= (arrivals * 99 + 99) / 100, ttfb, 0)) AS p99,
       max(iif(rank <= (arrivals * 999 + 999) / 1000, ttfb, 0)) AS p999,
       max(ttfb) AS max
FROM (
    SELECT experiment_id, ttfb,
           row_number() OVER (PARTITION BY experiment_id ORDER BY ttfb) AS rank,
           count(*) OVER (PARTITION BY experiment_id)                   AS arrivals
    FROM (SELECT experiment_id, coalesce(iif(ok, ttfb, NULL), 9e999) AS ttfb FROM requests)
)
GROUP BY experiment_id;

-- TTFB of the answered requests by the function's own answer whether its instance was cold; NULL is unknown.
CREATE VIEW ttfb_by_cold AS
SELECT experiment_id, target, is_cold, max(requests) AS requests, min(ttfb) AS min,
       max(iif(rank <= (requests * 50 + 99) / 100, ttfb, 0)) AS p50,
       max(iif(rank <= (requests * 90 + 99) / 100, ttfb, 0)) AS p90,
       max(iif(rank <= (requests * 99 + 99) / 100, ttfb, 0)) AS p99,
       max(ttfb) AS max, avg(ttfb) AS mean
FROM (
    SELECT experiment_id, target, is_cold, ttfb,
           row_number() OVER (PARTITION BY experiment_id, target, is_cold ORDER BY ttfb) AS rank,
           count(*) OVER (PARTITION BY experiment_id, target, is_cold)                   AS requests
    FROM requests
    WHERE ok AND ttfb IS NOT NULL
)
GROUP BY experiment_id, target, is_cold;

-- The known paths of a run's targets: the one at the first measured request, and each change after it.
CREATE VIEW observed_paths AS
SELECT e.id AS experiment_id, v.service, v.time, v.path
FROM environment AS v JOIN experiments AS e USING (run_id)
WHERE v.path IS NOT NULL
  AND EXISTS (SELECT 1 FROM json_each(iif(json_valid(e.config), e.config, '{}'), '$.targets')
              WHERE json_extract(value, '$.url') LIKE '%//' || v.service || '.%')
  AND v.time >= coalesce((
      SELECT max(time) FROM environment
      WHERE run_id = v.run_id AND service = v.service AND path IS NOT NULL AND time <= (
          SELECT timestamp FROM requests WHERE experiment_id = e.id ORDER BY shard, seq LIMIT 1)), '');

-- The measured arrivals by the second of their start.
CREATE VIEW throughput_by_second AS
SELECT experiment_id, substr(timestamp, 1, 19) AS second,
       sum(error_kind IS NOT 'dropped') AS sent,
       sum(ok) AS ok,
       sum(NOT ok AND error_kind IS NOT 'dropped') AS failed,
       sum(error_kind IS 'dropped') AS dropped,
       sum(is_cold IS 1) AS cold
FROM requests
GROUP BY experiment_id, substr(timestamp, 1, 19);
