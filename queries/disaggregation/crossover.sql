-- The table `splits`: per prompt length the best split by goodput (ties: by p99 of the time per token), beside whole replicas.
-- Prefill and decode want GPUs of their own where `split_wins`.
WITH ranked AS (
    SELECT *, row_number() OVER (PARTITION BY prompts ORDER BY goodput DESC, tpot_ms_p99, split) AS place
    FROM splits
    WHERE split <> '8'
)
SELECT
    best.prompts,
    best.prompt_tokens,
    best.split AS best_split,
    best.goodput AS split_goodput,
    whole.goodput AS whole_goodput,
    best.tpot_ms_p99 AS split_tpot_ms_p99,
    whole.tpot_ms_p99 AS whole_tpot_ms_p99,
    best.ttft_ms_p99 AS split_ttft_ms_p99,
    whole.ttft_ms_p99 AS whole_ttft_ms_p99,
    best.goodput > whole.goodput OR (best.goodput = whole.goodput AND best.tpot_ms_p99 < whole.tpot_ms_p99) AS split_wins
FROM ranked best JOIN splits whole ON whole.prompts = best.prompts AND whole.split = '8'
WHERE best.place = 1
ORDER BY best.prompt_tokens
