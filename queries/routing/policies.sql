-- Scenarios of the stage `sim` that differ in their router: a row each, the quickest p99 first. `hit_rate` is the share of
-- the prompt tokens found in prefix caches. `imbalance` is the work of the busiest replica over that of the mean one: prompt
-- tokens computed, and tokens generated, of all requests.
WITH replicas AS (
    SELECT scenario_id, replica, sum(input_tokens - cached_tokens + output_tokens) AS tokens
    FROM sim_requests
    GROUP BY scenario_id, replica
),
balance AS (
    SELECT scenario_id, max(tokens) * max(engines) / sum(tokens) AS imbalance
    FROM (
        SELECT replicas.scenario_id, replicas.tokens, CAST(sim.deployment_replicas AS DOUBLE) AS engines
        FROM replicas JOIN sim ON sim.scenario_id = replicas.scenario_id
    )
    GROUP BY scenario_id
)
SELECT
    sim.deployment_router AS policy,
    sim.ttft_ms_mean,
    sim.ttft_ms_p50,
    sim.ttft_ms_p99,
    sim.e2e_ms_p99,
    sim.prefix_hit_rate AS hit_rate,
    balance.imbalance
FROM sim JOIN balance ON balance.scenario_id = sim.scenario_id
ORDER BY sim.ttft_ms_p99, sim.scenario_id
