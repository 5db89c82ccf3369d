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
-- z_middle: 0
-- note: note
-- x_label: Scenario, those with the largest margins first
-- y_label: Rule

-- As a share of the limit; below 0 it is missed, and how far below -1 does not matter. The best scenarios, by the rule
-- that each is worst at.
WITH worst AS (SELECT scenario_id, min(margin) AS margin FROM {of}_rules GROUP BY scenario_id),
placed AS (
    SELECT scenario_id, row_number() OVER (ORDER BY margin DESC, scenario_id) AS place, count(*) OVER () AS n
    FROM worst
    WHERE margin IS NOT NULL
)
SELECT place, CAST(r.scenario_id AS VARCHAR) AS scenario_id, rule, greatest(min(margin), -1) AS margin,
       min(margin) AS margin_exact,
       nullif(concat_ws('; ', CASE WHEN max(n) > {most} THEN concat('The best {most} of ', max(n), ' scenarios') END,
                        CASE WHEN min(min(margin)) OVER () < -1 THEN 'margins below -1 are shown as -1' END), '') AS note
FROM placed p JOIN {of}_rules r ON r.scenario_id = p.scenario_id
WHERE place <= {most} AND margin IS NOT NULL
GROUP BY place, r.scenario_id, rule
ORDER BY place, rule
