-- Fraction of the requests that meet the usual objectives (GuideLLM's), per scenario.
SELECT
    scenario_id,
    slo_attainment(ms(ttft_ns) <= 200 AND coalesce(ms(tpot_ns), 0) <= 50) AS chat,
    slo_attainment(ms(ttft_ns) <= 300 AND coalesce(ms(tpot_ns), 0) <= 100 AND ms(e2e_ns) <= 3000) AS rag,
    slo_attainment(ms(ttft_ns) <= 500 AND coalesce(ms(tpot_ns), 0) <= 150) AS code,
    slo_attainment(ms(e2e_ns) <= 2000) AS completion
FROM sim_requests
WHERE measured
GROUP BY scenario_id
