-- What Superset asks, through SQLAlchemy and on its own.

-- expect: rows = 1; value-like PostgreSQL 16.6
select pg_catalog.version();

-- expect: rows = 1; value public
select current_schema();

-- expect: rows = 1; columns transaction_isolation
show transaction isolation level;

-- expect: rows = 1; value on
show standard_conforming_strings;

-- expect: rows = 1
SELECT DATE_TRUNC('day', to_timestamp(0)) AS d, AVG(ttft_ns) AS "AVG(ttft_ns)"
FROM small.sim_requests
WHERE to_timestamp(arrival_ns / 1e9) >= TO_TIMESTAMP('1970-01-01 00:00:00.000000', 'YYYY-MM-DD HH24:MI:SS.US')
GROUP BY DATE_TRUNC('day', to_timestamp(0)) ORDER BY "AVG(ttft_ns)" DESC LIMIT 1000;

-- Tableau: what may be created
-- expect: rows = 1
SELECT has_database_privilege(current_database(), 'TEMP');

-- pgcli: completion
-- expect: value ttft_ns; value int8
SELECT nsp.nspname schema_name, cls.relname table_name, att.attname column_name, att.atttypid::regtype::text type_name,
 att.atthasdef AS has_default, pg_catalog.pg_get_expr(def.adbin, def.adrelid, true) as default
FROM pg_catalog.pg_attribute att
 INNER JOIN pg_catalog.pg_class cls ON att.attrelid = cls.oid
 INNER JOIN pg_catalog.pg_namespace nsp ON cls.relnamespace = nsp.oid
 LEFT OUTER JOIN pg_attrdef def ON def.adrelid = att.attrelid AND def.adnum = att.attnum
WHERE cls.relkind = ANY('{r,p,f}') AND NOT att.attisdropped AND att.attnum > 0
ORDER BY 1, 2, att.attnum;
