"""Optuna as the judge of journal files: https://optuna.org, with optuna-dashboard.

    optuna_journal.py check JOURNAL STUDY [--trials N] [--complete N] [--pruned N] [--fail N] [--best N]
                      [--resume N] [--copy] [--dashboard]
    optuna_journal.py write JOURNAL

`check` opens a study of a journal that another program wrote, compares what Optuna counts with what is expected,
lets Optuna's TPE go on for some trials, copies the study to SQLite, and opens it in optuna-dashboard on the loopback.
`write` makes a journal with all that Optuna writes: enqueued, running, pruned and failed trials, constraints of both
forms, numbers that are not finite, deleted studies.

Both print on standard output, as JSON, what Optuna sees: of `check` the study `before` and `after` it was resumed, of
`write` all studies. Numbers that are not finite are text there. Anything unexpected is an error, and a word on standard
error says what.
"""

import argparse
import datetime
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections import Counter
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
# How long optuna-dashboard may take to start.
PATIENCE_S = 60


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got} instead of {wanted}")


def plain(value):
    """JSON that every reader takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def micros(moment):
    """Microseconds since 1970 of a time of Optuna, which is local."""
    return None if moment is None else (moment.astimezone() - EPOCH) // datetime.timedelta(microseconds=1)


def facts(study):
    def trial(t):
        return {
            "number": t.number,
            "state": t.state.name,
            "params": t.params,
            "values": t.values,
            "constraints": t.constraints,
            "intermediate": t.intermediate_values,
            "attributes": t.user_attrs,
            "started_us": micros(t.datetime_start),
            "finished_us": micros(t.datetime_complete),
        }

    return plain(
        {
            "name": study.study_name,
            "maximize": [d == optuna.study.StudyDirection.MAXIMIZE for d in study.directions],
            "metric_names": study.metric_names,
            "attributes": study.user_attrs,
            "best": [t.number for t in study.best_trials],
            "trials": [trial(t) for t in study.trials],
        }
    )


def conditions(trials):
    """Parameters in order, each with its distribution and the choices of earlier ones with which alone it is there."""
    distributions = {}
    for t in trials:
        distributions.update(t.distributions)
    found = []
    for name, distribution in distributions.items():
        there = [t for t in trials if name in t.params]
        gone = [t for t in trials if name not in t.params]
        when = None
        for other, of in distributions.items():
            if other == name or not gone or not isinstance(of, optuna.distributions.CategoricalDistribution):
                continue
            # Positions, because Python takes True for 1.
            position = [{of.to_internal_repr(t.params[other]) for t in ts if other in t.params} for ts in (there, gone)]
            if position[0] and position[0].isdisjoint(position[1]) and all(other in t.params for t in there):
                when = (other, position[0])
                break
        found.append((name, distribution, when))
    # What others depend on comes first.
    found.sort(key=lambda parameter: parameter[2] is not None)
    return found


def resume(study, count):
    """Goes on with TPE, on a made-up objective: the parameters that the trials have are asked for as they have them."""
    study.sampler = optuna.samplers.TPESampler(seed=0)
    parameters = conditions([t for t in study.trials if t.state.is_finished()])

    def objective(trial):
        total = 0.0
        for name, distribution, when in parameters:
            if when is not None:
                other, positions = when
                if other not in trial.params:
                    continue
                if trial.distributions[other].to_internal_repr(trial.params[other]) not in positions:
                    continue
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                total += distribution.to_internal_repr(trial.suggest_categorical(name, distribution.choices))
            elif isinstance(distribution, optuna.distributions.IntDistribution):
                low, high = distribution.low, distribution.high
                total += trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
            else:
                low, high = distribution.low, distribution.high
                total += trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)
        trial.set_constraint("resumed", -total)
        values = [total / (i + 1) for i in range(len(study.directions))]
        return values[0] if len(values) == 1 else values

    study.optimize(objective, n_trials=count)


def copy(journal, name, folder):
    target = f"sqlite:///{folder}/copy.db"
    storage = JournalStorage(JournalFileBackend(journal))
    optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=target)
    original = facts(optuna.load_study(study_name=name, storage=storage))
    copied = facts(optuna.load_study(study_name=name, storage=target))
    expect("study in SQLite", copied, original)


def dashboard(journal, name, trials):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), "--quiet", "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref", journal]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def get(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                studies = get("/api/studies")["study_summaries"]
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("optuna-dashboard does not answer")
                time.sleep(0.2)
        found = [s["study_id"] for s in studies if s["study_name"] == name]
        expect(f"studies {name} in optuna-dashboard", len(found), 1)
        detail = get(f"/api/studies/{found[0]}")
        expect("trials in optuna-dashboard", len(detail["trials"]), trials)
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def check(arguments):
    storage = JournalStorage(JournalFileBackend(arguments.journal))
    study = optuna.load_study(study_name=arguments.study, storage=storage)
    before = facts(study)
    states = Counter(t["state"] for t in before["trials"])
    for what, got, wanted in (
        ("trials", len(before["trials"]), arguments.trials),
        ("complete trials", states["COMPLETE"], arguments.complete),
        ("pruned trials", states["PRUNED"], arguments.pruned),
        ("failed trials", states["FAIL"], arguments.fail),
        ("best trials", len(before["best"]), arguments.best),
    ):
        if wanted is not None:
            expect(what, got, wanted)
    expect("numbers", [t["number"] for t in before["trials"]], list(range(len(before["trials"]))))
    if arguments.resume:
        resume(study, arguments.resume)
    after = facts(study)
    # Trials that wait are the first to be run.
    run = min(states["WAITING"], arguments.resume)
    expect("trials after resuming", len(after["trials"]), len(before["trials"]) + arguments.resume - run)
    for earlier, later in zip(before["trials"], after["trials"]):
        if earlier["state"] not in ("RUNNING", "WAITING"):
            expect(f"trial {earlier['number']} after resuming", later, earlier)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.copy:
            copy(arguments.journal, arguments.study, folder)
    if arguments.dashboard:
        dashboard(arguments.journal, arguments.study, len(after["trials"]))
    return {"before": before, "after": after}


def write(arguments):
    storage = JournalStorage(JournalFileBackend(arguments.journal))
    gone = optuna.create_study(study_name="gone", storage=storage)
    gone.add_trial(optuna.trial.create_trial(value=1.0))
    optuna.delete_study(study_name="gone", storage=storage)

    one = optuna.create_study(
        study_name="one", storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1)
    )
    one.set_metric_names(["goodput"])
    one.set_user_attr("who", {"quote": '"NaN" \\', "nothing": None})
    one.enqueue_trial({"x": 0.5, "k": 3, "c": None})

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        k = trial.suggest_int("k", 1, 9, log=True)
        trial.suggest_categorical("c", [None, True, 1.5, "fa3"])
        trial.suggest_float("y", 0.1, 0.7, step=0.2)
        for step, value in enumerate((x, math.nan, math.inf, x / 3)):
            trial.report(value, step)
        trial.set_user_attr("list", [trial.number, {"b": math.inf}])
        trial.set_constraint("late", x - 0.5)
        if trial.number == 1:
            raise optuna.TrialPruned()
        if trial.number == 2:
            return math.nan
        if trial.number == 3:
            return -math.inf
        if trial.number == 4:
            raise ZeroDivisionError
        return x * k

    one.optimize(objective, n_trials=7, catch=(ZeroDivisionError,))

    with warnings.catch_warnings():
        # The older form of constraints, which old files have.
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.NSGAIISampler(seed=1, constraints_func=lambda trial: (trial.number - 2.5, -1.0))
    two = optuna.create_study(study_name="two", storage=storage, directions=["minimize", "maximize"], sampler=sampler)

    def several(trial):
        if trial.suggest_categorical("mode", ["a", "b"]) == "a":
            return trial.suggest_int("n", 0, 10, step=5), 2.0
        return 1.0, trial.number / 7

    two.optimize(several, n_trials=6)
    two.enqueue_trial({"mode": "a", "n": 5})
    one.ask()
    one.ask().suggest_float("x", 0, 1)
    float_x = {"x": optuna.distributions.FloatDistribution(0, 1)}
    one.add_trial(
        optuna.trial.create_trial(
            value=3.0, params={"x": 0.1}, distributions=float_x, intermediate_values={3: 1.0}, constraints={"late": -1.0}
        )
    )
    one.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED, intermediate_values={30: 1.0, 4: 2.0}))
    return {"studies": [facts(optuna.load_study(study_name=name, storage=storage)) for name in ("one", "two")]}


def main():
    parser = argparse.ArgumentParser(description="Optuna as the judge of journal files")
    commands = parser.add_subparsers(required=True)
    checker = commands.add_parser("check", help="open, resume, copy and show a study")
    checker.add_argument("journal")
    checker.add_argument("study")
    for count in ("trials", "complete", "pruned", "fail", "best"):
        checker.add_argument(f"--{count}", type=int, help="how many are expected")
    checker.add_argument("--resume", type=int, default=0, help="trials to go on with TPE")
    checker.add_argument("--copy", action="store_true", help="copy the study to SQLite")
    checker.add_argument("--dashboard", action="store_true", help="open the study in optuna-dashboard")
    checker.set_defaults(run=check)
    writer = commands.add_parser("write", help="make a journal with all that Optuna writes")
    writer.add_argument("journal")
    writer.set_defaults(run=write)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    json.dump(arguments.run(arguments), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
