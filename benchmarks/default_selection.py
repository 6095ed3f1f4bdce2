"""How many layers, chosen how often? The study behind the defaults.

Trains the quickstart's network on the digits and, with --fashion, on a part of
Fashion-MNIST: plain SGD, SAM, and layer-wise SAM with several numbers of
layers and refresh intervals, three seeds each. Accuracies are those on a
validation split of the training data. Each run is appended to results.csv as
it ends; runs that are there already are not repeated.
"""

import argparse
import csv
import itertools
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import environment
from examples.quickstart import build_network
from keras_lwsam import LWSAMModel, selection

COLUMNS = (
    "data",
    "setting",
    "rho",
    "seed",
    "accuracy",
    "loss",
    "epoch_seconds",
    "traces",
    "distinct_selections",
    "changes",
)

SETTINGS = {
    "sgd": None,
    "all": selection.All(),
    "largest 50%": selection.LargestGradientNorm(0.5),
    "largest 25%": selection.LargestGradientNorm(0.25),
    "largest 10%": selection.LargestGradientNorm(0.1),
    "largest 25%, every 20 steps": selection.LargestGradientNorm(0.25, 20),
    "largest 25%, by size": selection.LargestGradientNorm(
        0.25, normalize="size"
    ),
    "output side 25%": selection.OutputSide(0.25),
}
RADII = {"all": (0.05, 0.1), "largest 25%": (0.05, 0.1, 0.2)}


def digits():
    """Half of the digits to train on, half to validate."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    half = len(x) // 2
    return (x[order[:half]], y[order[:half]]), (
        x[order[half:]],
        y[order[half:]],
    )


def fashion(path, count=10_000):
    """The first images of Fashion-MNIST to train on, its last to validate."""
    with np.load(path) as data:
        x, y = data["x_train"], data["y_train"]
    x = (x[..., np.newaxis] / 255.0).astype("float32")
    return (x[:count], y[:count]), (x[-count:], y[-count:])


class Watch(keras.callbacks.Callback):
    """Notes the time of each epoch and the layers perturbed in it."""

    def on_train_begin(self, logs=None):
        self.seconds, self.selections = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)
        self.selections.append(
            tuple(getattr(self.model, "selected_layers", ()))
        )


def run(data, chosen, rho, seed, epochs):
    """One training run, as a dict of results."""
    (x, y), validation = data
    keras.utils.set_random_seed(seed)
    network = build_network(x.shape[1:], 10)
    model = network
    if chosen is not None:
        model = LWSAMModel(network, layers=chosen, rho=rho)
    steps = epochs * -(-len(x) // 64)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.1, steps),
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    watch = Watch()
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[watch])
    scores = model.evaluate(
        *validation, batch_size=500, verbose=0, return_dict=True
    )
    selections = watch.selections
    return {
        "accuracy": round(scores["accuracy"], 5),
        "loss": round(scores["loss"], 5),
        "epoch_seconds": round(statistics.median(watch.seconds[1:]), 4),
        "traces": getattr(model, "trace_count", 1),
        "distinct_selections": len(set(selections)),
        "changes": sum(a != b for a, b in itertools.pairwise(selections)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion", metavar="PATH.npz")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.csv"
    done = set()
    if results.exists():
        with open(results, newline="") as file:
            done = {
                (r["data"], r["setting"], r["rho"], r["seed"])
                for r in csv.DictReader(file)
            }
    else:
        with open(results, "w", newline="") as file:
            csv.DictWriter(file, COLUMNS).writeheader()
    tasks = {"digits": (digits(), 30)}
    if args.fashion:
        tasks["fashion"] = (fashion(args.fashion), 10)
    environment.write(
        args.out / "environment.json",
        {"seeds": args.seeds, "epochs": {k: v[1] for k, v in tasks.items()}},
    )
    for name, (data, epochs) in tasks.items():
        for seed in range(args.seeds):
            for setting, chosen in SETTINGS.items():
                for rho in RADII.get(setting, (0.05,)):
                    if (name, setting, str(rho), str(seed)) in done:
                        continue
                    row = {
                        "data": name,
                        "setting": setting,
                        "rho": rho,
                        "seed": seed,
                        **run(data, chosen, rho, seed, epochs),
                    }
                    with open(results, "a", newline="") as file:
                        csv.DictWriter(file, COLUMNS).writerow(row)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
