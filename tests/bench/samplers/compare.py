#!/usr/bin/env python3
"""Median and quartiles of every sampler on every function, and how much faster than Optuna it is.

    python3 tests/bench/samplers/compare.py RUNS.jsonl [MORE.jsonl ...] [--markdown]

Reads the lines that bench_optuna.py and the kernel's example `samplers` write: library, version, sampler, function,
seed, trials, cpu_seconds, values (one list of objectives per trial, or null where a rule was broken or nothing came
out). One objective: the best so far. Several: the hypervolume so far, in percent of the most there can be. The ratio
compares CPU time per trial with Optuna's sampler of the same family (`tpe*` with `tpe`, and so on) at the same number
of trials, and is left out where there is none.
"""

import argparse
import bisect
import collections
import json
import statistics
import sys

sys.dont_write_bytecode = True
from functions import REFERENCES  # noqa: E402

CHECKPOINTS = (50, 100, 200, 300, 500, 1000)


def area(stairs, reference):
    """What a staircase (ascending in the first, falling in the second objective) dominates."""
    total, top = 0.0, reference[1]
    for x, y in stairs:
        total += (reference[0] - x) * (top - y)
        top = y
    return total


def climb(stairs, point):
    """Puts a point into a staircase unless it is dominated."""
    at = bisect.bisect_right(stairs, point)
    if at and stairs[at - 1][1] <= point[1]:
        return
    end = at
    if at and stairs[at - 1][0] == point[0]:
        at -= 1
    while end < len(stairs) and stairs[end][1] >= point[1]:
        end += 1
    stairs[at:end] = [point]


def hypervolume(points, reference):
    inside = sorted({tuple(p) for p in points if all(x < r for x, r in zip(p, reference))}, key=lambda p: p[::-1])
    if len(reference) == 2:
        stairs = []
        for p in inside:
            climb(stairs, p)
        return area(stairs, reference)
    total, stairs = 0.0, []
    for p, after in zip(inside, inside[1:] + [reference]):
        climb(stairs, p[:2])
        total += area(stairs, reference[:2]) * (after[2] - p[2])
    return total


def quality(run):
    values = run["values"]
    points = sorted({n for n in CHECKPOINTS if n <= len(values)} | {len(values)})
    if run["function"] not in REFERENCES:
        return {n: min((v[0] for v in values[:n] if v), default=float("inf")) for n in points}
    reference, most = REFERENCES[run["function"]]
    return {n: 100 * hypervolume([v for v in values[:n] if v], reference) / most for n in points}


def quartiles(values):
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    given = parser.parse_args()
    runs = []
    for file in given.files:
        with open(file) as lines:
            runs += [json.loads(line) for line in lines]
    if not runs:
        sys.exit("no runs")
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run["function"], run["library"] + " " + run["version"], run["sampler"]].append(run)
    speed = {key: statistics.median(r["cpu_seconds"] / r["trials"] for r in rows) for key, rows in groups.items()}

    def optuna_speed(name, sampler, trials):
        family = next((f for f in ("tpe", "nsga2", "nsga3", "cmaes", "random") if sampler.startswith(f)), None)
        for (function, library, other), rows in groups.items():
            if function == name and library.startswith("optuna ") and other == family and rows[0]["trials"] == trials:
                return speed[function, library, other]
        return None

    for name in dict.fromkeys(run["function"] for run in runs):
        several = name in REFERENCES
        rows = []
        for (function, library, sampler), members in groups.items():
            if function != name:
                continue
            reached = [quality(run) for run in members]
            at = sorted(set.intersection(*(set(r) for r in reached)))
            if not at:
                sys.exit(f"{name}, {library}, {sampler}: runs of different numbers of trials")
            summary = {n: quartiles([r[n] for r in reached]) for n in at}
            own = speed[function, library, sampler]
            theirs = optuna_speed(name, sampler, members[0]["trials"])
            rows.append((library, sampler, len(members), members[0]["trials"], summary, own * 1e3,
                         theirs / own if theirs and own > 0 and not library.startswith("optuna ") else None))
        rows.sort(key=lambda row: (-1 if several else 1) * list(row[4].values())[-1][1])
        title = f"{name}: {'hypervolume, %' if several else 'least value'}, median (quartiles)"
        columns = sorted({n for row in rows for n in row[4]})
        heads = ["library", "sampler", "seeds", "trials", *(f"@{n}" for n in columns), "CPU ms/trial", "faster"]
        table = []
        for library, sampler, seeds, trials, summary, cpu, ratio in rows:
            shown = "{1:.1f} ({0:.1f} .. {2:.1f})" if several else "{1:.5g} ({0:.5g} .. {2:.5g})"
            cells = [shown.format(*summary[n]) if n in summary else "" for n in columns]
            table.append([library, sampler, str(seeds), str(trials), *cells, f"{cpu:.3g}",
                          f"{ratio:.0f}x" if ratio else ""])
        print(f"\n**{title}**\n" if given.markdown else f"\n{title}")
        if given.markdown:
            for line in (heads, ["---"] * len(heads), *table):
                print("| " + " | ".join(line) + " |")
        else:
            widths = [max(len(line[c]) for line in (heads, *table)) for c in range(len(heads))]
            for line in (heads, *table):
                print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
