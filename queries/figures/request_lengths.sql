-- title: Lengths of prompts and replies
-- about: How long are prompts and replies?
-- for: [ingest, synthesize, tokenize, transform]
-- needs: ["{of}"]
-- report: 2
-- kind: line
-- x: tokens
-- y: share
-- series: part
-- x_log: true
-- x_label: Tokens
-- y_label: Share of the requests

-- 200 of the points of each distribution.
WITH lengths AS (
    SELECT 'prompts' AS part, input_tokens AS tokens, request_id FROM {of}
    UNION ALL SELECT 'replies', output_tokens, request_id FROM {of}
),
ranked AS (
    SELECT part, tokens, CAST(row_number() OVER (PARTITION BY part ORDER BY tokens, request_id) AS BIGINT) AS nth,
           count(*) OVER (PARTITION BY part) AS n
    FROM lengths
)
SELECT part, tokens, CAST(nth AS DOUBLE) / n AS share
FROM ranked
WHERE nth = 1 OR nth * 200 / n > (nth - 1) * 200 / n
ORDER BY part, share
