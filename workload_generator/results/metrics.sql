-- Usage of nodes and pods: the original's columns first. A row is one reading of a node, or of a container of a pod.
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
