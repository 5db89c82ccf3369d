-- title: "Goodput over load: TTFT ≤ {ttft_ms} ms, TPOT ≤ {tpot_ms} ms"
-- about: How many requests per second are answered within the objectives, and where does that fall off?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with:
--   load: rate_rps
--   where: "true"
--   most: 8
--   ttft_ms: 500
--   tpot_ms: 50
--   objective: ms(ttft_ns) <= {ttft_ms} AND coalesce(ms(tpot_ns), 0) <= {tpot_ms}
--   offered: "'{load}' = 'rate_rps'"
-- least: 2
-- kind: line
-- x: load
-- y: goodput_rps
-- series: configuration
-- note: note
-- x_label: Load (requests/s)
-- y_label: Goodput (requests/s)

-- A reply of one token has no time per output token and meets any; a request without an answer meets nothing. The share of
-- the served measured requests that meet the objective, of what is served per second: while the first and the last
-- requests, which are not measured, are served too, the measured ones alone take longer than their number tells.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id, {load} AS load, request_rps
    FROM {of}
    WHERE {where}
),
judged AS (
    SELECT scenario_id,
           CAST(count(*) FILTER (WHERE {objective} AND finished_ns IS NOT NULL) AS DOUBLE)
               / nullif(count(finished_ns), 0) AS met,
           slo_attainment({objective}) AS attainment
    FROM {of}_requests
    WHERE measured
    GROUP BY scenario_id
),
points AS (
    SELECT configuration, load, min(s.scenario_id) AS first, avg(coalesce(met, 0) * request_rps) AS goodput_rps, avg(attainment) AS attainment
    FROM scenarios s JOIN judged j ON j.scenario_id = s.scenario_id
    WHERE load IS NOT NULL
    GROUP BY configuration, load
),
firsts AS (SELECT *, min(first) OVER (PARTITION BY configuration) AS first_of_all FROM points),
placed AS (SELECT *, dense_rank() OVER (ORDER BY first_of_all) AS place FROM firsts),
shown AS (SELECT * FROM placed WHERE place <= {most}),
lines AS (
    SELECT place, CASE configuration WHEN '' THEN 'all' ELSE configuration END AS configuration, load, goodput_rps, attainment
    FROM shown
    UNION ALL
    SELECT 0, 'offered', load, load AS goodput_rps, NULL
    FROM (SELECT DISTINCT CAST(load AS DOUBLE) AS load FROM shown)
    WHERE {offered}
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, load, goodput_rps, attainment,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM lines CROSS JOIN total
ORDER BY place, load
