#!/usr/bin/env python3
"""The samplers of Optuna, and of its Rust edition, on the functions of this folder: one line of JSON per run.

    python3 -m venv target/bench/venv && target/bench/venv/bin/pip install optuna cmaes rustuna
    target/bench/venv/bin/python tests/bench/samplers/bench_optuna.py target/bench/optuna.jsonl [--library rustuna] [--seeds 20]
        [--functions branin,zdt1] [--samplers tpe,nsga2] [--trials 300]

Installs nothing. A run that the file has already is not made again, so an interrupted bench goes on where it was.
Samplers have the library's defaults. How many rules a point breaks is told to the sampler as a constraint, and such a
point is not evaluated; one that fails is a pruned trial. On the tuner's problem NSGA-II also runs in two other ways:
`nsga2_prune` calls a point that breaks rules pruned, as that tuner does, and `nsga2_repair` measures the legal point
that `functions.repaired` makes of it.
"""

import argparse
import json
import pathlib
import sys
import time
import warnings

sys.dont_write_bytecode = True
import functions  # noqa: E402

# Per number of objectives: samplers, and trials of each.
SINGLE = {"random": 300, "tpe": 300, "cmaes": 300}
SEVERAL = {"random": 1000, "tpe": 300, "nsga2": 1000, "nsga2_prune": 1000, "nsga2_repair": 1000}
# What becomes of a point that breaks rules, where that is not a constraint.
WAYS = ("prune", "repair")
# CMA-ES is for numbers.
NUMBERS = ("branin", "hartmann6", "rosenbrock5")


def sampler_of(library, name, seed):
    kinds = {
        "random": "RandomSampler",
        "tpe": "TPESampler",
        "cmaes": "CmaEsSampler",
        "nsga2": "NSGAIISampler",
        "nsga3": "NSGAIIISampler",
    }
    return getattr(library.samplers, kinds[name.split("_")[0]])(seed=seed)


def suggest(trial, name, domain):
    kind, *rest = domain
    if kind == "list":
        # By position: not every library takes null among its choices.
        return rest[0][trial.suggest_categorical(name, list(range(len(rest[0]))))]
    low, high, log, *step = rest
    more = {"step": step[0]} if step else {}
    return (trial.suggest_int if kind == "int" else trial.suggest_float)(name, low, high, log=log, **more)


def run(library, sampler, name, seed, trials):
    way = sampler.partition("_")[2]
    space, objectives, function = functions.FUNCTIONS[name]
    rules = functions.RULES.get(name)
    values = []

    def objective(trial):
        point = {key: suggest(trial, key, domain) for key, domain in space.items()}
        if rules and way == "repair":
            point = functions.repaired(point)
        elif rules and way == "prune":
            if rules(point):
                values.append(None)
                raise library.TrialPruned
        elif rules:
            broken = rules(point)
            trial.set_constraint("rules", float(broken))
            if broken:
                # Worse than anything, for samplers that do not look at the constraint.
                values.append(None)
                return 100.0 if objectives == 1 else (100.0,) * objectives
        result = function(point)
        if result is None:
            values.append(None)
            raise library.TrialPruned
        values.append([float(f"{x:.9g}") for x in result])
        return result[0] if objectives == 1 else tuple(result)

    study = library.create_study(
        sampler=sampler_of(library, sampler, seed),
        **({"direction": "minimize"} if objectives == 1 else {"directions": ["minimize"] * objectives}),
    )
    start = time.process_time()
    study.optimize(objective, n_trials=trials)
    return time.process_time() - start, values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--library", default="optuna", choices=("optuna", "rustuna"))
    parser.add_argument("--functions", default=",".join(functions.FUNCTIONS))
    parser.add_argument("--samplers", default="")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=0, help="instead of each sampler's own number")
    given = parser.parse_args()
    functions.check()
    warnings.filterwarnings("ignore")
    if given.library == "optuna":
        import optuna as library

        library.logging.set_verbosity(library.logging.ERROR)
    else:
        import rustuna as library
    from importlib.metadata import version

    key = ("library", "version", "sampler", "function", "seed", "trials")
    done = set()
    if given.out.exists():
        done = {tuple(json.loads(line)[k] for k in key) for line in given.out.read_text().splitlines()}
    for name in given.functions.split(","):
        single = functions.FUNCTIONS[name][1] == 1
        for sampler, trials in (SINGLE if single else SEVERAL).items():
            if given.samplers and sampler not in given.samplers.split(","):
                continue
            if sampler == "cmaes" and name not in NUMBERS:
                continue
            if sampler.endswith(WAYS) and name != "tuner":
                continue
            trials = given.trials or trials
            for seed in range(given.seeds):
                row = dict(zip(key, (given.library, version(given.library), sampler, name, seed, trials)))
                if tuple(row.values()) in done:
                    continue
                row["cpu_seconds"], row["values"] = run(library, sampler, name, seed, trials)
                with given.out.open("a") as out:
                    out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
