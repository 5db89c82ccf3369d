#!/usr/bin/env python3
"""Every sampler on every function beside those of Optuna and Rustuna: what it finds, and how much faster it is.

    python3 tests/bench/samplers/compare.py RUNS.jsonl [MORE.jsonl ...] [--full] [--markdown]

Reads the lines that bench_optuna.py and the kernel's example `samplers` write: library, version, sampler, function,
seed, trials, cpu_seconds, values (one list of objectives per trial, or null where a rule was broken or nothing came
out). One objective: the least value. Several: the hypervolume, in percent of the most there can be. Median and
quartiles over the seeds, at the same number of trials. pipe is "better" where its median is beyond the better quartile
of Optuna, "equal" where it is between the quartiles, else "worse". CPU time is the median per trial.

pipe's sampler is compared with that of the same family (`tpe*` with `tpe`, and so on); `auto`, which the others do not
have, with whatever sampler of theirs came out best.
"""

import argparse
import bisect
import collections
import json
import statistics
import sys

sys.dont_write_bytecode = True
from functions import REFERENCES  # noqa: E402

FAMILIES = ("tpe", "nsga2", "nsga3", "cmaes", "random")
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


def cells(lines, markdown):
    if markdown:
        heads, *rest = lines
        return ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rest)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]


class Group:
    """All runs of one sampler on one function."""

    def __init__(self, runs):
        first = runs[0]
        self.function, self.sampler, self.library = first["function"], first["sampler"], first["library"]
        self.trials, self.name = first["trials"], f"{first['library']} {first['version']}"
        self.seeds = len(runs)
        self.several = self.function in REFERENCES
        reached = [quality(run) for run in runs]
        self.at = {n: quartiles([r[n] for r in reached]) for n in reached[0]}
        self.cpu = statistics.median(run["cpu_seconds"] / run["trials"] for run in runs)

    def told(self, n):
        shown = "{1:.1f} ({0:.1f} .. {2:.1f})" if self.several else "{1:.5g} ({0:.5g} .. {2:.5g})"
        return shown.format(*self.at[n]) if n in self.at else ""

    def end(self):
        """Quartiles after the last trial, the least best."""
        return self.at[self.trials] if self.several else [-q for q in reversed(self.at[self.trials])]

    def against(self, other):
        """Where the median lies: beyond the quartiles of another, between them, or short of them."""
        worse, _, better = other.end()
        # Values are told to nine digits, which do not count beyond five.
        slack = 1e-5 * max(abs(worse), abs(better))
        median = self.end()[1]
        return "better" if median > better + slack else "equal" if median >= worse - slack else "worse"


def family(sampler):
    return next((f for f in FAMILIES if sampler.startswith(f)), None)


def counterpart(groups, mine, library):
    """The sampler of a library to compare with: of the same name, or of the same family; for `auto` the best of all."""
    rivals = [g for g in groups if (g.function, g.library, g.trials) == (mine.function, library, mine.trials)]
    if mine.sampler == "auto":
        return max(rivals, key=lambda g: g.end()[1], default=None)
    return next((g for g in rivals if g.sampler == family(mine.sampler)), None)


def microseconds(group):
    us = group.cpu * 1e6
    return f"{us:.2g}" if us < 10 else f"{us:.0f}"


def side_by_side(groups, markdown):
    heads = ["function", "sampler", "trials", "pipe", "Optuna", "Rustuna", "pipe is", "us/trial", "Optuna", "faster"]
    lines = [heads]
    for mine in groups:
        theirs = {library: counterpart(groups, mine, library) for library in ("optuna", "rustuna")}
        optuna = theirs["optuna"]
        if mine.library != "pipe" or not optuna:
            continue

        def told(rival):
            if not rival:
                return ""
            note = f", {rival.sampler}" if rival.sampler != mine.sampler else ""
            return rival.told(rival.trials) + note + (f", {rival.seeds} seeds" if rival.seeds < mine.seeds else "")

        lines.append([mine.function, mine.sampler, str(mine.trials), mine.told(mine.trials), told(optuna),
                      told(theirs["rustuna"]), mine.against(optuna), microseconds(mine), microseconds(optuna),
                      f"{optuna.cpu / mine.cpu:.0f}x"])
    print("\n".join(cells(lines, markdown)))


def in_full(groups, markdown):
    for name in dict.fromkeys(group.function for group in groups):
        members = sorted((g for g in groups if g.function == name), key=lambda g: -g.end()[1])
        columns = sorted({n for group in members for n in group.at})
        lines = [["library", "sampler", "seeds", "trials", *(f"@{n}" for n in columns), "CPU ms/trial", "faster"]]
        for group in members:
            optuna = counterpart(groups, group, "optuna")
            ratio = f"{optuna.cpu / group.cpu:.0f}x" if optuna and group.library != "optuna" else ""
            lines.append([group.name, group.sampler, str(group.seeds), str(group.trials),
                          *(group.told(n) for n in columns), f"{group.cpu * 1e3:.3g}", ratio])
        title = f"{name}: {'hypervolume, %' if members[0].several else 'least value'}, median (quartiles)"
        print(f"\n**{title}**\n" if markdown else f"\n{title}")
        print("\n".join(cells(lines, markdown)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--full", action="store_true", help="a table per function with all samplers and checkpoints")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    given = parser.parse_args()
    runs = collections.defaultdict(list)
    for file in given.files:
        with open(file) as lines:
            for run in map(json.loads, lines):
                runs[run["function"], run["library"], run["version"], run["sampler"], run["trials"]].append(run)
    if not runs:
        sys.exit("no runs")
    groups = [Group(members) for members in runs.values()]
    (in_full if given.full else side_by_side)(groups, given.markdown)


if __name__ == "__main__":
    main()
