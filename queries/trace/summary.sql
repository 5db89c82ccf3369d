-- A trace in one row: how many requests, over what time, how bursty, how long, of whom.
--
-- rate_rps      gaps between arrivals, over the time from the first arrival to the last
-- gap_cv        standard deviation of the gaps over their mean: 1 is Poisson, more is burstier
-- peak_rps      the fullest minute
-- NULL where the trace does not say (no arrivals, no sessions)
SELECT count(*) AS requests,
       s(max(arrival_ns) - min(arrival_ns)) AS span_s,
       count(gap_ns) / nullif(s(max(arrival_ns) - min(arrival_ns)), 0) AS rate_rps,
       sqrt(greatest(avg(gap_ns * gap_ns) / nullif(avg(gap_ns) * avg(gap_ns), 0) - 1, 0)) AS gap_cv,
       (SELECT max(n) / 60.0
        FROM (SELECT count(*) AS n FROM trace WHERE arrival_ns IS NOT NULL GROUP BY arrival_ns / 60000000000)) AS peak_rps,
       count(*) FILTER (WHERE gap_ns = 0) AS arrivals_tied,
       sum(input_tokens) AS input_tokens,
       avg(input_tokens) AS input_tokens_mean,
       quantile(input_tokens, 0.5) AS input_tokens_p50,
       quantile(input_tokens, 0.9) AS input_tokens_p90,
       quantile(input_tokens, 0.99) AS input_tokens_p99,
       max(input_tokens) AS input_tokens_max,
       sum(output_tokens) AS output_tokens,
       avg(output_tokens) AS output_tokens_mean,
       quantile(output_tokens, 0.5) AS output_tokens_p50,
       quantile(output_tokens, 0.9) AS output_tokens_p90,
       quantile(output_tokens, 0.99) AS output_tokens_p99,
       max(output_tokens) AS output_tokens_max,
       count(DISTINCT session_id) AS sessions,
       count(session_id) / nullif(CAST(count(DISTINCT session_id) AS DOUBLE), 0) AS turns_mean,
       count(DISTINCT client) AS clients,
       count(DISTINCT tenant) AS tenants,
       count(DISTINCT model) AS models,
       count(block_hashes) AS requests_hashed
FROM (SELECT *,
             CAST(arrival_ns - lag(arrival_ns) OVER (ORDER BY arrival_ns, request_id) AS DOUBLE) AS gap_ns
      FROM trace)
