"""What choosing the layers again costs over a whole training run.

ResNet-20 for images of 32 x 32 x 3 under the default of `LWSAMModel`, a quarter
of the layers chosen anew in each epoch, in graph mode and in XLA. Two things
cost: to decide, each epoch; and to trace and compile the step of a set of
layers that was not perturbed before. The first is timed by itself, the second
by how much longer than the median the epoch's first step takes, and its last:
XLA compiles a smaller last batch by itself. The first set of layers does not
count: plain Keras traces and compiles a step, too.

Neither depends on the number of images, and the time of a step does not either:
so a run on few images tells what it is on many, if as many sets of layers are
chosen. `--images 50000` measures even that. By default an epoch has 2,000,
whose last batch of 128 is as large as that of 50,000. The share is that of this
machine: where steps take less time and compiling does not, as on a GPU, it is
larger.

Rows are written epoch by epoch. A run that is started again goes on, and counts
no set of layers twice.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import environment, networks, tasks, training
from keras_lwsam import LWSAMModel, callbacks

EPOCH_COLUMNS = (
    "mode",
    "epoch",
    "images",
    "steps",
    "deciding_seconds",
    "compiling_seconds",
    "step_seconds",
    "epoch_seconds",
    "trace_count",
    "is_new",
    "selected",
)
COLUMNS = (
    "mode",
    "images",
    "epochs",
    "selections",
    "traces",
    "deciding_seconds",
    "first_compiling_seconds",
    "compiling_seconds",
    "median_compiling_seconds",
    "median_compiling_steps",
    "median_step_seconds",
    "training_seconds",
    "share",
    "bar",
)
MODES = {"graph": False, "XLA": True}
BATCH_SIZE = 128
CIFAR10 = 50_000
BAR = 0.02


def load(path, count):
    """Images of 32 x 32 x 3 in [-0.5, 0.5], and labels.

    Args:
        path: A file with `x_train` and `y_train`, images of 28 x 28 or
            32 x 32; `None`: the digits of scikit-learn, enlarged.
        count: How many; as many as there are, again and again if need be.
    """
    if path is None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2) / 16.0
    else:
        with np.load(path) as data:
            x, y = data["x_train"] / 255.0, data["y_train"].reshape(-1)
    chosen = np.arange(count) % len(x)
    x = x[chosen].astype("float32") - 0.5
    if x.ndim == 3:
        x = x[..., np.newaxis].repeat(3, axis=-1)
    margin = (32 - x.shape[1]) // 2
    margins = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    x = np.pad(x, margins, constant_values=-0.5)
    return x, y[chosen].astype("int32")


def compiled(mode, steps):
    """The model, with an optimizer for a run of so many steps."""
    keras.utils.set_random_seed(0)
    model = LWSAMModel(networks.resnet20())
    model.compile(
        tasks.momentum_sgd(0.1, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=MODES[mode],
    )
    return model


class Watch(keras.callbacks.Callback):
    """Times decisions, steps and epochs, and writes a row for each epoch.

    Args:
        mode: One of `MODES`.
        images: Number of images in an epoch.
        results: A `training.Results`.
    """

    def __init__(self, mode, images, results):
        super().__init__()
        self._key = {"mode": mode, "images": images}
        self._last_share = (images % BATCH_SIZE or BATCH_SIZE) / BATCH_SIZE
        self._results = results
        self._deciding = 0.0

    def watch(self, model):
        """Times how `model` decides: before `fit` calls any callback."""
        decide = model._training.refresh

        def timed():
            start = time.perf_counter()
            decide()
            self._deciding += time.perf_counter() - start

        model._training.refresh = timed

    def on_epoch_begin(self, epoch, logs=None):
        # The layers have been chosen: `fit` does so before all callbacks.
        self._decided, self._deciding = self._deciding, 0.0
        self._steps = []
        self._began = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        self._step_began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._steps.append(time.perf_counter() - self._step_began)

    def on_epoch_end(self, epoch, logs=None):
        lasted = time.perf_counter() - self._began
        if self._results.find(**self._key, epoch=epoch):
            return  # The run was stopped before this epoch was backed up.
        paths, chosen = self.model.layer_paths, self.model.selected_layers
        selected = " ".join(str(paths.index(path)) for path in chosen)
        first, *others, last = self._steps
        usual = statistics.median(others)
        compiling = max(0.0, first - usual)
        compiling += max(0.0, last - usual * self._last_share)
        is_new = not self._results.find(**self._key, selected=selected)
        self._results.add(
            {
                **self._key,
                "epoch": epoch,
                "steps": len(self._steps),
                "deciding_seconds": round(self._decided, 5),
                "compiling_seconds": round(compiling, 3) if is_new else 0.0,
                "step_seconds": round(usual, 4),
                "epoch_seconds": round(lasted + self._decided, 3),
                "trace_count": self.model.trace_count,
                "is_new": int(is_new),
                "selected": selected,
            }
        )
        print(self._results.rows[-1], flush=True)


def train(mode, data, epochs, folder, results):
    """Trains what is left of a run."""
    x, y = data
    done = results.find(mode=mode, images=len(x))
    if len(done) >= epochs:
        return
    model = compiled(mode, epochs * -(-len(x) // BATCH_SIZE))
    watch = Watch(mode, len(x), results)
    watch.watch(model)
    backup = callbacks.BackupAndRestore(folder / f"backup_{mode}_{len(x)}")
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[watch, backup],
    )
    keras.utils.clear_session(free_memory=True)


def summaries(rows):
    """What a run cost: as it was, and with as many images as CIFAR-10 has."""
    new = [float(r["compiling_seconds"]) for r in rows if r["is_new"] == "1"]
    steps = [float(r["step_seconds"]) for r in rows]
    deciding = sum(float(r["deciding_seconds"]) for r in rows)
    first, *later = new
    cost = deciding + sum(later)
    measured = sum(float(r["epoch_seconds"]) for r in rows)
    extrapolated = CIFAR10 / BATCH_SIZE * sum(steps) + first + cost
    images = rows[0]["images"]
    for count, whole in (
        (images, measured),
        (f"{CIFAR10} (extrapolated)", extrapolated),
    ):
        yield {
            "mode": rows[0]["mode"],
            "images": count,
            "epochs": len(rows),
            "selections": len({r["selected"] for r in rows}),
            "traces": len(new),
            "deciding_seconds": round(deciding, 4),
            "first_compiling_seconds": round(first, 2),
            "compiling_seconds": round(sum(later), 2),
            "median_compiling_seconds": round(statistics.median(new), 2),
            "median_compiling_steps": round(
                statistics.median(new) / statistics.median(steps), 1
            ),
            "median_step_seconds": round(statistics.median(steps), 4),
            "training_seconds": round(whole, 1),
            "share": round(cost / whole, 5),
            "bar": BAR,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder to write to"
    )
    parser.add_argument(
        "--data", type=pathlib.Path, help=".npz file with x_train, y_train"
    )
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    args = parser.parse_args()
    if args.images < 3 * BATCH_SIZE:
        parser.error(f"--images must be at least {3 * BATCH_SIZE}")
    data = load(args.data, args.images)
    epochs = training.Results(args.out / "epochs.csv", EPOCH_COLUMNS)
    for mode in args.modes:
        train(mode, data, args.epochs, args.out, epochs)
        runs = [epochs.find(mode=mode, images=args.images) for mode in MODES]
        table = [row for rows in runs if rows for row in summaries(rows)]
        configuration = {
            "network": "ResNet-20",
            "data": args.data.name if args.data else "digits",
            "batch_size": BATCH_SIZE,
            "device": "CPU",
        }
        environment.record(args.out, COLUMNS, table, configuration)
    for row in table:
        print(*(f"{k}={v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
