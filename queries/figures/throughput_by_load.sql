-- title: Requests served over load
-- about: Up to which load does a configuration keep up?
-- for: [simulate]
-- needs: ["{of}"]
-- with: { load: rate_rps, where: "true", most: 8 }
-- report: 3
-- least: 2
-- kind: line
-- x: load
-- y: served_rps
-- series: configuration
-- note: note
-- x_label: Load (requests/s)
-- y_label: Served (requests/s)

-- `offered` is the load itself, where that is a rate.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id, {load} AS load, request_rps
    FROM {of}
    WHERE {where}
),
points AS (
    SELECT configuration, load, min(scenario_id) AS first, avg(request_rps) AS served_rps
    FROM scenarios
    WHERE load IS NOT NULL
    GROUP BY configuration, load
),
firsts AS (SELECT *, min(first) OVER (PARTITION BY configuration) AS first_of_all FROM points),
placed AS (SELECT *, dense_rank() OVER (ORDER BY first_of_all) AS place FROM firsts),
shown AS (SELECT * FROM placed WHERE place <= {most}),
lines AS (
    SELECT place, CASE configuration WHEN '' THEN 'served' ELSE configuration END AS configuration, load, served_rps
    FROM shown
    UNION ALL
    SELECT 0, 'offered', load, load AS served_rps FROM (SELECT DISTINCT CAST(load AS DOUBLE) AS load FROM shown) WHERE '{load}' = 'rate_rps'
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, load, served_rps,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM lines CROSS JOIN total
ORDER BY place, load
