-- The gaps between tokens of every scenario as a distribution: the share of the tokens that came at most so long after
-- the one before.
SELECT
    scenario_id,
    ms(gap_ns_min) AS gap_ms_min,
    ms(gap_ns_max) AS gap_ms_max,
    tokens,
    CAST(sum(tokens) OVER (PARTITION BY scenario_id ORDER BY gap_ns_min) AS DOUBLE)
        / sum(tokens) OVER (PARTITION BY scenario_id) AS share
FROM sim_itl
