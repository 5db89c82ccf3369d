-- title: Best so far
-- about: Did the search still find better trials when it ended?
-- for: [optimize]
-- needs: ["{of}_history"]
-- report: 2
-- kind: step
-- facet: objective
-- x: trial
-- y: best
-- x_label: Trial
-- y_label: Best so far

SELECT objective, trial, best
FROM ({each objective: SELECT '$' AS objective, trial, "best_$" AS best FROM {of}_history})
WHERE best IS NOT NULL
ORDER BY objective, trial
