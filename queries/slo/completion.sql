-- Code completion: the whole reply within 2 s (GuideLLM's objective, for 99 %).
-- A reply of one token has no time per output token and meets any; a request without an answer meets nothing.
SELECT
    scenario_id,
    count(*) AS requests,
    slo_attainment(ms(e2e_ns) <= 2000) AS attainment,
    goodput(ms(e2e_ns) <= 2000, arrival_ns, finished_ns) AS goodput_rps
FROM sim_requests
WHERE measured
GROUP BY scenario_id
ORDER BY scenario_id
