-- A row per share of cached prompts, rate and token budget.
WITH requests AS (
  SELECT '0 %' AS hits, s.rate_rps, s.deployment_scheduler_vllm_v1_max_num_batched_tokens AS mbnt,
    r.ttft_ns, r.tpot_ns, r.e2e_ns, r.arrival_ns
  FROM sim_0 s JOIN sim_0_requests r ON r.scenario_id = s.scenario_id
  UNION ALL
  SELECT '50 %', s.rate_rps, s.deployment_scheduler_vllm_v1_max_num_batched_tokens,
    r.ttft_ns, r.tpot_ns, r.e2e_ns, r.arrival_ns
  FROM sim_50 s JOIN sim_50_requests r ON r.scenario_id = s.scenario_id
  UNION ALL
  SELECT '90 %', s.rate_rps, s.deployment_scheduler_vllm_v1_max_num_batched_tokens,
    r.ttft_ns, r.tpot_ns, r.e2e_ns, r.arrival_ns
  FROM sim_90 s JOIN sim_90_requests r ON r.scenario_id = s.scenario_id
)
SELECT hits, rate_rps, mbnt, avg(ttft_ns / 1e6) AS ttft_ms_mean, avg(tpot_ns / 1e6) AS tpot_ms_mean,
  avg(e2e_ns / 1e6) AS e2e_ms_mean, quantile(e2e_ns, 0.5) / 1e6 AS e2e_ms_p50, quantile(e2e_ns, 0.99) / 1e6 AS e2e_ms_p99,
  count(*) * 1e9 / (max(arrival_ns + e2e_ns) - min(arrival_ns)) AS throughput_rps
FROM requests
GROUP BY hits, rate_rps, mbnt
ORDER BY hits, rate_rps, mbnt
