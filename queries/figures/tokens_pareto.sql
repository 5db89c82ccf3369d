-- title: Tokens per second of a GPU and of a user
-- about: Which scenarios are not beaten in both, what the operator gets and what the user sees?
-- for: [simulate]
-- needs: ["{of}"]
-- with: { where: "true" }
-- report: 5
-- least: 2
-- kind: scatter
-- x: output_tps_per_user
-- y: output_tps_per_gpu
-- series: front
-- labels: label
-- x_label: Median user (output tokens/s)
-- y_label: GPU (output tokens/s)

-- On the front: no other scenario gives as much of both, and more of one.
WITH points AS (
    SELECT scenario_id, {configuration} AS configuration,
           1000 / nullif(tpot_ms_p50, 0) AS output_tps_per_user, output_tps / gpus AS output_tps_per_gpu
    FROM {of}
    WHERE {where}
),
held AS (
    SELECT *,
           max(output_tps_per_gpu) OVER (ORDER BY output_tps_per_user DESC) AS most_at_as_much,
           max(output_tps_per_user) OVER (PARTITION BY output_tps_per_gpu) AS most_for_as_much
    FROM points
    WHERE output_tps_per_user IS NOT NULL AND output_tps_per_gpu IS NOT NULL
),
judged AS (
    SELECT scenario_id, configuration, output_tps_per_user, output_tps_per_gpu,
           CASE WHEN output_tps_per_gpu = most_at_as_much AND output_tps_per_user = most_for_as_much
                THEN 'on the front' ELSE 'beaten' END AS front
    FROM held
)
SELECT *, CASE front WHEN 'on the front' THEN configuration ELSE '' END AS label
FROM judged
ORDER BY front DESC, output_tps_per_user, scenario_id
