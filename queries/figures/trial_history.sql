-- title: Improvement over the trials
-- about: Did the search still find better trials when it ended?
-- for: [optimize]
-- needs: ["{of}_history"]
-- report: 2
-- kind: step
-- x: trial
-- y: share
-- series: objective
-- x_label: Trial
-- y_label: Share of the improvement

-- Of the way from the first complete trial to the best one, how much was made after which trial; and the hypervolume of the
-- front so far as a share of the last one, where there are several objectives. What never improved is not drawn.
WITH bests AS (
    {each objective: SELECT '$' AS objective, trial, "best_$" AS best FROM {of}_history WHERE "best_$" IS NOT NULL}
),
ends AS (
    SELECT objective, trial, best, first_value(best) OVER (PARTITION BY objective ORDER BY trial) AS first,
           last_value(best) OVER (
               PARTITION BY objective ORDER BY trial ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
           ) AS last
    FROM bests
),
shares AS (
    SELECT 1 AS nth, objective, trial, abs(best - first) / abs(last - first) AS share FROM ends WHERE last <> first
    UNION ALL
    SELECT 2, 'hypervolume', trial, hypervolume / nullif(max(hypervolume) OVER (), 0) FROM {of}_history
)
SELECT nth, objective, trial, share FROM shares WHERE share IS NOT NULL ORDER BY nth, objective, trial
