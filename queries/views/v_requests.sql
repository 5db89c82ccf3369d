-- Every request with times in milliseconds.
SELECT
    scenario_id, request_id, replica, pool, prefill_replica, status, measured, class, session_id, priority,
    s(arrival_ns) AS arrival_s,
    ms(queue_ns) AS queue_ms,
    ms(prefill_ns) AS prefill_ms,
    ms(kv_transfer_ns) AS kv_transfer_ms,
    ms(decode_ns) AS decode_ms,
    ms(ttft_ns) AS ttft_ms,
    ms(tpot_ns) AS tpot_ms,
    ms(e2e_ns) AS e2e_ms,
    ms(itl_ns_mean) AS itl_ms_mean,
    ms(itl_ns_max) AS itl_ms_max,
    ms(preempted_ns) AS preempted_ms,
    ms(prefill_preempted_ns) AS prefill_preempted_ms,
    CASE WHEN deadline_ns IS NOT NULL THEN coalesce(finished_ns <= deadline_ns, false) END AS deadline_met,
    input_tokens, output_tokens, cached_tokens, recomputed_tokens, preemptions
FROM sim_requests
