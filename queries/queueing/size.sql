-- The two kinds of cluster of the queueing stage `by_size` side by side: a row per load and number of GPUs.
-- Wait is what the mean time to first token has in queues: before prefill, and between prefill and decode.
SELECT
    m.arrival_rate_per_s,
    m.gpus,
    1000 * m.p99_ttft_s AS mono_ttft_ms_p99,
    1000 * d.p99_ttft_s AS disagg_ttft_ms_p99,
    1000 * m.mean_prefill_wait_s AS mono_wait_ms_mean,
    1000 * (d.mean_prefill_wait_s + d.mean_decode_wait_s) AS disagg_wait_ms_mean,
    m.throughput_rps AS mono_throughput_rps,
    d.throughput_rps AS disagg_throughput_rps
FROM by_size m
JOIN by_size d ON d.gpus = m.gpus AND d.arrival_rate_per_s = m.arrival_rate_per_s AND d.mode = 'disagg'
WHERE m.mode = 'mono'
ORDER BY m.arrival_rate_per_s, m.gpus
