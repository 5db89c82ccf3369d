#!/usr/bin/env python3
"""How fast `SELECT *` of a large table comes over Flight SQL, against DuckDB that reads the same Parquet files into Arrow.

    cargo build --release
    python3 tests/bench/serve/flight.py path/to/release/pipe [rows, default 10000000] [rounds, default 5]

Needs the Python packages adbc_driver_flightsql, duckdb and pyarrow. A pipeline makes the table in a temporary folder: eight
columns of numbers and text. Both are asked in turn in this process, after one round that is not counted; DuckDB has as many
threads as the machine has cores, and pipe as well. Prints the seconds of each round, rows and bytes per second, the median
ratio (1 is as fast as DuckDB; below 0.5 is too slow), and the time to the first batch on a fresh connection, in seconds.
"""

import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

PIPELINE = """
name: bench
stages:
  large:
    sql:
      query: >
        SELECT value AS request_id, value * 1000 AS arrival_ns, value * 1000 + value % 977 * 100000 AS finished_ns,
          value % 977 AS input_tokens, value % 331 AS output_tokens, CAST(value % 31 AS DOUBLE) / 7 AS share,
          concat('class ', value % 5) AS class, concat('session-', value % 100003) AS session_id
        FROM generate_series(1, ROWS) ORDER BY request_id
"""

QUERY = "SELECT * FROM bench.large"


def start(pipe, folder):
    server = subprocess.Popen(
        [pipe, "serve", "--flight", "0", "--postgres", "off", "--http", "off"],
        cwd=folder, stdout=subprocess.PIPE, text=True,
    )
    uri = None
    for line in server.stdout:
        found = re.match(r"flight +(\S+)", line)
        uri = found.group(1) if found else uri
        if line.startswith("Ctrl-C"):
            break
    return server, uri


def timed(f):
    begun = time.perf_counter()
    result = f()
    return time.perf_counter() - begun, result


def first_batch(dbapi, uri):
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        rows = cursor.fetch_record_batch().read_next_batch().num_rows
    assert rows > 0


def main():
    import adbc_driver_flightsql.dbapi as dbapi
    import duckdb

    warnings.simplefilter("ignore")
    pipe = str(pathlib.Path(sys.argv[1]).resolve())
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "pipelines").mkdir()
        (pathlib.Path(folder) / "pipelines/bench.yaml").write_text(PIPELINE.replace("ROWS", str(rows)))
        subprocess.run([pipe, "run", "pipelines/bench.yaml", "--quiet"], cwd=folder, check=True)
        parquet = f"{folder}/data/tables/bench/large/*.parquet"
        server, uri = start(pipe, folder)
        try:
            firsts = [timed(lambda: first_batch(dbapi, uri))[0] for _ in range(5)]
            print(f"first batch of {rows:,} rows: {firsts[0]:.3f} s, then {statistics.median(firsts[1:]):.3f} s")
            database = duckdb.connect()
            connection = dbapi.connect(uri, autocommit=True)

            def by_pipe():
                with connection.cursor() as cursor:
                    cursor.execute(QUERY)
                    return cursor.fetch_arrow_table()

            def by_duckdb():
                result = database.execute(f"SELECT * FROM '{parquet}'")
                # Renamed in DuckDB 2.
                return result.to_arrow_table() if hasattr(result, "to_arrow_table") else result.fetch_arrow_table()

            taken = {"duckdb": [], "pipe": []}
            for number in range(rounds + 1):
                for name, f in [("duckdb", by_duckdb), ("pipe", by_pipe)]:
                    seconds, table = timed(f)
                    assert table.num_rows == rows, (name, table.num_rows)
                    size = table.nbytes
                    del table
                    if number > 0:
                        taken[name].append(seconds)
                        print(f"{name:7} {seconds:6.3f} s  {rows / seconds / 1e6:6.2f} M rows/s  {size / seconds / 1e6:7.0f} MB/s")
            ratio = statistics.median(d / p for d, p in zip(taken["duckdb"], taken["pipe"]))
            print(f"pipe has {ratio:.2f} of DuckDB's speed (median of {rounds} rounds)")
            connection.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
