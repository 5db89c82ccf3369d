-- Every request with times in milliseconds.
SELECT
    scenario_id, request_id, replica, status, class, session_id,
    s(arrival_ns) AS arrival_s,
    ms(queue_ns) AS queue_ms,
    ms(ttft_ns) AS ttft_ms,
    ms(tpot_ns) AS tpot_ms,
    ms(e2e_ns) AS e2e_ms,
    input_tokens, output_tokens, cached_tokens, preemptions
FROM sim_requests
