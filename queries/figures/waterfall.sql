-- title: What became of the first requests
-- about: What does a request wait for?
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with:
--   scenario: (SELECT scenario_id FROM {of} ORDER BY measured_served > 0 DESC, saturation = 'stable' DESC, running_mean + waiting_mean DESC NULLS LAST, scenario_id LIMIT 1)
--   from_s: 0
--   most: 40
-- kind: span
-- x: start_s
-- x_end: end_s
-- y: request
-- series: part
-- note: note
-- x_label: Time since the first arrival (s)
-- y_label: Request

-- The first requests that arrive `from_s` after the first of the scenario or later, and were given tokens.
WITH chosen AS (
    SELECT scenario, scenario_id FROM (SELECT {configuration} AS scenario, scenario_id FROM {of}) WHERE scenario_id = {scenario}
),
begun AS (
    SELECT min(arrival_ns) AS from_ns FROM {of}_requests r JOIN chosen c ON c.scenario_id = r.scenario_id
),
requests AS (
    SELECT request_id, arrival_ns - from_ns AS arrival_ns, scheduled_ns - from_ns AS scheduled_ns,
           prefilled_ns - from_ns AS prefilled_ns, kv_ready_ns - from_ns AS kv_ready_ns,
           first_token_ns - from_ns AS first_token_ns, finished_ns - from_ns AS finished_ns,
           row_number() OVER (ORDER BY r.arrival_ns, request_id) AS nth
    FROM {of}_requests r JOIN chosen c ON c.scenario_id = r.scenario_id CROSS JOIN begun
    WHERE r.scheduled_ns IS NOT NULL AND s(r.arrival_ns - from_ns) >= {from_s}
),
shown AS (SELECT * FROM requests WHERE nth <= {most}),
spans AS (
    SELECT nth, request_id, 1 AS part_nth, 'queue' AS part, s(arrival_ns) AS start_s, s(scheduled_ns) AS end_s FROM shown
    UNION ALL
    SELECT nth, request_id, 2, 'prefill', s(scheduled_ns),
           s(least(first_token_ns, coalesce(prefilled_ns, first_token_ns)))
    FROM shown
    UNION ALL
    SELECT nth, request_id, 3, 'KV transfer', s(prefilled_ns), s(kv_ready_ns) FROM shown
    UNION ALL
    SELECT nth, request_id, 4, 'decode', s(greatest(first_token_ns, coalesce(kv_ready_ns, first_token_ns))),
           s(finished_ns)
    FROM shown
)
SELECT nth, part_nth, CAST(request_id AS VARCHAR) AS request, part, start_s, end_s,
       concat('Scenario ', scenario_id, CASE scenario WHEN '' THEN '' ELSE concat(': ', scenario) END) AS note
FROM spans CROSS JOIN chosen
WHERE end_s > start_s OR end_s = start_s AND nth = 1
ORDER BY nth, part_nth
