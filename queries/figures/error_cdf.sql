-- title: Distribution of the errors
-- about: For which share of the requests is the simulation how far off?
-- for: [compare]
-- needs: ["{of}_requests"]
-- report: 2
-- kind: line
-- x: error_pct
-- y: share
-- series: metric
-- x_label: Error against the measured value (%)
-- y_label: Share of the requests
-- rules: [{ x: 0, label: equal }]

WITH ranked AS (
    SELECT metric, error_pct,
           CAST(row_number() OVER (PARTITION BY metric ORDER BY error_pct, scenario_id, request_id) AS BIGINT) AS nth,
           count(*) OVER (PARTITION BY metric) AS n
    FROM {of}_requests
    WHERE error_pct IS NOT NULL
)
SELECT metric, error_pct, CAST(nth AS DOUBLE) / n AS share
FROM ranked
WHERE nth = 1 OR nth * 200 / n > (nth - 1) * 200 / n
ORDER BY metric, share
