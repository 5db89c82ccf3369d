-- What a prefix cache without limit would find of the prompts of a trace, in one row.
--
-- Blocks are those of prompts. A block is a hit if an earlier request had it; hashes are chained, so that all before it are
-- hits too. Tokens of a hit are full blocks, and never more than the prompt.
WITH blocks AS (
    SELECT request_id, input_tokens, block_tokens,
           unnest(array_slice(block_hashes, 1, (input_tokens + block_tokens - 1) / block_tokens)) AS hash
    FROM trace
    WHERE block_hashes IS NOT NULL
),
first AS (
    SELECT hash, min(request_id) AS request_id FROM blocks GROUP BY hash
),
hits AS (
    SELECT b.request_id,
           count(*) AS blocks,
           count(*) FILTER (WHERE f.request_id < b.request_id) AS blocks_hit,
           max(b.block_tokens) AS block_tokens,
           max(b.input_tokens) AS input_tokens
    FROM blocks b JOIN first f ON f.hash = b.hash
    GROUP BY b.request_id
)
SELECT max(block_tokens) AS block_tokens,
       sum(blocks) AS blocks,
       (SELECT count(*) FROM first) AS blocks_distinct,
       CAST(sum(blocks_hit) AS DOUBLE) / nullif(sum(blocks), 0) AS blocks_hit_share,
       CAST(sum(least(blocks_hit * block_tokens, input_tokens)) AS DOUBLE) / nullif(sum(input_tokens), 0) AS tokens_hit_share,
       count(*) FILTER (WHERE blocks_hit > 0) AS requests_hit
FROM hits
