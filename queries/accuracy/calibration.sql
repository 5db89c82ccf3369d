-- A row per log and feature, and per feature over all logs of a role (`run` is `all`).
SELECT
  role,
  CASE WHEN "case" = '' THEN 'all' ELSE "case" END AS run,
  feature,
  measured,
  fitted,
  100 * error AS error_pct,
  count
FROM fit_errors
WHERE feature <> 'total'
ORDER BY role DESC, run, feature
