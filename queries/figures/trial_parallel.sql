-- title: Parameters and objectives of the trials
-- about: Which values do the good trials have?
-- for: [optimize]
-- needs: ["{of}_trials"]
-- with: { colour: "{objective_1}", most: 300 }
-- report: 4
-- kind: parallel
-- z: "{colour}"
-- note: note

-- An axis per parameter and objective, a line per complete trial.
WITH placed AS (
    SELECT *, row_number() OVER (ORDER BY trial) AS place, count(*) OVER () AS n FROM {of}_trials WHERE feasible
)
SELECT {all parameter: "$"}, {all objective: "$"},
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' complete trials') END AS note
FROM placed
WHERE place <= {most}
ORDER BY trial
