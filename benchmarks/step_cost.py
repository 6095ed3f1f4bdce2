"""What a training step costs: time, operations and memory.

For ResNet-20 and small KerasHub ViT and BERT classifiers, one step each of
plain Keras, a radius of zero, SAM, and layer-wise SAM at the last 50, 25 and
10 % of the layers, in turn, round after round, in one process. A time is the
median over the rounds of the ratio to plain Keras in the same round. The
legacy class of `tf_keras` runs along where it can. Peak memory is that of a
process of its own for each way.
"""

import argparse
import collections
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLUMNS = (
    "network",
    "way",
    "batch_size",
    "time_ratio",
    "time_ratio_quartiles",
    "milliseconds",
    "operations",
    "operation_ratio",
    "random_draws",
    "bar",
    "peak_megabytes",
)

WAYS = (
    "plain",
    "rho = 0",
    "SAM",
    "last 50%",
    "last 25%",
    "last 10%",
    "legacy tf_keras plain",
    "legacy tf_keras SAM",
)
LEGACY = WAYS[-2:]


def arguments(way):
    """Arguments of `LWSAMModel`; plain Keras has none."""
    from keras_lwsam import selection

    return {
        "plain": None,
        "rho = 0": {"rho": 0.0},
        "SAM": {"layers": "all"},
        "last 50%": {"layers": selection.OutputSide(0.5)},
        "last 25%": {"layers": selection.OutputSide(0.25)},
        "last 10%": {"layers": selection.OutputSide(0.1)},
    }[way]


def build(name, way):
    """A compiled model, or `None` where the way does not run."""
    import keras

    from benchmarks import networks
    from keras_lwsam import LWSAMModel

    if way in LEGACY:
        return legacy(way) if name == "resnet20" else None
    keras.utils.set_random_seed(0)
    network = networks.BUILDERS[name]()
    model = network
    if way != "plain":
        model = LWSAMModel(network, **arguments(way))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def legacy(way):
    """ResNet-20 under the class that stayed behind in `tf_keras`."""
    try:
        import tf_keras
    except ImportError:
        return None
    from benchmarks import networks

    network = networks.resnet20(keras=tf_keras)
    model = network
    if way.endswith("SAM"):
        wrap = tf_keras.models.experimental.SharpnessAwareMinimization
        model = wrap(network)
    model.compile(
        tf_keras.optimizers.SGD(0.01, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def stepper(model, x, y):
    """A function that takes one step, as `fit` does, and waits for it."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    iterator = iter(data)
    function = model.make_train_function() or model.train_function

    def step():
        logs = function(iterator)
        return float(logs["loss"])

    return step


def count(name, way, x, y):
    """Executed operations: convolutions and products, and random draws."""
    import keras

    from benchmarks import operations

    if way in LEGACY:
        return None
    counts = operations.executed(build(name, way), x, y)
    keras.utils.clear_session()
    products = sum(counts[kind] for kind in operations.PRODUCTS)
    return products, counts["random"]


def measure(name, batch_size, rounds):
    """Rows of results for one network."""
    from benchmarks import networks

    x, y = networks.batch(networks.BUILDERS[name](), batch_size)
    steps = {}
    for way in WAYS:
        model = build(name, way)
        if model is not None:
            steps[way] = stepper(model, x, y)
            for _ in range(3):
                steps[way]()
    seconds = collections.defaultdict(list)
    for _ in range(rounds):
        for way, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[way].append(time.perf_counter() - start)
    plain_operations, _ = count(name, "plain", x, y)
    for way in steps:
        ratios = [
            s / p for s, p in zip(seconds[way], seconds["plain"], strict=True)
        ]
        quartiles = statistics.quantiles(ratios, n=4)
        counted = count(name, way, x, y)
        ratio = counted[0] / plain_operations if counted else None
        yield {
            "network": name,
            "way": way,
            "batch_size": batch_size,
            "time_ratio": round(statistics.median(ratios), 3),
            "time_ratio_quartiles": f"{quartiles[0]:.3f}-{quartiles[2]:.3f}",
            "milliseconds": round(1e3 * statistics.median(seconds[way]), 1),
            "operations": counted[0] if counted else "",
            "operation_ratio": round(ratio, 3) if counted else "",
            "random_draws": counted[1] if counted else "",
            "bar": bar(way, ratio),
            "peak_megabytes": peak_memory(name, way, batch_size),
        }


def bar(way, operation_ratio):
    """The time ratio that the project holds itself to."""
    if way == "rho = 0":
        return 1.02
    if way == "SAM":
        return 2.05
    if way.startswith("last"):
        return round(operation_ratio + 0.04, 3)
    return ""


def peak_memory(name, way, batch_size):
    """Peak resident memory of three steps, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--memory"]
    done = subprocess.run(
        [*command, name, way, str(batch_size)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def print_peak_memory(name, way, batch_size):
    """What the process of `peak_memory` does."""
    from benchmarks import networks

    x, y = networks.batch(networks.BUILDERS[name](), batch_size)
    step = stepper(build(name, way), x, y)
    step()
    # Forgets the peak of building and tracing.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    print(int(line.split()[1]) // 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--networks", nargs="+", default=["resnet20", "vit", "bert"]
    )
    parser.add_argument(
        "--all-methods",
        action="store_true",
        help="count the passes of every method instead, without times",
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.all_methods:
        from benchmarks import method_cost

        method_cost.run(args.out)
        return
    if args.memory:
        name, way, batch_size = args.memory
        print_peak_memory(name, way, int(batch_size))
        return
    rows = []
    for name in args.networks:
        batch_size = 128 if name == "resnet20" else 64
        for row in measure(name, batch_size, args.rounds):
            rows.append(row)
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            if args.out:
                save(rows, args)


def save(rows, args):
    """Writes what there is so far."""
    from benchmarks import environment

    configuration = {"rounds": args.rounds, "mode": "graph", "device": "CPU"}
    environment.record(args.out, COLUMNS, rows, configuration)


if __name__ == "__main__":
    main()
