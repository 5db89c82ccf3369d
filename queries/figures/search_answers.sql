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
-- y_label: "{searched} that still passes"

WITH placed AS (
    SELECT {configuration} AS configuration, configuration_id, slo, value,
           dense_rank() OVER (ORDER BY configuration_id) AS place
    FROM {of}
),
total AS (SELECT max(place) AS n, count(DISTINCT place) FILTER (WHERE value IS NULL) AS unanswered FROM placed)
SELECT place, CASE configuration WHEN '' THEN 'all' ELSE configuration END AS configuration, slo, value,
       nullif(concat_ws('; ', CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END,
                        CASE WHEN unanswered > 0 THEN concat('without a bar: no value passes (', unanswered, ' of ', n, ')') END), '') AS note
FROM placed CROSS JOIN total
WHERE place <= {most}
ORDER BY place, slo
