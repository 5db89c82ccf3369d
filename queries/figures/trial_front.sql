-- title: Trials and their Pareto front
-- about: Which trade-offs between the objectives are there?
-- for: [optimize]
-- needs: ["{of}_trials"]
-- with: { x: "{objective_1}", y: "{objective_2}" }
-- report: 1
-- kind: scatter
-- x: "{x}"
-- y: "{y}"
-- series: kind

SELECT trial, "{x}", "{y}",
       CASE WHEN on_front THEN 'on the front' WHEN feasible THEN 'beaten' ELSE state END AS kind
FROM {of}_trials
WHERE "{x}" IS NOT NULL AND "{y}" IS NOT NULL
ORDER BY kind = 'on the front' DESC, kind, trial
