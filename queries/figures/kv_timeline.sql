-- title: KV cache in use over time
-- about: Is the KV cache what limits a replica?
-- for: [simulate]
-- needs: ["{of}", "{of}_steps", "{of}_pools"]
-- with:
--   scenario: (SELECT scenario_id FROM {of} ORDER BY measured_served > 0 DESC, saturation = 'stable' DESC, running_mean + waiting_mean DESC NULLS LAST, scenario_id LIMIT 1)
--   most: 8
-- report: 9
-- kind: step
-- x: time_s
-- y: kv_usage
-- series: replica
-- note: note
-- x_label: Time since the first step (s)
-- y_label: Share of the replica's KV blocks

-- The most in each of 200 windows, of which the last one lasts until its end; where a replica begins no step, what its last step had.
WITH chosen AS (
    SELECT scenario, scenario_id FROM (SELECT {configuration} AS scenario, scenario_id FROM {of}) WHERE scenario_id = {scenario}
),
used AS (
    SELECT t.replica, pool, step_start_ns, step_start_ns + duration_ns AS end_ns,
           CAST(kv_blocks_used AS DOUBLE) / kv_blocks_total AS kv_usage
    FROM {of}_steps t
    JOIN chosen c ON c.scenario_id = t.scenario_id
    JOIN {of}_pools p ON p.scenario_id = t.scenario_id
         AND t.replica >= p.replica_first AND t.replica < p.replica_first + p.replicas
    WHERE t.replica < {most}
),
span AS (SELECT min(step_start_ns) AS from_ns, greatest(max(end_ns) - min(step_start_ns), 1) AS ns FROM used),
windows AS (
    SELECT replica, (step_start_ns - from_ns) * 200 / ns AS k, max(kv_usage) AS kv_usage,
           last_value(kv_usage ORDER BY step_start_ns) AS kv_usage_left
    FROM used CROSS JOIN span
    GROUP BY replica, k
),
grid AS (
    SELECT replica, pool, k FROM (SELECT DISTINCT replica, pool FROM used) CROSS JOIN (SELECT unnest(range(0, 201)) AS k)
),
kept AS (
    SELECT g.replica, g.pool, g.k,
           coalesce(w.kv_usage, last_value(w.kv_usage_left) IGNORE NULLS OVER (PARTITION BY g.replica ORDER BY g.k)) AS kv_usage
    FROM grid g LEFT JOIN windows w ON w.replica = g.replica AND w.k = least(g.k, 199)
),
total AS (SELECT count(DISTINCT replica) AS n FROM {of}_steps WHERE scenario_id = {scenario})
SELECT replica AS number, CASE pool WHEN 'default' THEN concat('', replica) ELSE concat(pool, ' ', replica) END AS replica,
       k, s(k * ns) / 200 AS time_s, coalesce(kv_usage, 0) AS kv_usage,
       concat('Scenario ', scenario_id, CASE scenario WHEN '' THEN '' ELSE concat(': ', scenario) END,
              CASE WHEN n > {most} THEN concat('; the first {most} of ', n, ' replicas') ELSE '' END) AS note
FROM kept CROSS JOIN span CROSS JOIN chosen CROSS JOIN total
ORDER BY number, k
