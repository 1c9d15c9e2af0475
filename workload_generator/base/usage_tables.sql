-- Usage of nodes and pods: the original's columns first. A row is one sample of a node, or of a container of a pod.
-- cpu_usage and memory_usage are Kubernetes quantities (183632734n, 2663656Ki), the percentages are fractions of the
-- node's allocatable resources, timestamp is the time of the request, in UTC.
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
    sample_timestamp  TEXT, -- of the sample itself, which the metrics server repeats until it has a new one
    sample_window     REAL, -- seconds of the mean of the CPU usage
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

-- Missing samples: a missed tick, a request without a response, an interrupted watch.
CREATE TABLE metric_gaps (
    id        INTEGER PRIMARY KEY,
    timestamp TEXT NOT NULL,
    source    TEXT NOT NULL, -- metrics, kubelet, or watch
    subject   TEXT NOT NULL, -- nodes, pods, node <name>, or the watched kind
    ticks     INTEGER NOT NULL, -- without any sample; 0 when only a part is missing
    reason    TEXT NOT NULL
);
CREATE INDEX metric_gaps_by_time ON metric_gaps (timestamp);

-- The other tables come from watches: a row for each change, at the time of its arrival. With listed = 1 it may have
-- happened earlier: it was found in a list when the watch began, or after an interruption.
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

-- The number of pods of a revision in each state from then on.
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

-- The desired and the actual scale of Knative's autoscaler from then on; NULL is absent, -1 is Knative's unknown.
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
    transition TEXT, -- lastTransitionTime, by the cluster's clock
    listed     INTEGER NOT NULL
);
CREATE INDEX conditions_by_time ON conditions (timestamp, name);
