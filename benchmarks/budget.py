"""Is a step as slow as a budget allows? Predicted and measured overheads.

For five networks and several budgets: the layers that `WithinBudget` takes from
the output side, as before the first epoch, and those it takes by norms that
were drawn at random, which lie here and there. The overhead that the operations
predict, the one that `cost(timed=True)` predicts, and the one that steps of
`fit` have, taken in turn with plain ones: the median over the rounds of the
ratio to the plain step of the round, and its standard error.
"""

import argparse
import math
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import environment, networks
from benchmarks.step_cost import stepper
from keras_lwsam import LWSAMModel, selection

NETWORKS = ("resnet20", "wide_resnet", "vit", "bert", "lstm")
BUDGETS = (0.05, 0.1, 0.15, 0.3, 0.5)
COLUMNS = (
    "network",
    "layers",
    "budget",
    "perturbed",
    "counted",
    "timed",
    "measured",
    "standard_error",
    "quartiles",
    "milliseconds",
)


def choices(network, x):
    """Dict from a kind of layers and a budget to the layers' positions."""
    known = LWSAMModel(network, layers="all")
    cheapest = min(layer.alone - 1 for layer in known.cost(x).layers)
    layers = known._adaptation.layers
    sizes = 1 + max(i for layer in layers for i in layer.indices)
    drawn = np.random.default_rng(0).lognormal(0.0, 2.0, sizes)
    found = {}
    for kind, norms in (("output side", None), ("drawn norms", drawn)):
        seen = selection.Observations(norms, price=known._prices.of_weights)
        for budget in BUDGETS:
            if budget < cheapest:
                continue
            chosen = selection.WithinBudget(budget).resolve(layers, seen)
            if chosen not in found.values():
                found[kind, budget] = chosen
    return found


def compiled(build, positions):
    """A compiled model that perturbs some layers; none: plain Keras."""
    keras.utils.set_random_seed(0)
    network = build()
    model = network
    if positions:
        model = LWSAMModel(network, layers=networks.Positions(*positions))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def rows(name, rounds):
    """Rows of the table for one network."""
    build = networks.BUILDERS[name]
    network = build()
    x, y = networks.batch(network, networks.BATCH_SIZES[name])
    found = choices(network, x)
    models = {key: compiled(build, chosen) for key, chosen in found.items()}
    plain = stepper(compiled(build, ()), x, y)
    steps = {key: stepper(model, x, y) for key, model in models.items()}
    for step in (plain, *steps.values()):
        for _ in range(3):
            step()
    took = taken_in_turn({(): plain, **steps}, rounds)
    base = took[()]
    for key, model in models.items():
        kind, budget = key
        ratios = [a / b for a, b in zip(took[key], base, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        yield {
            "network": name,
            "layers": kind,
            "budget": budget,
            "perturbed": found[key],
            "counted": round(model.cost(x).overhead, 3),
            "timed": "",
            "measured": round(statistics.median(ratios) - 1, 3),
            "standard_error": round(standard_error(quartiles, rounds), 3),
            "quartiles": f"{quartiles[0] - 1:.3f} {quartiles[2] - 1:.3f}",
            "milliseconds": round(1e3 * statistics.median(took[key]), 1),
        }


def timed(name, table):
    """The same rows with the overheads that a short measurement predicts."""
    build = networks.BUILDERS[name]
    x, _ = networks.batch(build(), networks.BATCH_SIZES[name])
    model = compiled(build, (0,))
    found = model.cost(x, timed=True)
    layers = model._adaptation.layers
    for row in table:
        paths = [layers[i].path for i in row["perturbed"]]
        yield {
            **row,
            "perturbed": len(paths),
            "timed": round(found.predict(paths) - 1, 3),
        }


def standard_error(quartiles, count):
    """That of a median, its quartiles being those of a normal distribution."""
    deviation = (quartiles[2] - quartiles[0]) / 1.349
    return deviation * math.sqrt(math.pi / 2 / count)


def taken_in_turn(steps, rounds):
    """Seconds of each step; in each round in another order.

    A step may be slower for the one that was taken before it.
    """
    generator = np.random.default_rng(0)
    took = {key: [] for key in steps}
    for _ in range(rounds):
        for i in generator.permutation(len(steps)):
            key = list(steps)[i]
            start = time.perf_counter()
            steps[key]()
            took[key].append(time.perf_counter() - start)
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    args = parser.parse_args()
    table = []
    for name in args.networks:
        keras.utils.clear_session()
        for row in timed(name, list(rows(name, args.rounds))):
            table.append(row)
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
        environment.record(
            args.out, COLUMNS, table, {"rounds": args.rounds, "mode": "graph"}
        )


if __name__ == "__main__":
    main()
