-- title: Replicas at work over time
-- about: How many of the replicas are needed, and when?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests", "{of}_pools"]
-- with:
--   scenario: (SELECT scenario_id FROM {of} ORDER BY measured_served > 0 DESC, saturation = 'stable' DESC, running_mean + waiting_mean DESC NULLS LAST, scenario_id LIMIT 1)
-- kind: step
-- x: time_s
-- y: replicas
-- series: state
-- note: note
-- x_label: Time since the first arrival (s)
-- y_label: Replicas
-- y_min: 0

-- At 200 times at equal distances: those that have a request which was given tokens and is not done. With prefill and
-- decode pools a request is with the one until its prompt is done, and with the other from when its KV cache is there.
-- Requests that were never served are left out unless they are in flight at the end: when they went is not known.
WITH chosen AS (
    SELECT scenario, scenario_id FROM (SELECT {configuration} AS scenario, scenario_id FROM {of}) WHERE scenario_id = {scenario}
),
requests AS (
    SELECT replica, prefill_replica, arrival_ns, scheduled_ns, prefilled_ns, kv_ready_ns, finished_ns
    FROM {of}_requests r JOIN chosen c ON c.scenario_id = r.scenario_id
    WHERE status IN ('finished', 'length_capped', 'in_flight')
),
stays AS (
    SELECT replica, CASE WHEN prefill_replica IS NULL THEN scheduled_ns ELSE kv_ready_ns END AS begin_ns, finished_ns AS end_ns
    FROM requests
    UNION ALL
    SELECT prefill_replica, scheduled_ns, prefilled_ns FROM requests WHERE prefill_replica IS NOT NULL
),
span AS (
    SELECT min(arrival_ns) AS from_ns,
           greatest(max(coalesce(finished_ns, scheduled_ns, arrival_ns)) - min(arrival_ns), 1) AS ns
    FROM requests
),
events AS (
    SELECT replica, ((begin_ns - from_ns) * 200 + ns - 1) / ns AS k, 1 AS requests
    FROM stays CROSS JOIN span WHERE begin_ns IS NOT NULL
    UNION ALL
    SELECT replica, ((end_ns - from_ns) * 200 + ns - 1) / ns, -1
    FROM stays CROSS JOIN span WHERE begin_ns IS NOT NULL AND end_ns IS NOT NULL
),
changes AS (SELECT replica, k, sum(requests) AS requests FROM events GROUP BY replica, k),
held AS (
    SELECT g.replica, g.k, sum(coalesce(c.requests, 0)) OVER (PARTITION BY g.replica ORDER BY g.k) AS requests
    FROM (SELECT replica, k FROM (SELECT DISTINCT replica FROM stays) CROSS JOIN (SELECT unnest(range(0, 201)) AS k)) g
    LEFT JOIN changes c ON c.replica = g.replica AND c.k = g.k
),
deployed AS (SELECT CAST(sum(p.replicas) AS BIGINT) AS n FROM {of}_pools p JOIN chosen c ON c.scenario_id = p.scenario_id),
lines AS (
    SELECT k, 'at work' AS state, count(*) FILTER (WHERE requests > 0) AS replicas FROM held GROUP BY k
    UNION ALL
    SELECT k, 'deployed', n FROM (SELECT unnest(range(0, 201)) AS k) CROSS JOIN deployed
)
SELECT state, k, s(k * ns) / 200 AS time_s, replicas,
       concat('Scenario ', scenario_id, CASE scenario WHEN '' THEN '' ELSE concat(': ', scenario) END) AS note
FROM lines CROSS JOIN span CROSS JOIN chosen
WHERE from_ns IS NOT NULL
ORDER BY state, k
