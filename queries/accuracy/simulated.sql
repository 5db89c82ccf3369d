-- The requests of both simulations, with the settings of their scenarios.
SELECT 'chat' AS workload, s.deployment_model AS model, CAST(s.rate_rps AS BIGINT) AS rate_rps,
  s.deployment_scheduler_vllm_v1_max_num_batched_tokens AS mbnt, r.request_id, r.ttft_ns, r.tpot_ns, r.e2e_ns, r.arrival_ns
FROM sim_chat s JOIN sim_chat_requests r ON r.scenario_id = s.scenario_id
UNION ALL
SELECT 'summarization', s.deployment_model, CAST(s.rate_rps AS BIGINT),
  s.deployment_scheduler_vllm_v1_max_num_batched_tokens, r.request_id, r.ttft_ns, r.tpot_ns, r.e2e_ns, r.arrival_ns
FROM sim_summarization s JOIN sim_summarization_requests r ON r.scenario_id = s.scenario_id
ORDER BY workload, rate_rps, mbnt, request_id
