-- title: "{name} over load"
-- about: How long do requests wait at which load, and from where on does it pay no more to add load?
-- for: [simulate]
-- needs: ["{of}"]
-- with: { metric: ttft, name: TTFT, max_ms: 500, load: rate_rps, where: "true", most: 6 }
-- report: 1
-- least: 2
-- kind: line
-- facet: configuration
-- x: load
-- y: ms
-- series: quantile
-- note: note
-- x_label: Load (requests/s)
-- y_label: "{name} (ms)"
-- y_log: true
-- rules: [{ y: {max_ms}, label: "objective: {max_ms} ms" }]

-- The knee is the load with the largest quotient of throughput and p99: Kleinrock's power (Power and Deterministic Rules of
-- Thumb for Probabilistic Problems in Computer Communications, ICC 1979). A line from the origin touches the curve there;
-- of the queue M/M/1 it is half of the capacity. It is drawn from the median to p99. Scenarios that differ in their seed alone are one point, the mean.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id, {load} AS load,
           {metric}_ms_p50 AS p50, {metric}_ms_p90 AS p90, {metric}_ms_p99 AS p99, request_rps
    FROM {of}
    WHERE {where}
),
points AS (
    SELECT configuration, load, min(scenario_id) AS first, avg(p50) AS p50, avg(p90) AS p90, avg(p99) AS p99,
           avg(request_rps) AS rps
    FROM scenarios
    WHERE load IS NOT NULL
    GROUP BY configuration, load
),
firsts AS (SELECT *, min(first) OVER (PARTITION BY configuration) AS first_of_all FROM points),
placed AS (SELECT *, dense_rank() OVER (ORDER BY first_of_all) AS place FROM firsts),
shown AS (SELECT * FROM placed WHERE place <= {most}),
power AS (
    SELECT *, row_number() OVER (PARTITION BY place ORDER BY rps / p99 DESC, load) AS nth FROM shown WHERE p99 > 0
),
lines AS (
    SELECT place, configuration, 'p50' AS quantile, load, p50 AS ms FROM shown
    UNION ALL SELECT place, configuration, 'p90', load, p90 FROM shown
    UNION ALL SELECT place, configuration, 'p99', load, p99 FROM shown
    UNION ALL SELECT place, configuration, 'knee', load, p99 FROM power WHERE nth = 1
    UNION ALL SELECT place, configuration, 'knee', load, p50 FROM power WHERE nth = 1
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, quantile, load, ms,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM lines CROSS JOIN total
ORDER BY place, quantile DESC, load, ms
