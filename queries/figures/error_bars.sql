-- title: Errors by metric
-- about: How large is the error of the mean, of the tail, and of a single request?
-- for: [compare]
-- needs: ["{of}"]
-- report: 3
-- kind: bar
-- x: metric
-- y: error_pct
-- series: figure
-- x_label: Metric
-- y_label: Error (%)

-- Means over the scenarios; errors of the mean and of the 99th percentile without their signs.
WITH figures AS (
    SELECT metric, 1 AS nth, 'of the mean' AS figure, avg(abs(mean_error_pct)) AS error_pct FROM {of} GROUP BY metric
    UNION ALL SELECT metric, 2, 'of the p99', avg(abs(p99_error_pct)) FROM {of} GROUP BY metric
    UNION ALL SELECT metric, 3, 'of a request (mean)', avg(mape_pct) FROM {of} GROUP BY metric
)
SELECT metric, nth, figure, error_pct FROM figures WHERE error_pct IS NOT NULL ORDER BY metric, nth
