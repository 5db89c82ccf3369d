-- The stages `sim_short`, `sim_middle` and `sim_long`: a row per prompt length and split of the GPUs into prefill and decode
-- replicas (`8` for whole ones). `goodput` is the share of the requests with a first token within a second and half a second
-- per thousand prompt tokens, and 40 ms per token after it.
WITH scenarios AS (
    SELECT 'short' AS prompts, * FROM (SELECT scenario_id, deployment_pools_prefill_replicas AS p, deployment_pools_decode_replicas AS d, ttft_ms_p50, ttft_ms_p99, itl_ms_p99, tpot_ms_p99, transferring_mean FROM sim_short)
    UNION ALL
    SELECT 'middle' AS prompts, * FROM (SELECT scenario_id, deployment_pools_prefill_replicas AS p, deployment_pools_decode_replicas AS d, ttft_ms_p50, ttft_ms_p99, itl_ms_p99, tpot_ms_p99, transferring_mean FROM sim_middle)
    UNION ALL
    SELECT 'long' AS prompts, * FROM (SELECT scenario_id, deployment_pools_prefill_replicas AS p, deployment_pools_decode_replicas AS d, ttft_ms_p50, ttft_ms_p99, itl_ms_p99, tpot_ms_p99, transferring_mean FROM sim_long)
),
requests AS (
    SELECT 'short' AS prompts, scenario_id, input_tokens, ttft_ns, tpot_ns, kv_transfer_ns FROM sim_short_requests
    UNION ALL
    SELECT 'middle' AS prompts, scenario_id, input_tokens, ttft_ns, tpot_ns, kv_transfer_ns FROM sim_middle_requests
    UNION ALL
    SELECT 'long' AS prompts, scenario_id, input_tokens, ttft_ns, tpot_ns, kv_transfer_ns FROM sim_long_requests
),
per_scenario AS (
    SELECT
        prompts,
        scenario_id,
        avg(input_tokens) AS prompt_tokens,
        avg(CASE WHEN ttft_ns <= 1000000000 + 500000 * input_tokens AND (tpot_ns IS NULL OR tpot_ns <= 40000000) THEN 1 ELSE 0 END) AS goodput,
        ms(avg(kv_transfer_ns)) AS kv_transfer_ms_mean
    FROM requests
    GROUP BY prompts, scenario_id
)
SELECT
    s.prompts,
    round(r.prompt_tokens) AS prompt_tokens,
    CASE WHEN s.p IS NULL THEN '8' ELSE concat(s.p, '+', s.d) END AS split,
    s.ttft_ms_p50,
    s.ttft_ms_p99,
    s.tpot_ms_p99,
    s.itl_ms_p99,
    r.goodput,
    r.kv_transfer_ms_mean
FROM scenarios s JOIN per_scenario r ON r.prompts = s.prompts AND r.scenario_id = s.scenario_id
ORDER BY prompt_tokens, s.scenario_id
