-- A row per run and metric: measured, simulated, and the absolute percentage error between them.
WITH answered AS (
  SELECT r.class AS run, m.ttft_ns, m.tpot_ns, m.e2e_ns, m.arrival_ns
  FROM runs_measured m JOIN runs r ON r.request_id = m.request_id
  WHERE m.status = 'completed'
), figures AS (
  SELECT workload, rate_rps, mbnt, max(model) AS model, 'simulated' AS side,
    avg(ttft_ns / 1e6) AS ttft_ms_mean, avg(tpot_ns / 1e6) AS tpot_ms_mean,
    avg(e2e_ns / 1e6) AS e2e_ms_mean, quantile(e2e_ns, 0.5) / 1e6 AS e2e_ms_p50,
    quantile(e2e_ns, 0.99) / 1e6 AS e2e_ms_p99,
    count(*) * 1e9 / (max(arrival_ns + e2e_ns) - min(arrival_ns)) AS throughput_rps
  FROM simulated GROUP BY workload, rate_rps, mbnt
  UNION ALL
  SELECT split_part(run, '_', 2), CAST(replace(split_part(run, '_', 1), 'r', '') AS BIGINT),
    CAST(split_part(run, '_', 3) AS BIGINT), NULL, 'measured',
    avg(ttft_ns / 1e6), avg(tpot_ns / 1e6),
    avg(e2e_ns / 1e6), quantile(e2e_ns, 0.5) / 1e6,
    quantile(e2e_ns, 0.99) / 1e6,
    count(*) * 1e9 / (max(arrival_ns + e2e_ns) - min(arrival_ns))
  FROM answered GROUP BY run
), long AS (
  SELECT workload, rate_rps, mbnt, model, side, 'E2E mean' AS metric, e2e_ms_mean AS value FROM figures
  UNION ALL SELECT workload, rate_rps, mbnt, model, side, 'E2E median', e2e_ms_p50 FROM figures
  UNION ALL SELECT workload, rate_rps, mbnt, model, side, 'E2E p99', e2e_ms_p99 FROM figures
  UNION ALL SELECT workload, rate_rps, mbnt, model, side, 'throughput', throughput_rps FROM figures
  UNION ALL SELECT workload, rate_rps, mbnt, model, side, 'TTFT mean', ttft_ms_mean FROM figures
  UNION ALL SELECT workload, rate_rps, mbnt, model, side, 'TPOT mean', tpot_ms_mean FROM figures
)
SELECT s.model, s.workload, s.rate_rps, s.mbnt, s.metric, m.value AS measured, s.value AS simulated,
  100 * abs(s.value - m.value) / m.value AS ape_pct
FROM long s JOIN long m
  ON m.side = 'measured' AND m.workload = s.workload AND m.rate_rps = s.rate_rps AND m.mbnt = s.mbnt
  AND m.metric = s.metric
WHERE s.side = 'simulated'
ORDER BY s.workload, s.rate_rps, s.mbnt, s.metric
