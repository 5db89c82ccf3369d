-- title: Requests running and waiting over time
-- about: Does a queue build up, and does it go away again?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with:
--   scenario: (SELECT scenario_id FROM {of} ORDER BY measured_served > 0 DESC, saturation = 'stable' DESC, running_mean + waiting_mean DESC NULLS LAST, scenario_id LIMIT 1)
-- report: 8
-- kind: step
-- x: time_s
-- y: requests
-- series: state
-- note: note
-- x_label: Time since the first arrival (s)
-- y_label: Requests

-- At 200 times at equal distances. By default of the busiest scenario that keeps up. Requests that were never served are
-- left out unless they are in flight at the end: when they went is not known. A preempted request counts as running.
WITH chosen AS (
    SELECT scenario, scenario_id FROM (SELECT {configuration} AS scenario, scenario_id FROM {of}) WHERE scenario_id = {scenario}
),
requests AS (
    SELECT arrival_ns, scheduled_ns, finished_ns
    FROM {of}_requests r JOIN chosen c ON c.scenario_id = r.scenario_id
    WHERE status IN ('finished', 'length_capped', 'in_flight')
),
span AS (
    SELECT min(arrival_ns) AS from_ns,
           greatest(max(coalesce(finished_ns, scheduled_ns, arrival_ns)) - min(arrival_ns), 1) AS ns
    FROM requests
),
events AS (
    SELECT ((arrival_ns - from_ns) * 200 + ns - 1) / ns AS k, 1 AS waiting, 0 AS running FROM requests CROSS JOIN span
    UNION ALL
    SELECT ((scheduled_ns - from_ns) * 200 + ns - 1) / ns, -1, 1 FROM requests CROSS JOIN span WHERE scheduled_ns IS NOT NULL
    UNION ALL
    SELECT ((finished_ns - from_ns) * 200 + ns - 1) / ns, 0, -1 FROM requests CROSS JOIN span WHERE finished_ns IS NOT NULL
),
changes AS (SELECT k, sum(waiting) AS waiting, sum(running) AS running FROM events GROUP BY k),
states AS (
    SELECT t.k, sum(coalesce(c.waiting, 0)) OVER (ORDER BY t.k) AS waiting,
           sum(coalesce(c.running, 0)) OVER (ORDER BY t.k) AS running
    FROM (SELECT unnest(range(0, 201)) AS k) t LEFT JOIN changes c ON c.k = t.k
),
lines AS (
    SELECT k, 'running' AS state, running AS requests FROM states
    UNION ALL SELECT k, 'waiting', waiting FROM states
)
SELECT state, k, s(k * ns) / 200 AS time_s, requests,
       concat('Scenario ', scenario_id, CASE scenario WHEN '' THEN '' ELSE concat(': ', scenario) END) AS note
FROM lines CROSS JOIN span CROSS JOIN chosen
WHERE from_ns IS NOT NULL
ORDER BY state, k
