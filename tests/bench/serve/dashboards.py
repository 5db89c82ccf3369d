#!/usr/bin/env python3
"""How `pipe serve` bears many clients over PostgreSQL's wire protocol, and how soon the first page of a large table comes.

    cargo build --release
    python3 tests/bench/serve/dashboards.py path/to/release/pipe [clients, default 64] [queries each, default 1000] [memory]

Needs the Python package psycopg. A project is made in a temporary folder: a sweep of 10,000 rows as dashboards ask it, and a
table of 10 million rows. Every client keeps one connection, like the pool of a dashboard, and sends its queries one after the
other; clients are spread over processes, so that Python is not what is measured. Prints p50, p99, the slowest, errors, and the
server's peak of resident memory; then the time to the first 1,000 rows of `SELECT *` over 10 million rows, with a cursor of
the server, on a fresh connection.
"""

import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PIPELINE = """
name: bench
stages:
  large:
    sql:
      query: >
        SELECT value AS request_id, value * 1000 AS arrival_ns, value % 977 AS input_tokens,
          CAST(value % 31 AS DOUBLE) / 7 AS share, concat('class ', value % 5) AS class
        FROM generate_series(1, 10000000) ORDER BY request_id
  dash:
    sql:
      query: >
        SELECT value AS scenario_id, value % 40 AS rate_rps, value % 8 AS gpus,
          (value * 7919) % 100003 AS ttft_ns, (value * 104729) % 1009 AS output_tps
        FROM generate_series(1, 10000) ORDER BY scenario_id
"""

DASHBOARD = [
    "SELECT count(*) FROM bench.dash",
    "SELECT rate_rps, quantile(ttft_ns, 0.99) / 1e6 AS ttft_ms_p99 FROM bench.dash GROUP BY rate_rps ORDER BY rate_rps",
    "SELECT gpus, avg(output_tps) AS tps FROM bench.dash WHERE rate_rps > {n} GROUP BY gpus ORDER BY gpus",
    "SELECT * FROM bench.dash WHERE scenario_id BETWEEN {n} AND {n} + 100 ORDER BY scenario_id",
    "SELECT max(ttft_ns), min(ttft_ns) FROM bench.dash WHERE gpus = {n} % 8",
]


def client(port, first, clients, queries, results):
    """The clients `first..first + clients`, a thread each; puts (seconds per query, errors) into `results`."""
    import psycopg

    taken, errors, lock = [], [], threading.Lock()

    def one(number):
        mine = []
        try:
            with psycopg.connect(f"host=127.0.0.1 port={port} user=bench dbname=pipe", autocommit=True) as connection:
                for i in range(queries):
                    query = DASHBOARD[(number + i) % len(DASHBOARD)].format(n=(number * 31 + i) % 40)
                    begun = time.perf_counter()
                    connection.execute(query).fetchall()
                    mine.append(time.perf_counter() - begun)
        except Exception as e:
            errors.append(f"{type(e).__name__}: {e}"[:200])
        with lock:
            taken.extend(mine)

    threads = [threading.Thread(target=one, args=(first + i,)) for i in range(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    results.put((taken, errors))


def peak_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def first_page(port):
    import psycopg

    begun = time.perf_counter()
    with psycopg.connect(f"host=127.0.0.1 port={port} user=bench dbname=pipe") as connection:
        with connection.cursor(name="page") as cursor:
            cursor.itersize = 1000
            cursor.execute("SELECT * FROM bench.large")
            rows = cursor.fetchmany(1000)
    assert len(rows) == 1000
    return time.perf_counter() - begun


def main():
    pipe = str(pathlib.Path(sys.argv[1]).resolve())
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    queries = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    memory = sys.argv[4] if len(sys.argv) > 4 else "1GiB"
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "pipelines").mkdir()
        (pathlib.Path(folder) / "pipelines/bench.yaml").write_text(PIPELINE)
        subprocess.run([pipe, "run", "pipelines/bench.yaml", "--quiet"], cwd=folder, check=True)
        server = subprocess.Popen(
            [pipe, "serve", "--postgres", "0", "--flight", "off", "--http", "off", "--memory", memory],
            cwd=folder, stdout=subprocess.PIPE, text=True,
        )
        try:
            port = None
            for line in server.stdout:
                found = re.match(r"postgres .*:(\d+)/", line)
                port = int(found.group(1)) if found else port
                if line.startswith("Ctrl-C"):
                    break
            pages = [first_page(port) for _ in range(5)]
            print(f"first 1,000 of 10,000,000 rows: {pages[0]:.3f} s, then {statistics.median(pages[1:]):.3f} s")
            processes, results = min(8, clients), multiprocessing.Queue()
            shares = [clients // processes + (i < clients % processes) for i in range(processes)]
            begun, first, workers = time.perf_counter(), 0, []
            for share in shares:
                workers.append(multiprocessing.Process(target=client, args=(port, first, share, queries, results)))
                first += share
            [w.start() for w in workers]
            taken, errors = [], []
            for _ in workers:
                more, wrong = results.get()
                taken += more
                errors += wrong
            [w.join() for w in workers]
            seconds = time.perf_counter() - begun
            taken.sort()
            at = lambda q: taken[min(len(taken) - 1, int(q * len(taken)))] * 1e3
            print(
                f"{clients} clients x {queries} queries: {len(taken)} answered in {seconds:.1f} s"
                f" ({len(taken) / seconds:.0f}/s), p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, slowest {taken[-1] * 1e3:.0f} ms,"
                f" errors {len(errors)}, peak memory {peak_mib(server.pid):.0f} MiB (limit for queries {memory})"
            )
            for error in errors[:5]:
                print("  ", error)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    os.environ.pop("PGHOST", None)
    main()
