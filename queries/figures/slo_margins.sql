-- title: Margin to each rule
-- about: Which rule is missed by how much, in which scenario?
-- for: [slo]
-- needs: ["{of}_rules"]
-- with: { most: 40 }
-- report: 1
-- kind: heat
-- x: scenario_id
-- y: rule
-- z: margin
-- note: note
-- x_label: Scenario
-- y_label: Rule

-- As a share of the limit; below 0 it is missed. The first scenarios.
WITH placed AS (SELECT *, dense_rank() OVER (ORDER BY scenario_id) AS place FROM {of}_rules),
total AS (SELECT max(place) AS n FROM placed)
SELECT scenario_id, rule, min(margin) AS margin,
       CASE WHEN max(n) > {most} THEN concat('The first {most} of ', max(n), ' scenarios') END AS note
FROM placed CROSS JOIN total
WHERE place <= {most} AND margin IS NOT NULL
GROUP BY scenario_id, rule
ORDER BY scenario_id, rule
