#!/usr/bin/env python3
"""How fast whole commands are: rerun with nothing to do, ingest against DuckDB, a fan-out of 1,000 x 1,000,
the report of 10,000 scenarios.

    cargo build --release
    python3 tests/bench/commands.py path/to/release/pipe [rerun] [ingest] [fanout] [report]

Needs the Python package duckdb for `ingest`. Prints medians of several runs, interleaved where two tools are compared,
because shared machines are noisy: trust ratios. Everything happens in a temporary folder (3 GB for `ingest`).
"""

import json
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def project(tmp):
    for folder in ("pipelines", "queries", "data/samples"):
        shutil.copytree(ROOT / folder, tmp / folder)
    return tmp


def timed(args, cwd):
    """Wall and CPU seconds and peak memory (MiB) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    child = subprocess.run(["/usr/bin/env", "time", "-f", "%M"] + args if shutil.which("time") else args,
                           cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode != 0:
        sys.exit(f"{args} failed:\n{child.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 1024
    return wall, cpu, peak


def rerun(pipe, tmp):
    timed([pipe, "run", "pipelines/sweep.yaml", "--quiet"], tmp)
    walls = [timed([pipe, "run", "pipelines/sweep.yaml", "--quiet"], tmp)[0] for _ in range(20)]
    print(f"rerun with nothing to do: {statistics.median(walls) * 1e3:.0f} ms (median of {len(walls)})")


def ingest(pipe, tmp):
    import duckdb

    source = tmp / "big.jsonl"
    rng = random.Random(1)
    with open(source, "w") as f:
        t, written = 0.0, 0
        while written < 1_000_000_000:
            lines = []
            for _ in range(100_000):
                t += rng.expovariate(10)
                lines.append(json.dumps({"arrival_s": round(t, 6), "prompt": rng.randrange(1, 8000),
                                         "reply": rng.randrange(1, 1000), "user": f"user-{rng.randrange(10000)}",
                                         "class": rng.choice(["chat", "batch"])}))
            block = "\n".join(lines) + "\n"
            f.write(block)
            written += len(block)
    (tmp / "pipelines/big.yaml").write_text("""\
name: big
stages:
  trace:
    ingest:
      path: ../big.jsonl
      format: jsonl
      columns: { arrival: arrival_s, input_tokens: prompt, output_tokens: reply, session_id: user, class: class }
""")
    query = """COPY (SELECT row_number() OVER () - 1 AS request_id, CAST(arrival_s * 1e9 AS BIGINT) AS arrival_ns,
        "user" AS session_id, class, CAST(prompt AS INT) AS input_tokens, CAST(reply AS INT) AS output_tokens
        FROM read_json('big.jsonl', format = 'newline_delimited')) TO 'big.parquet' (FORMAT parquet, COMPRESSION zstd)"""
    ours, theirs = [], []
    for _ in range(3):
        shutil.rmtree(tmp / "data/store", ignore_errors=True)
        ours.append(timed([pipe, "run", "pipelines/big.yaml", "--quiet"], tmp))
        theirs.append(timed([sys.executable, "-c", f"import duckdb; duckdb.sql({query!r})"], tmp))
    a, b = (statistics.median(w for w, _, _ in x) for x in (ours, theirs))
    print(f"ingest of {source.stat().st_size / 1e9:.2f} GB JSONL: pipe {a:.1f} s, DuckDB {duckdb.__version__} {b:.1f} s, "
          f"ratio {a / b:.2f}; peak memory {max(p for _, _, p in ours):.0f} MiB")


# A sweep over a synthesized trace; its grid follows.
SWEEP = """\
name: {name}
seed: 1
stages:
  trace:
    synthesize:
      requests: {requests}
      rate_rps: 4
      input: {{ lognormal_p50_p90: {{ p50: 400, p90: 1600 }} }}
      output: {{ lognormal_p50_p90: {{ p50: 150, p90: 500 }} }}
  sim:
    simulate:
      requests: trace
      deployment: {{ model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }}
      sweep:
        grid:
          deployment.replicas: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
          workload.rate_rps: [2, 4, 8, 12, 16, 24, 32, 48, 64, 96]
"""


def fanout(pipe, tmp):
    grid = (
        "          deployment.scheduler.vllm_v1.max_num_batched_tokens: [256, 512, 1024, 2048, 4096, 6144, 8192, 12288, 16384, 32768]\n"
    )
    (tmp / "pipelines/fanout.yaml").write_text(SWEEP.format(name="fanout", requests=1000) + grid)
    wall, cpu, peak = timed([pipe, "run", "pipelines/fanout.yaml", "--quiet"], tmp)
    print(f"1,000 scenarios x 1,000 requests: {wall:.1f} s, {cpu / wall:.2f} cores busy, peak memory {peak:.0f} MiB, "
          f"{1e6 / wall:,.0f} requests/s")


def report(pipe, tmp):
    grid = (
        "          deployment.scheduler.vllm_v1.max_num_batched_tokens: [512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 4608, 5120]\n"
        "          deployment.scheduler.vllm_v1.max_num_seqs: [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]\n"
    )
    (tmp / "pipelines/many.yaml").write_text(SWEEP.format(name="many", requests=50) + grid)
    timed([pipe, "run", "pipelines/many.yaml", "--quiet"], tmp)
    walls = [timed([pipe, "report", "many", "-o", "many.html"], tmp)[0] for _ in range(5)]
    size = (tmp / "many.html").stat().st_size / 2**20
    print(f"report of 10,000 scenarios: {statistics.median(walls):.1f} s (median of {len(walls)}), {size:.1f} MiB of HTML")


def main():
    pipe = str(pathlib.Path(sys.argv[1]).resolve())
    chosen = sys.argv[2:] or ["rerun", "ingest", "fanout", "report"]
    for name in chosen:
        with tempfile.TemporaryDirectory() as tmp:
            globals()[name](pipe, project(pathlib.Path(tmp)))


if __name__ == "__main__":
    main()
