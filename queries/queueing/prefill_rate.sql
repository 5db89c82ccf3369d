-- The queueing stage `by_prefill_rate`: a row per kind of cluster, load and speed of prefill. `gain` is the p99 at the
-- slowest prefill over the p99 of the row: a speed-up of the prefill that queues do not pass on is lost in the decode.
WITH speeds AS (
    SELECT
        mode,
        arrival_rate_per_s,
        CASE WHEN mode = 'mono' THEN deployment_queueing_cluster_mono_prefill_tokens_per_s
             ELSE deployment_queueing_cluster_disagg_prefill_tokens_per_s END AS prefill_tokens_per_s,
        mean_ttft_s, p50_ttft_s, p99_ttft_s
    FROM by_prefill_rate
)
SELECT
    mode,
    arrival_rate_per_s,
    prefill_tokens_per_s,
    1000 * mean_ttft_s AS ttft_ms_mean,
    1000 * p50_ttft_s AS ttft_ms_p50,
    1000 * p99_ttft_s AS ttft_ms_p99,
    first_value(p99_ttft_s) OVER (PARTITION BY mode, arrival_rate_per_s ORDER BY prefill_tokens_per_s) / p99_ttft_s AS gain
FROM speeds
ORDER BY mode, arrival_rate_per_s, prefill_tokens_per_s
