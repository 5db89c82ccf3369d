-- title: Which parameters matter
-- about: Which parameters make the difference between good trials and others?
-- for: [optimize]
-- needs: ["{of}_importance"]
-- with: { most: 12 }
-- report: 3
-- kind: bar
-- x: parameter
-- y: importance_share
-- series: objective
-- x_label: Parameter
-- y_label: Share of the importance (PED-ANOVA)

WITH summed AS (
    SELECT parameter, objective, importance_share,
           max(importance_share) OVER (PARTITION BY parameter) AS most_of
    FROM {of}_importance
),
placed AS (SELECT *, dense_rank() OVER (ORDER BY most_of DESC, parameter) AS place FROM summed)
SELECT place, split_part(parameter, '.', -1) AS parameter,
       CASE objective WHEN '*' THEN 'all together' ELSE objective END AS objective, importance_share
FROM placed
WHERE place <= {most}
ORDER BY place, objective
