"""What sharpness-aware training gains, and at what price.

Three tasks: part of Fashion-MNIST with a BatchNorm ResNet, the same with a
fifth of the labels wrong, and Banking77 with a small transformer. The learning
rate is tuned for the base optimizer, over three values, and kept for all; the
radius is tuned for each way over three values, and a fourth beyond the first or
the last if that is the best. Tuning goes by accuracy on a validation split, one
seed, runs of full length; then each way is trained with several seeds and
tested. Every run is written to results.csv as it ends; those that are there
already are not repeated. Several of these may run side by side on different
tasks.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import environment, tasks, training
from keras_lwsam import LWSAMModel, methods, selection


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of training.

    Args:
        method: Function of a radius to a `methods.Method`, or `None`: the base
            optimizer.
        layers: What is perturbed, as `LWSAMModel` takes it.
        radii: Those that are tried.
        longer: How many times as many epochs as the others.
        gradients: Gradients that a step evaluates, on average.
    """

    method: Callable | None = methods.SAM
    layers: object = "all"
    radii: tuple = (0.05, 0.1, 0.2)
    longer: int = 1
    gradients: float = 2

    @property
    def wrap(self):
        """Function of a network and a radius to a model, or `None`."""
        return None if self.method is None else self._wrapped

    def _wrapped(self, network, rho):
        return LWSAMModel(network, self.method(rho=rho), layers=self.layers)


BASE = "base optimizer"
WAYS = {
    BASE: Way(None, gradients=1),
    f"{BASE}, twice as long": Way(None, longer=2, gradients=1),
    "SAM": Way(),
    "layer-wise SAM, 25 %": Way(layers=selection.LargestGradientNorm(0.25)),
    "layer-wise SAM, 10 %": Way(layers=selection.LargestGradientNorm(0.1)),
    "layer-wise SAM, 15 % slower": Way(layers=selection.WithinBudget(0.15)),
    "SAM-ON": Way(layers="normalization", radii=(0.2, 0.5, 1.0)),
    "ASAM": Way(methods.ASAM, radii=(0.25, 0.5, 1.0)),
    "StableSAM": Way(methods.StableSAM),
    "GNP": Way(methods.GNP),
    "Fisher Sparse SAM": Way(methods.FisherSparseSAM),
    "SAMPa": Way(methods.SAMPa),
    "LookSAM": Way(methods.LookSAM, gradients=1.2),
    "LookSAM, alpha 0.2": Way(
        functools.partial(methods.LookSAM, alpha=0.2), gradients=1.2
    ),
    "MomentumSAM": Way(methods.MomentumSAM, radii=(0.1, 0.3, 1.0), gradients=1),
}


class Study:
    """The runs on one task.

    Args:
        name: Of the task.
        folder: Of the data.
        results: A `training.Results`.
    """

    def __init__(self, name, folder, results):
        self.name = name
        self.task = tasks.TASKS[name]
        self.data = self.task.load(folder)
        self.results = results

    def run(self, phase, label, way, rho, learning_rate, seed):
        """The row of a run, trained unless it is there."""
        epochs = way.longer * self.task.epochs
        values = (self.name, phase, label, rho, learning_rate, seed, epochs)
        key = dict(zip(training.KEY, values, strict=True))
        found = self.results.find(**key)
        if found:
            return found[0]
        split, measures = "test", [training.flatness]
        if phase == "tune":
            split, measures = "validation", []
        row = training.run(
            self.task,
            self.data,
            way.wrap,
            rho,
            learning_rate,
            seed,
            epochs,
            split,
            measures,
        )
        self.results.add({**key, **row})
        print({**key, **row}, flush=True)
        return self.results.find(**key)[0]

    def learning_rate(self):
        """The best one for the base optimizer, on the validation split."""
        for rate in self.task.learning_rates:
            self.run("tune", BASE, WAYS[BASE], "", rate, seed=0)
        return tuned(self.results, self.name, BASE)[1]

    def radius(self, label, way):
        """The best one for a way."""
        if way.wrap is None:
            return ""
        rate = self.learning_rate()

        def accuracy(rho):
            row = self.run("tune", label, way, rho, rate, seed=0)
            return float(row["accuracy"])

        radii = [self.task.radius_factor * radius for radius in way.radii]
        accuracies = [accuracy(rho) for rho in radii]
        best = accuracies.index(max(accuracies))
        if best == 0:
            accuracy(_rounded(radii[0] ** 2 / radii[1]))
        if best == len(radii) - 1:
            accuracy(_rounded(radii[-1] ** 2 / radii[-2]))
        return tuned(self.results, self.name, label)[0]

    def test(self, label, way, seeds):
        """Trains with some seeds, and tests."""
        rho, rate = self.radius(label, way), self.learning_rate()
        return [self.run("test", label, way, rho, rate, s) for s in seeds]


def tuned(results, task, label):
    """Radius and learning rate by which a way is tested; of equals the first.

    Args:
        results: A `training.Results`.
        task: Name of the task.
        label: Name of the way.
    """
    rates = results.find(task=task, phase="tune", way=BASE)
    rate = float(_best(rates)["learning_rate"])
    if WAYS[label].method is None:
        return "", rate
    rows = results.find(task=task, phase="tune", way=label, learning_rate=rate)
    return float(_best(rows)["rho"]), rate


def _best(rows):
    return max(rows, key=lambda row: float(row["accuracy"]))


def _rounded(radius):
    return float(f"{radius:.4g}")


def main():
    args = training.parser(
        __doc__, "tasks", ("fashion", "noisy", "banking77"), seeds=5
    ).parse_args()
    training.single_threaded()
    results = training.Results(args.out / "results.csv")
    settings = {
        "seeds": args.seeds,
        "learning_rates": {
            name: tasks.TASKS[name].learning_rates for name in args.tasks
        },
        "radii": {label: way.radii for label, way in WAYS.items()},
    }
    environment.write(args.out / "environment.json", settings)
    studies = [Study(name, args.data, results) for name in args.tasks]
    # Seeds outermost: a study that is cut has all ways with fewer seeds.
    for study in studies:
        for label, way in WAYS.items():
            study.radius(label, way)
    for seed in range(1, args.seeds + 1):
        for study in studies:
            for label, way in WAYS.items():
                study.test(label, way, [seed])


if __name__ == "__main__":
    main()
