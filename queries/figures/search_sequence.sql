-- title: What the search tried
-- about: How did the search come to its answers?
-- for: [search]
-- needs: ["{of}", "{of}_sequence"]
-- with: { most: 8 }
-- report: 3
-- kind: line
-- facet: slo
-- x: step
-- y: value
-- series: configuration
-- note: note
-- x_label: Step
-- y_label: "{searched} that was tried"

WITH configurations AS (
    SELECT configuration, configuration_id, slo, dense_rank() OVER (ORDER BY configuration_id) AS place
    FROM (SELECT {configuration} AS configuration, configuration_id, slo FROM {of})
    WHERE configuration_id IN (SELECT configuration_id FROM {of}_sequence)
),
total AS (SELECT max(place) AS n FROM configurations)
SELECT place, configuration, s.slo, s.step, s.value, s.pass,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM {of}_sequence s
JOIN configurations c ON c.configuration_id = s.configuration_id AND c.slo = s.slo
CROSS JOIN total
WHERE place <= {most}
ORDER BY s.slo, place, step
