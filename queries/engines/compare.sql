-- Scenarios of the stage `sim` that differ in their scheduler and their load: a row each. `engine` is the scheduler;
-- `kv_used` the mean share of the KV blocks in use.
SELECT
    sim.rate_rps,
    sim.deployment_scheduler AS engine,
    sim.ttft_ms_p50,
    sim.ttft_ms_p99,
    sim.tpot_ms_p50,
    sim.tpot_ms_p99,
    sim.e2e_ms_p50,
    sim.output_tps,
    sim.preemptions,
    sim.prefix_hit_rate AS hit_rate,
    sim.kv_usage_mean AS kv_used
FROM sim
ORDER BY rate_rps, engine
