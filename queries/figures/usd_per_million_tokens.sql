-- title: Cost of a million output tokens
-- about: Which configuration is the cheapest that meets the objectives?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with:
--   load: rate_rps
--   where: "true"
--   most: 16
--   ttft_ms: 500
--   tpot_ms: 50
--   attainment: 0.99
--   objective: ms(ttft_ns) <= {ttft_ms} AND coalesce(ms(tpot_ns), 0) <= {tpot_ms}
--   usd: "CASE deployment_gpu WHEN 'a100-40-sxm' THEN 2.7447 WHEN 'a100-80-sxm' THEN 3.4309 WHEN 'h100-sxm' THEN 6.88 WHEN 'h200-sxm' THEN 7.912 WHEN 'b200' THEN 6.69 END"
-- kind: bar
-- x: configuration
-- y: usd_per_million_tokens
-- note: note
-- x_label: Configuration
-- y_label: USD per million output tokens

-- Of every configuration the scenario with the lowest cost of those in which the share `attainment` of the requests meets
-- the objective. `usd` is the price of a GPU and hour: by default what the catalog names first, on demand.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id,
           gpus * ({usd}) / 3600 / nullif(output_tps, 0) * 1000000 AS usd_per_million_tokens,
           ({usd}) IS NULL AS unpriced
    FROM {of}
    WHERE {where}
),
judged AS (
    SELECT scenario_id, slo_attainment({objective}) AS attainment FROM {of}_requests WHERE measured GROUP BY scenario_id
),
costs AS (
    SELECT s.configuration, s.scenario_id, usd_per_million_tokens,
           row_number() OVER (PARTITION BY s.configuration ORDER BY usd_per_million_tokens, s.scenario_id) AS nth
    FROM scenarios s JOIN judged j ON j.scenario_id = s.scenario_id
    WHERE attainment >= {attainment} AND usd_per_million_tokens IS NOT NULL
),
best AS (
    SELECT *, row_number() OVER (ORDER BY usd_per_million_tokens, scenario_id) AS place FROM costs WHERE nth = 1
),
total AS (
    SELECT (SELECT count(*) FROM best) AS n, count(DISTINCT configuration) AS configurations,
           count(DISTINCT configuration) FILTER (WHERE NOT unpriced) AS priced
    FROM scenarios
)
SELECT place, CASE WHEN place IS NULL THEN '' WHEN configuration = '' THEN 'all' ELSE configuration END AS configuration,
       scenario_id, usd_per_million_tokens,
       nullif(concat_ws('; ',
           CASE WHEN n < priced OR n > {most} THEN concat(n, ' of ', priced, ' configurations meet the objectives') END,
           CASE WHEN n > {most} THEN 'the cheapest {most}' END,
           CASE WHEN priced < configurations
                THEN concat('no price is known for ', configurations - priced, ' of ', configurations,
                            ' configurations: give one, with: { usd: ... }') END), '') AS note
FROM total LEFT JOIN best ON place <= {most}
WHERE place IS NOT NULL OR priced < configurations
ORDER BY place
