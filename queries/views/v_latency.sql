-- Latency of every scenario: median, 90th and 99th percentile of the requests that count.
SELECT
    scenario_id,
    measured_served AS served,
    ttft_ms_p50, ttft_ms_p90, ttft_ms_p99,
    tpot_ms_p50, tpot_ms_p90, tpot_ms_p99,
    e2e_ms_p50, e2e_ms_p90, e2e_ms_p99
FROM sim
