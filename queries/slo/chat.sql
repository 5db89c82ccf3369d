-- Chat: first token within 200 ms, then 50 ms per token (GuideLLM's objective, asked of 99 % of the requests).
-- A reply of one token has no time per output token and meets any; a request without an answer meets nothing.
SELECT
    scenario_id,
    count(*) AS requests,
    slo_attainment(ms(ttft_ns) <= 200 AND coalesce(ms(tpot_ns), 0) <= 50) AS attainment,
    goodput(ms(ttft_ns) <= 200 AND coalesce(ms(tpot_ns), 0) <= 50, arrival_ns, finished_ns) AS goodput_rps
FROM sim_requests
WHERE measured
GROUP BY scenario_id
ORDER BY scenario_id
