"""Layer-wise SAM next to SAM and plain SGD, on real data, in one command.

Trains a small convolutional network with BatchNorm on scikit-learn's
handwritten digits (they come with scikit-learn), with the same seeds and
epochs for each way of training. Prints one table and draws the gradient norm
of each layer over the epochs of the layer-wise run.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from small_task import build_network, layers_argument, load, positive

from keras_lwsam import LWSAMModel, callbacks

LABELS = {"sgd": "SGD", "sam": "SAM", "lwsam": "layer-wise SAM"}


def train(name, seed, data, args, report):
    """Trains one network; returns accuracy, seconds a step and the model."""
    (x_train, y_train), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    network = build_network(x_train.shape[1:], int(y_train.max()) + 1)
    model = {
        "sgd": lambda: network,
        "sam": lambda: LWSAMModel(network, layers="all", rho=args.rho),
        "lwsam": lambda: LWSAMModel(network, layers=args.layers, rho=args.rho),
    }[name]()
    steps = args.epochs * -(-len(x_train) // args.batch_size)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(args.learning_rate, steps),
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    timer = StepTimer()
    watchers = [timer, Progress(report, args.epochs)]
    if name == "lwsam":
        watchers.append(callbacks.LayerNormTracker())
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        callbacks=watchers,
        verbose=0,
    )
    accuracy = model.evaluate(
        x_test, y_test, batch_size=256, verbose=0, return_dict=True
    )["accuracy"]
    return accuracy, timer.seconds(), model, watchers[-1]


class StepTimer(keras.callbacks.Callback):
    """Median seconds of an epoch, after those that compile."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(time.perf_counter() - self._start)

    def seconds(self):
        return statistics.median(self.epochs[1:] or self.epochs)


class Progress(keras.callbacks.Callback):
    """One line that says where the whole comparison is."""

    def __init__(self, report, epochs):
        super().__init__()
        self.report, self.epochs = report, epochs

    def on_epoch_end(self, epoch, logs=None):
        self.report(epoch + 1, self.epochs, logs["loss"])


def progress(done, total, name, seed):
    """A function that shows the state of one run among all."""

    def report(epoch, epochs, loss):
        share = (done + epoch / epochs) / total
        bar = "#" * round(30 * share)
        text = f"{LABELS[name]}, seed {seed}, epoch {epoch}/{epochs}"
        line = f"[{bar:<30}] {share:4.0%}  {text}, loss {loss:.3f}"
        if sys.stdout.isatty():
            print(f"\r{line:<78}", end="", flush=True)
        elif epoch == epochs:
            print(line, flush=True)

    return report


def table(results):
    """The comparison, as lines of text."""
    baseline = statistics.median(seconds for _, seconds, _ in results["sgd"])
    lines = [
        f"{'':16}{'test accuracy':>18}{'time / SGD':>12}{'perturbed':>12}",
        "-" * 58,
    ]
    for name, runs in results.items():
        accuracies = [accuracy for accuracy, _, _ in runs]
        spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        ratio = statistics.median(s for _, s, _ in runs) / baseline
        mean = statistics.mean(accuracies)
        lines.append(
            f"{LABELS[name]:16}"
            f"{f'{mean:.2%} +- {spread:.2%}':>18}"
            f"{ratio:>12.2f}{runs[-1][2]:>12}"
        )
    return lines


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        metavar="PATH.npz",
        help="train on this file instead of the digits; it holds x_train, "
        "y_train, x_test, y_test (images, integer labels)",
    )
    parser.add_argument(
        "--layers",
        type=layers_argument,
        default=None,
        help="which layers layer-wise SAM perturbs: a number of layers, a "
        "share such as 0.25, or a layer path (default: the library's)",
    )
    parser.add_argument(
        "--rho",
        type=float,
        default=0.05,
        help="radius of the perturbation (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=20,
        help="passes over the training data (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        default=3,
        help="number of runs of each way of training (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=64,
        help="images in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.1,
        help="initial rate of the cosine schedule (default: %(default)s)",
    )
    parser.add_argument(
        "--plot",
        type=pathlib.Path,
        default=pathlib.Path("quickstart.png"),
        help="picture of the layers' gradient norms (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Runs the comparison."""
    args = parse(arguments)
    data = load(args.data)
    results = {name: [] for name in LABELS}
    total = args.seeds * len(results)
    # Seeds outside, ways inside: what else the machine does hits all alike.
    for seed in range(args.seeds):
        for name, runs in results.items():
            done = sum(len(r) for r in results.values())
            report = progress(done, total, name, seed)
            accuracy, seconds, model, watcher = train(
                name, seed, data, args, report
            )
            count = len(getattr(model, "selected_layers", ()))
            of = len(getattr(model, "layer_paths", ()))
            perturbed = f"{count} of {of}" if of else "none"
            runs.append((accuracy, seconds, perturbed))
    watcher.plot(args.plot)
    print("\n", *table(results), sep="\n")
    print(f"\nGradient norms of the layers: {args.plot}")


if __name__ == "__main__":
    main()
