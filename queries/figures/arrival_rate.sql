-- title: Requests over the time of the trace
-- about: When does how much load come?
-- for: [ingest, synthesize, tokenize, transform]
-- needs: ["{of}"]
-- report: 1
-- kind: step
-- x: time_s
-- y: rate_rps
-- x_label: Time since the first arrival (s)
-- y_label: Arrivals (requests/s)

-- In 100 windows of equal length, of which the last one lasts until its end; none where all requests arrive at once, at
-- no rate.
WITH span AS (
    SELECT max(arrival_ns) - min(arrival_ns) AS ns, min(arrival_ns) AS from_ns FROM {of}
),
counted AS (
    SELECT least((t.arrival_ns - from_ns) * 100 / nullif(ns, 0), 99) AS k, count(*) AS requests
    FROM {of} t CROSS JOIN span
    WHERE t.arrival_ns IS NOT NULL
    GROUP BY k
)
SELECT w.k, s(w.k * ns) / 100 AS time_s, coalesce(c.requests, 0) / s(ns) * 100 AS rate_rps
FROM (SELECT unnest(range(0, 101)) AS k) w CROSS JOIN span LEFT JOIN counted c ON c.k = least(w.k, 99)
WHERE ns > 0
ORDER BY w.k
