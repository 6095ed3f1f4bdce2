"""SAMPa on two devices: one gradient each, at the same time.

Two processes, each pinned to one processor core, train ResNet-20 in five ways,
round after round: SGD, SAM and SAMPa on one core (both processes do so at once,
each by itself, so that the machine is as busy as otherwise), and SGD and SAMPa
on both under `tf.distribute.MultiWorkerMirroredStrategy`, on the same global
batch. A time is the median over the rounds of the ratio to SGD on one core in
the same round, of the slower process.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from examples.multi_worker import free_ports

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WAYS = {
    "SGD, one core": (None, False),
    "SAM, one core": ("sam", False),
    "SAMPa, one core": ("sampa", False),
    "SGD, two cores": (None, True),
    "SAMPa, two cores": ("sampa", True),
}
STEPS = 4
MODULE = "benchmarks.sampa_on_two"


def build(strategy, method):
    """ResNet-20, plain or wrapped, compiled under a strategy."""
    import keras

    from benchmarks import networks
    from keras_lwsam import LWSAMModel

    with strategy.scope():
        network = networks.resnet20()
        # A radius of zero is plain Keras, which cannot span workers itself.
        model = LWSAMModel(
            network, method or "sam", rho=None if method else 0.0, layers="all"
        )
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    return model


def work(args):
    """One of the two processes: trains in turn, and writes its seconds."""
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    import tensorflow as tf

    both = tf.distribute.MultiWorkerMirroredStrategy()
    import keras

    from benchmarks import networks

    class Timer(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seconds = []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.seconds.append(time.perf_counter() - self.start)

    timer = Timer()
    models = {
        way: build(both if on_two else tf.distribute.get_strategy(), method)
        for way, (method, on_two) in WAYS.items()
    }
    x, y = networks.batch(models["SGD, one core"].model, args.batch_size)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    with open(args.out / f"worker_{index}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", *WAYS])
        for number in range(args.rounds + 1):
            row = []
            for model in models.values():
                model.fit(
                    data,
                    steps_per_epoch=STEPS,
                    shuffle=False,
                    verbose=0,
                    callbacks=[timer],
                )
                # The first step of each turn fills the pipeline.
                row.append(statistics.median(timer.seconds[1:]))
            # The first round compiles.
            if number:
                writer.writerow([number, *(f"{s:.4f}" for s in row)])
                file.flush()


def start(args):
    """Starts both processes and waits for them."""
    args.out.mkdir(parents=True, exist_ok=True)
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.sampa_on_two",
                    *sys.argv[1:],
                ],
                env={**os.environ, "TF_CONFIG": config},
            )
        )
    if any(process.wait() for process in processes):
        sys.exit("A process failed.")


def summarize(folder, baseline="SGD, one core"):
    """Writes and prints the medians of the ratios."""
    tables = []
    for index in range(2):
        with open(folder / f"worker_{index}.csv") as file:
            tables.append(list(csv.DictReader(file)))
    rounds = [
        {way: max(float(row[way]) for row in rows) for way in WAYS}
        for rows in zip(*tables, strict=True)
    ]
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "time_ratio", "quartiles", "milliseconds"])
        for way in WAYS:
            ratios = [row[way] / row[baseline] for row in rounds]
            quartiles = statistics.quantiles(ratios, n=4)
            seconds = statistics.median(row[way] for row in rounds)
            row = (
                way,
                f"{statistics.median(ratios):.3f}",
                f"{quartiles[0]:.3f}-{quartiles[2]:.3f}",
                f"{1e3 * seconds:.0f}",
            )
            print(*row)
            writer.writerow(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        work(args)
        return
    from benchmarks import environment

    start(args)
    environment.write(
        args.out / "environment.json",
        {
            "rounds": args.rounds,
            "steps_in_a_round": STEPS,
            "batch_size": args.batch_size,
            "mode": "graph",
            "device": "two processes, one CPU core each",
        },
    )
    summarize(args.out)


if __name__ == "__main__":
    main()
