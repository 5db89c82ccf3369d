-- Latency over load: the rate and the latencies of every scenario whose load has a rate.
SELECT
    scenario_id, rate_rps, gpus, measured_served AS served,
    ttft_ms_p50, ttft_ms_p99, tpot_ms_p50, tpot_ms_p99, e2e_ms_p99
FROM sim
WHERE rate_rps IS NOT NULL
