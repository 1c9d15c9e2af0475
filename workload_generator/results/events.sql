-- Receipts of events, and accounts of deliveries and losses.

-- One receipt; the original's columns first. A receipt that the receiver had to send twice is stored once.
CREATE TABLE events (
    event_id    TEXT,
    timestamp   TEXT,    -- when it arrived, by the receiver's clock
    trigger     TEXT,    -- NULL when events came without one
    instance    TEXT,    -- the receiver's; NULL for the original's
    attempt     INTEGER, -- number of times that the receiver sent the receipt
    sequence    TEXT,    -- the event's extension
    received_ns INTEGER  -- the timestamp as a number
);
CREATE UNIQUE INDEX events_once ON events (event_id, trigger, instance, received_ns);
CREATE INDEX results_by_event ON results (event_id) WHERE event_id IS NOT NULL;

-- The part of each events.csv, instances.csv and …_environment.jsonl that was read.
CREATE TABLE event_files (
    id            INTEGER PRIMARY KEY,
    identity      TEXT NOT NULL UNIQUE, -- SHA-256 of the first line after the header
    file          TEXT NOT NULL,
    offset        INTEGER NOT NULL,
    lines         INTEGER NOT NULL,
    tail_sha256   TEXT NOT NULL,
    rows          INTEGER NOT NULL,
    skipped_lines INTEGER NOT NULL
);

-- The reports of receiver instances: events received, refused and acknowledged so far, and the lead of its clock over
-- the event logger's, plus or minus half a round trip.
CREATE TABLE receiver_reports (
    instance     TEXT,
    timestamp    TEXT,
    received     INTEGER,
    refused      INTEGER,
    acknowledged INTEGER,
    offset_ns    INTEGER,
    half_rtt_ns  INTEGER,
    at_ns        INTEGER -- the timestamp as a number
);
CREATE UNIQUE INDEX receiver_reports_once ON receiver_reports (instance, timestamp);
CREATE INDEX receiver_clocks ON receiver_reports (instance, at_ns) WHERE offset_ns IS NOT NULL;

-- The last report of each receiver instance.
CREATE VIEW receivers AS
SELECT instance, timestamp, received, refused, acknowledged, offset_ns, half_rtt_ns
FROM (SELECT *, row_number() OVER (PARTITION BY instance ORDER BY received DESC, at_ns DESC) AS place
      FROM receiver_reports)
WHERE place = 1;

-- Every receipt with the lead of its receiver's clock at that time, and its error: between two reports interpolated, plus
-- or minus what the clock drifted from the one to the other; else that of the only report within an hour, plus or minus
-- 15 µs for each second in between (the frequency tolerance of RFC 5905). The lead is NULL further away, and 0 with an
-- unknown error for instances that never measured it.
CREATE VIEW clocked_events AS
SELECT e.*,
       CASE WHEN b.at_ns < a.at_ns
            THEN b.offset_ns + (a.offset_ns - b.offset_ns) * (1.0 * (e.received_ns - b.at_ns) / (a.at_ns - b.at_ns))
            ELSE coalesce(b.offset_ns, a.offset_ns, iif(e.is_measured, NULL, 0)) END AS lead_ns,
       iif(b.at_ns < a.at_ns, max(a.half_rtt_ns, b.half_rtt_ns) + abs(a.offset_ns - b.offset_ns),
           coalesce(b.half_rtt_ns, a.half_rtt_ns) + 15e-6 * abs(e.received_ns - coalesce(b.at_ns, a.at_ns))) AS lead_error_ns
FROM (
    SELECT *, EXISTS (SELECT 1 FROM receiver_reports c WHERE c.instance = events.instance AND offset_ns IS NOT NULL) AS is_measured,
           (SELECT rowid FROM receiver_reports c
            WHERE c.instance = events.instance AND offset_ns IS NOT NULL
              AND at_ns BETWEEN received_ns - 3600000000000 AND received_ns ORDER BY at_ns DESC LIMIT 1) AS earlier,
           (SELECT rowid FROM receiver_reports c
            WHERE c.instance = events.instance AND offset_ns IS NOT NULL
              AND at_ns BETWEEN received_ns + 1 AND received_ns + 3600000000000 ORDER BY at_ns LIMIT 1) AS later
    FROM events
) e
LEFT JOIN receiver_reports b ON b.rowid = e.earlier
LEFT JOIN receiver_reports a ON a.rowid = e.later;

-- Every receipt of a measured event, with its end-to-end delay in ms and the clocks' error (NULL: unknown).
CREATE VIEW deliveries AS
SELECT r.experiment_id, r.event_id, r.seq, r.ok AS acknowledged, coalesce(e.trigger, '') AS trigger, e.instance,
       r.timestamp AS sent, e.timestamp AS received, e.received_ns,
       (e.received_ns - r.sent_us * 1000 + coalesce(s.clock_offset_ns, 0) - e.lead_ns) / 1e6 AS delay,
       (e.lead_error_ns + s.clock_half_rtt_ns) / 1e6 AS delay_error
FROM clocked_events e
JOIN (
    SELECT *, CAST(strftime('%s', substr(timestamp, 1, 19)) AS INTEGER) * 1000000
              + CAST(substr(timestamp, 21, 6) AS INTEGER) AS sent_us
    FROM results WHERE phase = 'measure' AND event_id IS NOT NULL
) r ON r.event_id = e.event_id
LEFT JOIN shards s ON s.experiment_id = r.experiment_id AND s.shard = r.shard;

-- The triggers that delivered a run's events, and the deliveries of each event that are expected there: one. Receipts
-- without a trigger (the original's) stand for all triggers of the run that no receipt names.
CREATE VIEW event_triggers AS
SELECT t.experiment_id, t.trigger,
       iif(t.trigger = '', max(1, coalesce(x.triggers, 1) - sum(t.trigger <> '') OVER (PARTITION BY t.experiment_id)), 1)
           AS copies
FROM (
    SELECT DISTINCT r.experiment_id, coalesce(e.trigger, '') AS trigger
    FROM events e JOIN results r ON r.event_id = e.event_id AND r.phase = 'measure'
) t
JOIN experiments x ON x.id = t.experiment_id;

-- For each measured event and trigger: the number of deliveries, and the delay of the first.
CREATE VIEW event_fates AS
SELECT t.experiment_id, t.trigger, t.copies, r.event_id, r.seq, r.ok AS acknowledged, count(d.event_id) AS deliveries,
       min(d.delay) AS delay, min(d.received_ns) AS received_ns, max(d.delay_error) AS delay_error, r.timestamp AS sent
FROM event_triggers t
JOIN results r ON r.experiment_id = t.experiment_id AND r.phase = 'measure' AND r.event_id IS NOT NULL
LEFT JOIN deliveries d ON d.event_id = r.event_id AND d.experiment_id = r.experiment_id AND d.trigger = t.trigger
GROUP BY t.experiment_id, t.trigger, r.id;

-- Events that the sink acknowledged and that were delivered less often than expected; events delivered more often.
CREATE VIEW lost_events AS
SELECT experiment_id, trigger, event_id, seq, sent FROM event_fates WHERE acknowledged AND deliveries < copies;
CREATE VIEW duplicated_events AS
SELECT experiment_id, trigger, event_id, seq, deliveries FROM event_fates WHERE deliveries > copies;

-- For each receiver instance: events that it received, did not refuse and never recorded; they were lost when it died.
CREATE VIEW receiver_accounts AS
SELECT c.instance, c.received, c.refused, c.acknowledged, count(e.event_id) AS receipts,
       max(0, c.received - c.refused - count(e.event_id)) AS unaccounted
FROM receivers c LEFT JOIN events e ON e.instance = c.instance
GROUP BY c.instance;

-- Deliveries and losses of a run, by trigger. `lost` are acknowledged events that lack a delivery; up to `unaccounted` of
-- a run's losses (of all receivers that served it) may be those of a receiver and not of the broker. Delays are in ms;
-- lost events rank slower than any limit. `drain` is the time from the last send to the last delivery.
CREATE VIEW event_accounts AS
SELECT f.experiment_id, f.trigger, f.copies, count(*) AS sent, sum(f.acknowledged) AS acknowledged,
       sum(f.deliveries = f.copies) AS once,
       sum(f.acknowledged AND f.deliveries < f.copies) AS lost,
       sum(f.acknowledged * max(f.copies - f.deliveries, 0)) AS lost_deliveries,
       sum(f.deliveries > f.copies) AS duplicated,
       sum(max(f.deliveries - f.copies, 0)) AS extra_deliveries,
       sum(NOT f.acknowledged AND f.deliveries > 0) AS delivered_unacknowledged,
       sum(f.seq < f.highest) AS reordered,
       (SELECT sum(a.unaccounted) FROM receiver_accounts a WHERE a.instance IN (
           SELECT e.instance FROM events e JOIN results r ON r.event_id = e.event_id
           WHERE r.experiment_id = f.experiment_id)) AS unaccounted,
       min(f.delay) AS delay_min,
       max(iif(f.rank <= (f.known * 50 + 99) / 100, f.ranked, iif(f.known, 0, NULL))) AS delay_p50,
       max(iif(f.rank <= (f.known * 90 + 99) / 100, f.ranked, iif(f.known, 0, NULL))) AS delay_p90,
       max(iif(f.rank <= (f.known * 99 + 99) / 100, f.ranked, iif(f.known, 0, NULL))) AS delay_p99,
       max(f.delay) AS delay_max,
       max(f.delay_error) AS delay_error,
       (max(f.received_ns) - CAST(strftime('%s', substr(max(f.sent), 1, 19)) AS INTEGER) * 1000000000
           - CAST(substr(max(f.sent), 21, 6) AS INTEGER) * 1000) / 1e6 AS drain
FROM (
    SELECT *, row_number() OVER (PARTITION BY experiment_id, trigger ORDER BY ranked NULLS LAST) AS rank,
           count(ranked) OVER (PARTITION BY experiment_id, trigger) AS known
    FROM (
        SELECT *, coalesce(delay, iif(acknowledged AND deliveries = 0, 9e999, NULL)) AS ranked,
               max(iif(deliveries, seq, NULL)) OVER (
                   PARTITION BY experiment_id, trigger ORDER BY received_ns NULLS LAST
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ) AS highest
        FROM event_fates
    )
) f
GROUP BY f.experiment_id, f.trigger;

-- Deliveries by the second of their arrival.
CREATE VIEW deliveries_by_second AS
SELECT experiment_id, trigger, substr(received, 1, 19) AS second, count(*) AS deliveries
FROM deliveries
GROUP BY experiment_id, trigger, substr(received, 1, 19);
