-- Usage of nodes and pods: the original's columns first. A row is one sample of a node, or of a container of a pod.
-- cpu_usage and memory_usage are as Kubernetes writes them (183632734n, 2663656Ki), the percentages fractions of the
-- node's allocatable, timestamp is when it was read, in UTC.
CREATE TABLE node_metrics (
    id                INTEGER PRIMARY KEY,
    node_name         TEXT NOT NULL,
    cpu_usage         TEXT,
    memory_usage      TEXT,
    cpu_percentage    REAL,
    memory_percentage REAL,
    timestamp         TEXT NOT NULL,
    cpu_millicores    REAL,
    memory_bytes      INTEGER,
    sample_timestamp  TEXT, -- the sample's own, which the metrics server repeats until it has a new one
    sample_window     REAL, -- seconds that its CPU usage is the mean of
    source            TEXT  -- metrics (metrics.k8s.io) or kubelet
);
CREATE INDEX node_metrics_by_time ON node_metrics (timestamp, node_name);

CREATE TABLE pod_metrics (
    id                INTEGER PRIMARY KEY,
    pod_name          TEXT NOT NULL,
    node_name         TEXT,
    container_name    TEXT,
    cpu_usage         TEXT,
    memory_usage      TEXT,
    cpu_percentage    REAL,
    memory_percentage REAL,
    timestamp         TEXT NOT NULL,
    namespace         TEXT, -- NULL for the original's
    cpu_millicores    REAL,
    memory_bytes      INTEGER,
    sample_timestamp  TEXT,
    sample_window     REAL,
    source            TEXT
);
CREATE INDEX pod_metrics_by_time ON pod_metrics (timestamp, pod_name);

-- What is not there: a tick that was missed, an answer that did not come, a watch that was interrupted.
CREATE TABLE metric_gaps (
    id        INTEGER PRIMARY KEY,
    timestamp TEXT NOT NULL,
    source    TEXT NOT NULL, -- metrics, kubelet, or watch
    subject   TEXT NOT NULL, -- nodes, pods, node <name>, or the kind that is watched
    ticks     INTEGER NOT NULL, -- that have nothing; 0 when only a part is missing
    reason    TEXT NOT NULL
);
CREATE INDEX metric_gaps_by_time ON metric_gaps (timestamp);

-- The rest comes from watches: a row for each change, at the moment when it was heard of. With listed = 1 it may have
-- happened earlier: it was there when watching began, or was found after an interruption.
CREATE TABLE pod_states (
    id        INTEGER PRIMARY KEY,
    timestamp TEXT NOT NULL,
    namespace TEXT NOT NULL,
    pod_name  TEXT NOT NULL,
    node_name TEXT,
    service   TEXT,
    revision  TEXT NOT NULL,
    state     TEXT NOT NULL, -- pending, running (not ready), ready, terminating, ended, gone
    listed    INTEGER NOT NULL
);
CREATE INDEX pod_states_by_time ON pod_states (timestamp, pod_name);

-- How many pods of a revision are in each state from then on.
CREATE TABLE replicas (
    id          INTEGER PRIMARY KEY,
    timestamp   TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    service     TEXT,
    revision    TEXT NOT NULL,
    pending     INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    ready       INTEGER NOT NULL,
    terminating INTEGER NOT NULL,
    listed      INTEGER NOT NULL
);
CREATE INDEX replicas_by_time ON replicas (timestamp, revision);

-- What Knative's autoscaler wants and has, from then on; NULL is not said, -1 is Knative's word for not known.
CREATE TABLE scales (
    id        INTEGER PRIMARY KEY,
    timestamp TEXT NOT NULL,
    namespace TEXT NOT NULL,
    service   TEXT,
    revision  TEXT NOT NULL,
    desired   INTEGER,
    actual    INTEGER,
    listed    INTEGER NOT NULL
);
CREATE INDEX scales_by_time ON scales (timestamp, revision);

CREATE TABLE conditions (
    id         INTEGER PRIMARY KEY,
    timestamp  TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    kind       TEXT NOT NULL, -- Revision or PodAutoscaler
    name       TEXT NOT NULL,
    service    TEXT,
    type       TEXT NOT NULL,
    status     TEXT NOT NULL, -- True, False, Unknown, or Deleted
    reason     TEXT,
    message    TEXT,
    transition TEXT, -- lastTransitionTime, of the cluster's clock
    listed     INTEGER NOT NULL
);
CREATE INDEX conditions_by_time ON conditions (timestamp, name);
