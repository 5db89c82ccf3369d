-- How many turns sessions have, and how much their prompts grow: a row per number of turns. Empty without sessions.
SELECT turns,
       count(*) AS sessions,
       avg(first_input) AS first_input_tokens_mean,
       avg(last_input) AS last_input_tokens_mean,
       avg(s(last_ns - first_ns)) AS duration_s_mean
FROM (SELECT session_id,
             count(*) AS turns,
             min(input_tokens) AS first_input,
             max(input_tokens) AS last_input,
             min(arrival_ns) AS first_ns,
             max(arrival_ns) AS last_ns
      FROM trace
      WHERE session_id IS NOT NULL
      GROUP BY session_id)
GROUP BY turns
ORDER BY turns
