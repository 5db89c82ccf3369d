-- How often blocks of prompts are used again: the share of all uses that the most popular blocks have. A row per number of
-- uses, from the most used down. Empty without hashes of blocks.
WITH blocks AS (
    SELECT unnest(array_slice(block_hashes, 1, (input_tokens + block_tokens - 1) / block_tokens)) AS hash
    FROM trace
    WHERE block_hashes IS NOT NULL
),
used AS (
    SELECT hash, count(*) AS uses FROM blocks GROUP BY hash
)
SELECT uses,
       count(*) AS blocks,
       CAST(sum(sum(uses)) OVER (ORDER BY uses DESC ROWS UNBOUNDED PRECEDING) AS DOUBLE)
           / sum(sum(uses)) OVER () AS uses_share,
       CAST(sum(count(*)) OVER (ORDER BY uses DESC ROWS UNBOUNDED PRECEDING) AS DOUBLE)
           / sum(count(*)) OVER () AS blocks_share
FROM used
GROUP BY uses
ORDER BY uses DESC
