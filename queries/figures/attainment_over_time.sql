-- title: "SLO attainment over time: TTFT ≤ {ttft_ms} ms, TPOT ≤ {tpot_ms} ms"
-- about: When are objectives missed?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with:
--   scenario: (SELECT scenario_id FROM {of} ORDER BY measured_served > 0 DESC, saturation = 'stable' DESC, running_mean + waiting_mean DESC NULLS LAST, scenario_id LIMIT 1)
--   ttft_ms: 500
--   tpot_ms: 50
--   attainment: 0.99
--   objective: ms(ttft_ns) <= {ttft_ms} AND coalesce(ms(tpot_ns), 0) <= {tpot_ms}
-- kind: step
-- x: time_s
-- y: attainment
-- note: note
-- x_label: Arrival since the first one (s)
-- y_label: Share of the requests
-- y_min: 0
-- y_max: 1.02
-- rules: [{ y: {attainment}, label: "objective: {attainment}" }]

-- Of the measured requests that arrive in each of 50 windows of equal length; none where nothing arrives.
WITH chosen AS (
    SELECT scenario, scenario_id FROM (SELECT {configuration} AS scenario, scenario_id FROM {of}) WHERE scenario_id = {scenario}
),
requests AS (
    SELECT r.* FROM {of}_requests r JOIN chosen c ON c.scenario_id = r.scenario_id WHERE measured
),
span AS (
    SELECT min(arrival_ns) AS from_ns, greatest(max(arrival_ns) - min(arrival_ns), 1) AS ns FROM requests
),
windows AS (
    SELECT least((arrival_ns - from_ns) * 50 / ns, 49) AS k, count(*) AS requests, slo_attainment({objective}) AS attainment
    FROM requests CROSS JOIN span
    GROUP BY k
),
-- The last one lasts until its end.
held AS (
    SELECT * FROM windows UNION ALL SELECT k + 1, requests, attainment FROM windows WHERE k = (SELECT max(k) FROM windows)
)
SELECT k, s(k * ns) / 50 AS time_s, requests, attainment,
       concat('Scenario ', scenario_id, CASE scenario WHEN '' THEN '' ELSE concat(': ', scenario) END) AS note
FROM held CROSS JOIN span CROSS JOIN chosen
ORDER BY k
