#!/usr/bin/env python3
"""How fast `ingest` reads text, beside DuckDB: the same generated files, on the same cores, in one run.

    cargo build --release
    python3 tests/bench/ingest/compare.py path/to/release/pipe [MB per file, default 500] [runs, default 5]

Needs the Python package duckdb. Both write Parquet with zstd; runs are interleaved, each on 1 and on 2 cores (processes are
pinned to them), and medians and their ratio are printed: shared machines are noisy, so trust ratios. DuckDB neither sorts,
nor hashes what it writes, nor chains block hashes, so its Mooncake file is smaller too. Files go to a temporary folder.
"""

import datetime
import json
import os
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

DUCKDB = """
import duckdb, sys
con = duckdb.connect()
con.execute(f"SET threads = {sys.argv[1]}")
con.execute(sys.argv[2])
"""

CASES = {
    "azure": (
        "azure.csv",
        """SELECT row_number() OVER () - 1 AS request_id,
            epoch_ns("TIMESTAMP") - epoch_ns(TIMESTAMPTZ '2024-05-10 00:00:00+00') AS arrival_ns,
            CAST(ContextTokens AS INT) AS input_tokens, CAST(GeneratedTokens AS INT) AS output_tokens
            FROM read_csv('{file}')""",
    ),
    "mooncake": (
        "mooncake.jsonl",
        """SELECT row_number() OVER () - 1 AS request_id, "timestamp" * 1000000 AS arrival_ns,
            CAST(input_length AS INT) AS input_tokens, CAST(output_length AS INT) AS output_tokens, hash_ids
            FROM read_json('{file}', format = 'newline_delimited')""",
    ),
}


def azure(path, size):
    """Like the Azure LLM inference trace of 2024: a CSV with zones."""
    rng, start, written, us = random.Random(1), datetime.datetime(2024, 5, 10), 0, 0
    with open(path, "w") as f:
        f.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        while written < size:
            lines = []
            for _ in range(100_000):
                us += int(rng.expovariate(1) * 50_000)
                at = (start + datetime.timedelta(microseconds=us)).strftime("%Y-%m-%d %H:%M:%S.%f")
                lines.append(f"{at}+00:00,{rng.randrange(1, 8000)},{rng.randrange(1, 1000)}\n")
            written += f.write("".join(lines))


def mooncake(path, size):
    """Like the Mooncake traces: JSON lines with lists of blocks, of which prefixes are shared, and ties of arrival."""
    rng, written, t, fresh = random.Random(1), 0, 0, 300_000
    roots = [list(range(i * 100, i * 100 + rng.randrange(1, 40))) for i in range(2000)]
    with open(path, "w") as f:
        while written < size:
            lines = []
            for _ in range(20_000):
                t += rng.choice((0, 0, 100, 3000)) if rng.random() < 0.3 else 0
                length = rng.randrange(1, 25_000)
                blocks = -(-length // 512)
                ids = rng.choice(roots)[:blocks]
                more = blocks - len(ids)
                ids, fresh = ids + list(range(fresh, fresh + more)), fresh + more
                row = {"timestamp": t, "input_length": length, "output_length": rng.randrange(1, 1000), "hash_ids": ids}
                lines.append(json.dumps(row) + "\n")
            written += f.write("".join(lines))


def timed(args, cwd, cores):
    """Wall seconds and CPU seconds of a command that has some cores to itself."""
    pinned = set(sorted(os.sched_getaffinity(0))[:cores])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(args, cwd=cwd, check=True, stdout=subprocess.DEVNULL,
                   preexec_fn=lambda: os.sched_setaffinity(0, pinned))
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    import duckdb

    pipe = str(pathlib.Path(sys.argv[1]).resolve())
    size = int(float(sys.argv[2]) * 1e6) if len(sys.argv) > 2 else 500_000_000
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        (tmp / "pipelines").mkdir()
        for name, (file, query) in CASES.items():
            globals()[name](tmp / file, size)
            (tmp / f"pipelines/{name}.yaml").write_text(
                f"name: {name}\nstages:\n  trace:\n    ingest: {{ path: ../{file} }}\n")
            query = query.format(file=tmp / file)
            copy = f"COPY ({query}) TO '{tmp / 'out.parquet'}' (FORMAT parquet, COMPRESSION zstd)"
            for cores in (1, 2):
                ours, theirs = [], []
                for _ in range(runs):
                    # Nothing is cached: the file is hashed for its fingerprint, too.
                    shutil.rmtree(tmp / "data/store", ignore_errors=True)
                    ours.append(timed([pipe, "run", f"pipelines/{name}.yaml", "--quiet", "-j", str(cores)], tmp, cores))
                    theirs.append(timed([sys.executable, "-c", DUCKDB, str(cores), copy], tmp, cores))
                (a, c), (b, d) = ([statistics.median(x) for x in zip(*side)] for side in (ours, theirs))
                mb = (tmp / file).stat().st_size / 1e6
                print(f"{name}, {mb:.0f} MB, {cores} core(s): pipe {a:.2f} s ({mb / a:.0f} MB/s, {c:.2f} s CPU), DuckDB "
                      f"{duckdb.__version__} {b:.2f} s ({mb / b:.0f} MB/s, {d:.2f} s CPU), ratio {a / b:.2f}", flush=True)


if __name__ == "__main__":
    main()
