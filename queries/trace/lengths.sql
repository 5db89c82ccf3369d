-- Quantiles of prompts, replies, and the time between arrivals.
WITH gaps AS (
    SELECT input_tokens, output_tokens,
           arrival_ns - lag(arrival_ns) OVER (ORDER BY arrival_ns, request_id) AS gap_ns
    FROM trace
)
SELECT 0.01 AS q, quantile(input_tokens, 0.01) AS input_tokens, quantile(output_tokens, 0.01) AS output_tokens, ms(quantile(gap_ns, 0.01)) AS gap_ms FROM gaps
UNION ALL SELECT 0.10, quantile(input_tokens, 0.10), quantile(output_tokens, 0.10), ms(quantile(gap_ns, 0.10)) FROM gaps
UNION ALL SELECT 0.25, quantile(input_tokens, 0.25), quantile(output_tokens, 0.25), ms(quantile(gap_ns, 0.25)) FROM gaps
UNION ALL SELECT 0.50, quantile(input_tokens, 0.50), quantile(output_tokens, 0.50), ms(quantile(gap_ns, 0.50)) FROM gaps
UNION ALL SELECT 0.75, quantile(input_tokens, 0.75), quantile(output_tokens, 0.75), ms(quantile(gap_ns, 0.75)) FROM gaps
UNION ALL SELECT 0.90, quantile(input_tokens, 0.90), quantile(output_tokens, 0.90), ms(quantile(gap_ns, 0.90)) FROM gaps
UNION ALL SELECT 0.99, quantile(input_tokens, 0.99), quantile(output_tokens, 0.99), ms(quantile(gap_ns, 0.99)) FROM gaps
UNION ALL SELECT 1.00, quantile(input_tokens, 1.00), quantile(output_tokens, 1.00), ms(quantile(gap_ns, 1.00)) FROM gaps
ORDER BY q
