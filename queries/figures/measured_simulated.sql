-- title: Simulated over measured
-- about: How close is the simulation, request by request?
-- for: [compare]
-- needs: ["{of}_requests"]
-- with: { most: 1000 }
-- report: 1
-- kind: scatter
-- facet: metric
-- x: measured_ms
-- y: ms
-- series: side
-- note: note
-- x_log: true
-- y_log: true
-- x_label: Measured (ms)
-- y_label: Simulated (ms)

-- The points `equal` are where the simulation would be right. Of many requests some, at equal distances by their measured value.
WITH numbered AS (
    SELECT metric, measured_ms, simulated_ms, request_id, scenario_id,
           CAST(row_number() OVER (PARTITION BY metric ORDER BY measured_ms, scenario_id, request_id) AS BIGINT) AS nth,
           count(*) OVER (PARTITION BY metric) AS n
    FROM {of}_requests
),
shown AS (SELECT * FROM numbered WHERE n <= {most} OR nth * {most} / n > (nth - 1) * {most} / n),
points AS (
    SELECT metric, nth, n, 'equal' AS side, measured_ms, measured_ms AS ms FROM shown
    UNION ALL SELECT metric, nth, n, 'simulated', measured_ms, simulated_ms FROM shown
)
SELECT metric, side, nth, measured_ms, ms,
       CASE WHEN max(n) OVER () > {most} THEN concat('{most} of ', max(n) OVER (), ' requests') END AS note
FROM points
ORDER BY metric, side DESC, nth
