-- Latency of every scenario: median, 90th and 99th percentile of the requests that were served.
SELECT
    scenario_id,
    count(*) AS served,
    ms(quantile(ttft_ns, 0.5)) AS ttft_ms_p50,
    ms(quantile(ttft_ns, 0.9)) AS ttft_ms_p90,
    ms(quantile(ttft_ns, 0.99)) AS ttft_ms_p99,
    ms(quantile(tpot_ns, 0.5)) AS tpot_ms_p50,
    ms(quantile(tpot_ns, 0.9)) AS tpot_ms_p90,
    ms(quantile(tpot_ns, 0.99)) AS tpot_ms_p99,
    ms(quantile(e2e_ns, 0.5)) AS e2e_ms_p50,
    ms(quantile(e2e_ns, 0.9)) AS e2e_ms_p90,
    ms(quantile(e2e_ns, 0.99)) AS e2e_ms_p99
FROM sim_requests
WHERE status = 'finished'
GROUP BY scenario_id
