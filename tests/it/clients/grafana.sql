-- What Grafana's query builder asks.

-- expect: value sim_requests; value small.sim_requests
SELECT CASE WHEN quote_ident(table_schema) IN (
    SELECT CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
    FROM generate_series(array_lower(string_to_array(current_setting('search_path'),','),1),
      array_upper(string_to_array(current_setting('search_path'),','),1)) as i,
    string_to_array(current_setting('search_path'),',') s)
  THEN quote_ident(table_name)
  ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
 END AS "table"
FROM information_schema.tables
WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
ORDER BY 1;

-- expect: value ttft_ns; columns column,type
SELECT quote_ident(column_name) AS "column", data_type AS "type"
FROM information_schema.columns
WHERE CASE WHEN array_length(parse_ident('public.sim_requests'),1) = 2
  THEN quote_ident(table_schema) = (parse_ident('public.sim_requests'))[1]
    AND quote_ident(table_name) = (parse_ident('public.sim_requests'))[2]
  ELSE quote_ident(table_name) = 'public.sim_requests' END;

-- A panel of its kind, with a time filter
-- expect: rows >= 1
SELECT to_timestamp(floor(arrival_ns / 1e9)) AS "time", avg(ttft_ns) / 1e6 AS ttft_ms
FROM small.sim_requests
WHERE to_timestamp(arrival_ns / 1e9) BETWEEN '1970-01-01T00:00:00Z' AND '1970-01-02T00:00:00Z'
GROUP BY 1 ORDER BY 1;
