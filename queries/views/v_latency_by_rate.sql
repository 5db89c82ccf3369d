-- Latency over load: the rate and the latencies of every scenario whose load has a rate.
SELECT sim.scenario_id, sim.rate_rps, sim.gpus, served, ttft_ms_p50, ttft_ms_p99, tpot_ms_p50, tpot_ms_p99, e2e_ms_p99
FROM sim
JOIN v_latency ON v_latency.scenario_id = sim.scenario_id
WHERE sim.rate_rps IS NOT NULL
