-- title: How much of the prompts the most used blocks hold
-- about: What could a prefix cache find again?
-- for: [ingest, synthesize, tokenize, transform]
-- needs: ["{of}"]
-- report: 3
-- kind: line
-- x: blocks_share
-- y: uses_share
-- x_log: true
-- x_label: Share of the distinct blocks, most used first
-- y_label: Share of all blocks of prompts

-- Blocks are those of prompts. A point per number of uses, from the most used down. Empty without hashes of blocks.
WITH blocks AS (
    SELECT unnest(array_slice(block_hashes, 1, (input_tokens + block_tokens - 1) / block_tokens)) AS hash
    FROM {of}
    WHERE block_hashes IS NOT NULL
),
used AS (SELECT hash, count(*) AS uses FROM blocks GROUP BY hash)
SELECT uses, count(*) AS blocks,
       CAST(sum(sum(uses)) OVER (ORDER BY uses DESC) AS DOUBLE) / sum(sum(uses)) OVER () AS uses_share,
       CAST(sum(count(*)) OVER (ORDER BY uses DESC) AS DOUBLE) / sum(count(*)) OVER () AS blocks_share
FROM used
GROUP BY uses
ORDER BY uses DESC
