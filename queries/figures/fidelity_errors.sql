-- title: Errors by what was measured
-- about: Which latency model is how far off, and where?
-- for: [fidelity]
-- needs: ["{of}"]
-- with: { part: all, most: 12 }
-- report: 1
-- kind: bar
-- facet: metric
-- x: measured_set
-- y: mape_pct
-- series: latency_model
-- note: note
-- x_label: Measured
-- y_label: Mean absolute error (%)

WITH placed AS (
    SELECT measured_set, CASE WHEN fitted THEN concat(latency_model, ' (fitted)') ELSE latency_model END AS latency_model,
           metric, mape_pct, dense_rank() OVER (ORDER BY measured_set) AS place
    FROM {of}
    WHERE part = '{part}' AND mape_pct IS NOT NULL
),
total AS (SELECT max(place) AS n FROM placed)
SELECT metric, place, measured_set, latency_model, mape_pct,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' that were measured') END AS note
FROM placed CROSS JOIN total
WHERE place <= {most}
ORDER BY metric, place, latency_model
