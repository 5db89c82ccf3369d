-- Decisions of the routers of the stage `sim`, by policy: how many tokens more than the candidate with the least before it
-- the chosen replica had. Routers do not know these backlogs: they hold the replies to come.
SELECT
    sim.deployment_router AS policy,
    count(*) AS decisions,
    avg(CASE WHEN r.regret_tokens = 0 THEN 1 ELSE 0 END) AS chose_the_least,
    avg(r.regret_tokens) AS regret_tokens_mean,
    quantile(r.regret_tokens, 0.99) AS regret_tokens_p99
FROM sim_routes r JOIN sim ON sim.scenario_id = r.scenario_id
WHERE r.chosen
GROUP BY sim.scenario_id, sim.deployment_router
ORDER BY regret_tokens_mean, sim.scenario_id
