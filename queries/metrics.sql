-- What every scenario of the stage `sim` achieved: a row per scenario.
-- Latencies are those of requests that were served; quantiles are exact.
WITH served AS (
    SELECT
        scenario_id,
        ms(avg(ttft_ns)) AS ttft_ms_mean,
        ms(quantile(ttft_ns, 0.5)) AS ttft_ms_p50,
        ms(quantile(ttft_ns, 0.9)) AS ttft_ms_p90,
        ms(quantile(ttft_ns, 0.99)) AS ttft_ms_p99,
        ms(avg(tpot_ns)) AS tpot_ms_mean,
        ms(quantile(tpot_ns, 0.5)) AS tpot_ms_p50,
        ms(quantile(tpot_ns, 0.9)) AS tpot_ms_p90,
        ms(quantile(tpot_ns, 0.99)) AS tpot_ms_p99,
        ms(avg(e2e_ns)) AS e2e_ms_mean,
        ms(quantile(e2e_ns, 0.5)) AS e2e_ms_p50,
        ms(quantile(e2e_ns, 0.9)) AS e2e_ms_p90,
        ms(quantile(e2e_ns, 0.99)) AS e2e_ms_p99,
        ms(avg(queue_ns)) AS queue_ms_mean,
        ms(quantile(queue_ns, 0.5)) AS queue_ms_p50,
        ms(quantile(queue_ns, 0.9)) AS queue_ms_p90,
        ms(quantile(queue_ns, 0.99)) AS queue_ms_p99
    FROM sim_requests
    WHERE status = 'finished'
    GROUP BY scenario_id
)
SELECT
    sim.scenario_id,
    sim.deployment_model,
    sim.deployment_gpu,
    sim.deployment_tp,
    sim.deployment_replicas,
    sim.rate_rps,
    sim.gpus,
    sim.requests,
    sim.finished,
    sim.rejected,
    sim.preemptions,
    s(sim.duration_ns) AS duration_s,
    sim.request_rps,
    sim.output_tps,
    sim.output_tps / sim.gpus AS output_tps_per_gpu,
    ttft_ms_mean, ttft_ms_p50, ttft_ms_p90, ttft_ms_p99,
    tpot_ms_mean, tpot_ms_p50, tpot_ms_p90, tpot_ms_p99,
    sim.itl_ms_mean, sim.itl_ms_p50, sim.itl_ms_p90, sim.itl_ms_p99,
    e2e_ms_mean, e2e_ms_p50, e2e_ms_p90, e2e_ms_p99,
    queue_ms_mean, queue_ms_p50, queue_ms_p90, queue_ms_p99,
    CAST(sim.prefix_tokens_hit AS DOUBLE) / nullif(sim.prefix_tokens_queried, 0) AS cached_ratio,
    CAST(sim.kv_blocks_max AS DOUBLE) / nullif(sim.kv_blocks_total, 0) AS kv_used_ratio_max
FROM sim
LEFT JOIN served ON served.scenario_id = sim.scenario_id
ORDER BY sim.scenario_id
