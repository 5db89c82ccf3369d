-- Code generation: first token within 500 ms, then 150 ms per token (GuideLLM's objective, for 99 %).
-- A reply of one token has no time per output token and meets any; a request without an answer meets nothing.
SELECT
    scenario_id,
    count(*) AS requests,
    slo_attainment(ms(ttft_ns) <= 500 AND coalesce(ms(tpot_ns), 0) <= 150) AS attainment,
    goodput(ms(ttft_ns) <= 500 AND coalesce(ms(tpot_ns), 0) <= 150, arrival_ns, finished_ns) AS goodput_rps
FROM sim_requests
WHERE measured
GROUP BY scenario_id
ORDER BY scenario_id
