-- title: Load per dollar over latency
-- about: What does a dollar buy at which latency?
-- for: [search]
-- needs: ["{of}"]
-- with: { metric: ttft }
-- report: 2
-- kind: scatter
-- x: "{metric}_ms_p99"
-- y: qps_per_usd
-- series: configuration
-- note: note
-- x_log: true
-- y_label: Requests per second, per USD and hour

-- Of every configuration the answer, by the prices that the search was given.
WITH placed AS (
    SELECT {configuration} AS configuration, configuration_id, slo, {metric}_ms_p99, qps_per_usd,
           row_number() OVER (ORDER BY qps_per_usd DESC, configuration_id, slo) AS place
    FROM {of}
    WHERE qps_per_usd IS NOT NULL
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, slo, {metric}_ms_p99, qps_per_usd,
       CASE WHEN n > 20 THEN concat('The best 20 of ', n, ' answers') END AS note
FROM placed CROSS JOIN total
WHERE place <= 20
ORDER BY place
