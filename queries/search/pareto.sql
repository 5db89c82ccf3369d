-- Probes of the stage `carries` that no other one beats: as much load per dollar with a lower latency, or more load with
-- no higher one. A row per probe and latency that it is undominated in; `latency` is its name, `ms` its value.
WITH points AS (
    SELECT p.probe, p.configuration_id, p.deployment_gpu AS gpu, p.deployment_tp AS tp, p.value AS qps,
           p.value / (p.gpus * price.usd) AS qps_per_usd, l.latency, l.ms
    FROM carries_probes p
    JOIN (SELECT configuration_id, max(usd_per_hour / gpus) AS usd FROM carries GROUP BY configuration_id) price
      ON price.configuration_id = p.configuration_id
    JOIN (
        SELECT probe, 'ttft_p99' AS latency, ttft_ms_p99 AS ms FROM carries_probes
        UNION ALL SELECT probe, 'tpot_p99', tpot_ms_p99 FROM carries_probes
        UNION ALL SELECT probe, 'e2e_p99', e2e_ms_p99 FROM carries_probes
    ) l ON l.probe = p.probe
    WHERE l.ms IS NOT NULL AND price.usd IS NOT NULL
)
SELECT latency, gpu, tp, qps, qps_per_usd, ms
FROM points a
WHERE NOT EXISTS (
    SELECT 1 FROM points b
    WHERE b.latency = a.latency AND b.qps_per_usd >= a.qps_per_usd AND b.ms <= a.ms
      AND (b.qps_per_usd > a.qps_per_usd OR b.ms < a.ms)
)
ORDER BY latency, ms, qps_per_usd, gpu, tp
