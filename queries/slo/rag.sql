-- Retrieval: first token within 300 ms, 100 ms per token, all within 3 s (GuideLLM's objective, for 99 %).
-- A reply of one token has no time per output token and meets any; a request without an answer meets nothing.
SELECT
    scenario_id,
    count(*) AS requests,
    slo_attainment(ms(ttft_ns) <= 300 AND coalesce(ms(tpot_ns), 0) <= 100 AND ms(e2e_ns) <= 3000) AS attainment,
    goodput(ms(ttft_ns) <= 300 AND coalesce(ms(tpot_ns), 0) <= 100 AND ms(e2e_ns) <= 3000, arrival_ns, finished_ns) AS goodput_rps
FROM sim_requests
WHERE measured
GROUP BY scenario_id
ORDER BY scenario_id
