-- title: Distribution of the gaps between tokens
-- about: Which share of the tokens comes how long after the one before?
-- for: [simulate]
-- needs: ["{of}", "{of}_itl"]
-- with: { where: "true", most: 6 }
-- kind: line
-- x: gap_ms
-- y: share
-- series: scenario
-- note: note
-- x_log: true
-- x_label: ITL (ms), all requests, measured or not
-- y_label: Share of the tokens

WITH scenarios AS (
    SELECT {configuration} AS scenario, scenario_id, CAST(row_number() OVER (ORDER BY scenario_id) AS BIGINT) - 1 AS nth,
           count(*) OVER () AS n
    FROM {of}
    WHERE {where}
),
shown AS (
    SELECT * FROM scenarios WHERE n <= {most} OR nth * {most} / n > (nth - 1) * {most} / n OR nth = 0
)
SELECT s.scenario_id, scenario, ms(gap_ns_max) AS gap_ms,
       CAST(sum(tokens) OVER (PARTITION BY s.scenario_id ORDER BY gap_ns_max) AS DOUBLE)
           / sum(tokens) OVER (PARTITION BY s.scenario_id) AS share,
       CASE WHEN n > {most} THEN concat('Some of ', n, ' scenarios') END AS note
FROM shown s JOIN {of}_itl g ON g.scenario_id = s.scenario_id
ORDER BY scenario_id, gap_ms
