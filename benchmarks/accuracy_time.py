"""What a step of each way of `accuracy.py` takes, in time.

Blocks of ten steps of all ways in turn, in one process; a time is the median
over the rounds of the ratio to the base optimizer in the same round. Layer-wise
ways perturb the layers that they perturbed in most epochs of the study.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import environment, networks, tasks, training
from benchmarks.accuracy import BASE, WAYS
from benchmarks.step_cost import stepper

COLUMNS = ("task", "way", "time_ratio", "quartiles", "milliseconds")
# A multiple of LookSAM's period.
BLOCK = 10


def usual_layers(rows):
    """Positions of the layers perturbed in most epochs of some runs."""
    total = collections.Counter()
    for row in rows:
        for epochs, positions in training.selections_of(row):
            total[positions] += epochs
    return total.most_common(1)[0][0]


def models(task, rows):
    """Compiled models by the names of their ways."""
    made = {}
    for label, way in WAYS.items():
        if way.longer > 1:
            continue
        own = [row for row in rows if row["way"] == label]
        if not own:
            continue
        if way.wrap:
            layers = networks.Positions(*usual_layers(own))
            way = dataclasses.replace(way, layers=layers)
        made[label] = training.compiled(
            task, way.wrap, way.radii[0], task.learning_rates[0], 0, 10_000
        )
    return made


def measure(name, folder, rows, rounds):
    """Rows of the table for one task."""
    task = tasks.TASKS[name]
    x, y = (part[: task.batch_size] for part in task.load(folder).train)
    made = models(task, [row for row in rows if row["task"] == name])
    steps = {label: stepper(model, x, y) for label, model in made.items()}
    for step in steps.values():
        for _ in range(BLOCK):
            step()
    seconds = collections.defaultdict(list)
    for _ in range(rounds):
        for label, step in steps.items():
            start = time.perf_counter()
            for _ in range(BLOCK):
                step()
            seconds[label].append(time.perf_counter() - start)
    for label, own in seconds.items():
        ratios = [s / b for s, b in zip(own, seconds[BASE], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        yield {
            "task": name,
            "way": label,
            "time_ratio": round(statistics.median(ratios), 3),
            "quartiles": f"{quartiles[0]:.3f}-{quartiles[2]:.3f}",
            "milliseconds": round(1e3 * statistics.median(own) / BLOCK, 1),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as of accuracy.py")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of the study"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", nargs="+", default=["fashion", "banking77"])
    args = parser.parse_args()
    rows = training.Results(args.out / "results.csv").find(phase="test")
    table = training.Results(args.out / "times" / "results.csv", COLUMNS)
    environment.write(
        args.out / "times" / "environment.json",
        {"rounds": args.rounds, "steps": BLOCK, "mode": "graph"},
    )
    for name in args.tasks:
        if table.find(task=name):
            continue
        keras.utils.clear_session()
        for row in list(measure(name, args.data, rows, args.rounds)):
            table.add(row)
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
