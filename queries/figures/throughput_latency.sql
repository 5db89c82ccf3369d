-- title: Latency over throughput
-- about: What does throughput cost in latency?
-- for: [simulate]
-- needs: ["{of}"]
-- with: { metric: ttft, load: rate_rps, where: "true", most: 8 }
-- least: 2
-- kind: path
-- x: output_tps_per_gpu
-- y: "{metric}_ms_p99"
-- series: configuration
-- note: note
-- x_label: Throughput (output tokens/s per GPU)
-- y_log: true

-- The line follows the load: beyond the limit of a configuration it turns back.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id, {load} AS load,
           output_tps / gpus AS output_tps_per_gpu, {metric}_ms_p99
    FROM {of}
    WHERE {where}
),
points AS (
    SELECT configuration, load, min(scenario_id) AS first, avg(output_tps_per_gpu) AS output_tps_per_gpu,
           avg({metric}_ms_p99) AS {metric}_ms_p99
    FROM scenarios
    GROUP BY configuration, load
),
firsts AS (SELECT *, min(first) OVER (PARTITION BY configuration) AS first_of_all FROM points),
placed AS (SELECT *, dense_rank() OVER (ORDER BY first_of_all) AS place FROM firsts),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, load, output_tps_per_gpu, {metric}_ms_p99,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM placed CROSS JOIN total
WHERE place <= {most}
ORDER BY place, load
