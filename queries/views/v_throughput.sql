-- Throughput of every scenario, in all and per GPU, and whether it keeps up with its load.
SELECT
    scenario_id, gpus, finished, rejected, request_rps, output_tps,
    output_tps / gpus AS output_tps_per_gpu,
    CAST(busy_ns AS DOUBLE) / nullif(duration_ns * engines, 0) AS busy_ratio,
    throughput_ratio, saturation
FROM sim
