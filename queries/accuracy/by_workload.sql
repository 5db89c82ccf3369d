-- The table of accuracies: a row per model, workload and metric over all runs.
SELECT model, workload, metric, avg(ape_pct) AS ape_pct_mean, max(ape_pct) AS ape_pct_max, count(*) AS runs
FROM accuracy
GROUP BY model, workload, metric
ORDER BY model, workload, metric
