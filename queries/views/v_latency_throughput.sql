-- The trade of latency for throughput: tokens per second of a GPU, and of a user, in every scenario.
SELECT
    v_throughput.scenario_id,
    v_throughput.gpus,
    output_tps_per_gpu,
    1000 / nullif(tpot_ms_p50, 0) AS output_tps_per_user,
    ttft_ms_p99
FROM v_throughput
JOIN v_latency ON v_latency.scenario_id = v_throughput.scenario_id
