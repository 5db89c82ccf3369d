-- title: Load per dollar over latency
-- about: Which scenarios serve the most requests for the money at which latency?
-- for: [simulate]
-- needs: ["{of}"]
-- with:
--   metric: ttft
--   where: "true"
--   usd: "CASE deployment_gpu WHEN 'a100-40-sxm' THEN 2.7447 WHEN 'a100-80-sxm' THEN 3.4309 WHEN 'h100-sxm' THEN 6.88 WHEN 'h200-sxm' THEN 7.912 WHEN 'b200' THEN 6.69 END"
-- least: 2
-- kind: scatter
-- x: "{metric}_ms_p99"
-- y: requests_per_usd
-- series: front
-- labels: label
-- note: note
-- x_log: true
-- y_label: Requests per USD

-- `usd` is the price of a GPU and hour: by default what the catalog names first, on demand (`pipe show prices`).
-- On the front: no other scenario serves as much for the money at no higher latency, and is better in one.
WITH points AS (
    SELECT scenario_id, {configuration} AS configuration, {metric}_ms_p99,
           request_rps * 3600 / (gpus * ({usd})) AS requests_per_usd, ({usd}) IS NULL AS unpriced
    FROM {of}
    WHERE {where}
),
total AS (SELECT count(*) AS n, count(*) FILTER (WHERE unpriced) AS unpriced FROM points),
held AS (
    SELECT *,
           max(requests_per_usd) OVER (ORDER BY {metric}_ms_p99) AS most_at_as_little,
           min({metric}_ms_p99) OVER (PARTITION BY requests_per_usd) AS least_for_as_much
    FROM points
    WHERE {metric}_ms_p99 IS NOT NULL AND requests_per_usd IS NOT NULL
),
judged AS (
    SELECT scenario_id, configuration, {metric}_ms_p99, requests_per_usd,
           CASE WHEN requests_per_usd = most_at_as_little AND {metric}_ms_p99 = least_for_as_much
                THEN 'on the front' ELSE 'beaten' END AS front
    FROM held
)
SELECT scenario_id, configuration, {metric}_ms_p99, requests_per_usd, coalesce(front, '') AS front,
       CASE front WHEN 'on the front' THEN configuration ELSE '' END AS label,
       CASE WHEN unpriced > 0
            THEN concat('No price is known for ', unpriced, ' of ', n, ' scenarios: give one, with: { usd: ... }') END AS note
FROM total LEFT JOIN judged ON true
WHERE scenario_id IS NOT NULL OR unpriced > 0
ORDER BY front DESC, {metric}_ms_p99, scenario_id
