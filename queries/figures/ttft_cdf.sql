-- title: Distribution of the time to first token
-- about: Which share of the requests waits how long?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with: { column: ttft_ns, name: TTFT, where: "true", most: 6 }
-- report: 7
-- kind: line
-- x: ms
-- y: share
-- series: scenario
-- note: note
-- x_log: true
-- x_label: "{name} (ms)"
-- y_label: Share of the requests

-- Measured requests. A hundred of the points of each distribution; of many scenarios some, at equal distances.
WITH scenarios AS (
    SELECT {configuration} AS scenario, scenario_id, CAST(row_number() OVER (ORDER BY scenario_id) AS BIGINT) - 1 AS nth,
           count(*) OVER () AS n
    FROM {of}
    WHERE {where}
),
shown AS (
    SELECT * FROM scenarios WHERE n <= {most} OR nth * {most} / n > (nth - 1) * {most} / n OR nth = 0
),
ranked AS (
    SELECT s.scenario_id, s.scenario, s.n, ms({column}) AS ms,
           CAST(row_number() OVER (PARTITION BY s.scenario_id ORDER BY {column}, r.request_id) AS BIGINT) AS nth,
           count(*) OVER (PARTITION BY s.scenario_id) AS requests
    FROM shown s JOIN {of}_requests r ON r.scenario_id = s.scenario_id
    WHERE measured AND {column} IS NOT NULL
)
SELECT scenario_id, scenario, CAST(nth AS DOUBLE) / requests AS share, ms,
       CASE WHEN n > {most} THEN concat('Some of ', n, ' scenarios') END AS note
FROM ranked
WHERE nth = 1 OR nth * 100 / requests > (nth - 1) * 100 / requests
ORDER BY scenario_id, share
