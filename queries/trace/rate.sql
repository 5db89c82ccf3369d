-- Requests and tokens per second over the time of a trace, in 100 windows of equal length. Windows without requests are 0.
WITH span AS (
    SELECT greatest(max(arrival_ns) - min(arrival_ns), 1) AS ns, min(arrival_ns) AS from_ns FROM trace
),
counted AS (
    SELECT least((t.arrival_ns - s.from_ns) * 100 / s.ns, 99) AS window_no,
           count(*) AS requests,
           sum(t.input_tokens) AS input_tokens,
           sum(t.output_tokens) AS output_tokens
    FROM trace t CROSS JOIN span s
    WHERE t.arrival_ns IS NOT NULL
    GROUP BY window_no
)
SELECT w.window_no,
       s(w.window_no * s.ns / 100) AS from_s,
       coalesce(c.requests, 0) / s(s.ns) * 100 AS rate_rps,
       coalesce(c.input_tokens, 0) / s(s.ns) * 100 AS input_tps,
       coalesce(c.output_tokens, 0) / s(s.ns) * 100 AS output_tps
FROM (SELECT unnest(range(0, 100)) AS window_no) w
CROSS JOIN span s
LEFT JOIN counted c ON c.window_no = w.window_no
WHERE s.from_ns IS NOT NULL
ORDER BY w.window_no
