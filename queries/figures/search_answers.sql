-- title: What each configuration carries
-- about: How much load does a configuration carry within the SLO, or how many replicas does it need?
-- for: [search]
-- needs: ["{of}"]
-- with: { most: 24 }
-- report: 1
-- kind: bar
-- x: configuration
-- y: value
-- series: slo
-- note: note
-- x_label: Configuration
-- y_label: Value that still passes

WITH placed AS (
    SELECT {configuration} AS configuration, configuration_id, slo, value,
           dense_rank() OVER (ORDER BY configuration_id) AS place
    FROM {of}
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, CASE configuration WHEN '' THEN 'all' ELSE configuration END AS configuration, slo, value,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM placed CROSS JOIN total
WHERE place <= {most} AND value IS NOT NULL
ORDER BY place, slo
