-- title: What the time to first token consists of
-- about: "Why is TTFT high: waiting, computing, preemption, or moving the KV cache?"
-- for: [simulate]
-- needs: ["{of}", "{of}_requests"]
-- with: { load: rate_rps, where: "true", most: 6 }
-- report: 6
-- least: 2
-- kind: area
-- facet: configuration
-- x: load
-- y: ms
-- series: part
-- note: note
-- x_label: Load (requests/s)
-- y_label: Mean TTFT (ms)

-- Means over the measured requests with a first token; the parts add up to the mean TTFT. A preemption lasts until what it
-- lost is computed again.
WITH scenarios AS (
    SELECT {configuration but {load}} AS configuration, scenario_id, {load} AS load
    FROM {of}
    WHERE {where}
),
spans AS (
    SELECT scenario_id, queue_ns, prefill_ns,
           CASE WHEN kv_ready_ns <= first_token_ns THEN kv_transfer_ns ELSE 0 END AS transfer_ns,
           prefill_preempted_ns AS lost_ns
    FROM {of}_requests
    WHERE measured AND first_token_ns IS NOT NULL
),
points AS (
    SELECT configuration, load, min(s.scenario_id) AS first, ms(avg(queue_ns)) AS queue_ms,
           ms(avg(prefill_ns - transfer_ns - lost_ns)) AS prefill_ms, ms(avg(lost_ns)) AS lost_ms,
           ms(avg(transfer_ns)) AS transfer_ms
    FROM scenarios s JOIN spans r ON r.scenario_id = s.scenario_id
    WHERE load IS NOT NULL
    GROUP BY configuration, load
),
firsts AS (SELECT *, min(first) OVER (PARTITION BY configuration) AS first_of_all FROM points),
placed AS (
    SELECT *, dense_rank() OVER (ORDER BY first_of_all) AS place, max(transfer_ms) OVER () AS transfer_ms_max,
           max(lost_ms) OVER () AS lost_ms_max
    FROM firsts
),
shown AS (SELECT * FROM placed WHERE place <= {most}),
parts AS (
    SELECT place, configuration, load, 1 AS nth, 'prefill' AS part, prefill_ms AS ms FROM shown
    UNION ALL SELECT place, configuration, load, 2, 'queue', queue_ms FROM shown
    UNION ALL SELECT place, configuration, load, 3, 'preemption', lost_ms FROM shown WHERE lost_ms_max > 0
    UNION ALL SELECT place, configuration, load, 4, 'KV transfer', transfer_ms FROM shown WHERE transfer_ms_max > 0
),
total AS (SELECT max(place) AS n FROM placed)
SELECT place, configuration, nth, part, load, ms,
       CASE WHEN n > {most} THEN concat('The first {most} of ', n, ' configurations') END AS note
FROM parts CROSS JOIN total
ORDER BY place, nth, load
