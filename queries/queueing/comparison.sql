-- Clusters of the queueing stage `versus` at equal loads: a row per load and layout, the quickest p99 of each load first.
-- `ttft_to_best` says how many times the best p99 of the load it takes. Occupancy is the share of the GPU time for which
-- GPUs were held; the busier of two kinds is the bottleneck.
SELECT
    arrival_rate_per_s,
    CASE WHEN mode = 'mono' THEN concat('mono ', num_gpus) ELSE concat('disagg ', prefill_gpus, '+', decode_gpus) END AS layout,
    gpus,
    num_samples,
    1000 * mean_ttft_s AS ttft_ms_mean,
    1000 * p50_ttft_s AS ttft_ms_p50,
    1000 * p99_ttft_s AS ttft_ms_p99,
    p99_ttft_s / min(p99_ttft_s) OVER (PARTITION BY arrival_rate_per_s, gpus) AS ttft_to_best,
    throughput_rps,
    1000 * p99_e2e_s AS e2e_ms_p99,
    occupancy_gpu,
    occupancy_prefill,
    occupancy_decode
FROM versus
ORDER BY arrival_rate_per_s, p99_ttft_s, scenario_id
